"""How a network is trained for a panel: the study's way, and others with rows of their own."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_rram.faults import FaultModel
from keras_rram.layers import DropConnect, faulty_layers
from keras_rram.training.loop import TrainingResult, train
from keras_rram.training.recipes import RECIPES, Recipe

STUDY = "study"


def _the_panels(recipe: Recipe) -> Recipe:
    return recipe


def _as_built(model: keras.Model, fault_model: FaultModel, seed: int) -> keras.Model:
    del fault_model, seed
    return model


@dataclass(frozen=True)
class Method:
    """A way of training that has a row in each panel it is run for.

    Attributes:
        title: in a few words, for tables.
        train: has the signature of `keras_rram.training.train`, and may add callbacks to those
            it is given.
        prepare: takes the panel's untrained model, what its chips are drawn from and the seed, and
            returns the model to train; it must give equal layers when called again.
        options: arguments of the panel's builder, beside the panel's own.
        recipe: takes the panel's recipe and returns the one that `train` is given.
        instead_of: names of the methods that it is compared with.
    """

    title: str
    train: Callable[..., TrainingResult] = train
    prepare: Callable[[keras.Model, FaultModel, int], keras.Model] = _as_built
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: Callable[[Recipe], Recipe] = _the_panels
    instead_of: tuple[str, ...] = (STUDY,)


def _several_masks(model: keras.Model, fault_model: FaultModel, seed: int) -> keras.Model:
    """Gives each batch eight masks, one for each of its parts."""
    del fault_model, seed
    for layer in faulty_layers(model).values():
        held = layer.drop_connect
        layer.drop_connect = DropConnect(held.rate, held.rescale, held.seed, held.noise, masks=8)
    return model


def _ending_on_fixed_statistics(recipe: Recipe) -> Recipe:
    """The last three of eight epochs are on the population's statistics."""
    last = max(1, round(0.375 * recipe.epochs))
    return dataclasses.replace(recipe, statistics_epochs=last, gradient_clip=1.0)


def _at_all_rates(recipe: Recipe) -> Recipe:
    """The drop rate is drawn anew in each step."""
    return dataclasses.replace(recipe, drop_rates="uniform")


def _by_muon(recipe: Recipe) -> Recipe:
    """The optimizer, its rates and decay are others; batches and epochs are the panel's."""
    return dataclasses.replace(
        RECIPES["cifar10_muon"], batch_size=recipe.batch_size, epochs=recipe.epochs
    )


METHODS: dict[str, Method] = {
    STUDY: Method("as the study trains", instead_of=()),
    "fixed_statistics": Method(
        "centred inputs, fixed statistics",
        recipe=_ending_on_fixed_statistics,
        options={"centered_inputs": True},
    ),
    "masks": Method("eight masks a batch", prepare=_several_masks),
    "masks_fixed_statistics": Method(
        "eight masks a batch, centred inputs, fixed statistics",
        recipe=_ending_on_fixed_statistics,
        prepare=_several_masks,
        options={"centered_inputs": True},
        instead_of=(STUDY, "masks", "fixed_statistics"),
    ),
    "muon": Method("Muon", recipe=_by_muon),
    "masks_muon": Method(
        "eight masks a batch, Muon",
        recipe=_by_muon,
        prepare=_several_masks,
        instead_of=(STUDY, "masks"),
    ),
    "instance": Method("instance normalization", options={"normalization": "instance"}),
    "instance_uniform": Method(
        "instance normalization, all rates",
        recipe=_at_all_rates,
        options={"normalization": "instance"},
        instead_of=(STUDY, "instance"),
    ),
    "masks_instance_uniform": Method(
        "instance normalization, eight masks a batch, all rates",
        recipe=_at_all_rates,
        prepare=_several_masks,
        options={"normalization": "instance"},
        instead_of=(STUDY, "instance_uniform"),
    ),
}
"""By name. A method is one entry here; its runs compare with those of the same epochs."""
