"""A new chip every few training steps."""

import keras
import numpy as np
import pytest

from keras_rram import Chip, FreshChips, faulty_layers, population
from keras_rram.faults import StuckCells, parse
from keras_rram.training import ChipValidation
from tests.helpers import tiny_images, tiny_model, to_numpy

ROWS = "row_faults:rate=0.3,tile=8x8"


class Seen(keras.callbacks.Callback):
    """Keeps the masks at the end of each training step, and those of validation."""

    def __init__(self):
        super().__init__()
        self.steps, self.tests = [], []

    def masks(self):
        return masks(self.model)

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(self.masks())

    def on_test_batch_end(self, batch, logs=None):
        self.tests.append(self.masks())


def masks(model):
    """Layer and kernel -> mask."""
    return {
        f"{name}/{slot}": to_numpy(mask)
        for name, layer in faulty_layers(model).items()
        for slot, mask in layer.fault_masks.items()
    }


def kernels(model):
    return {
        f"{name}/{slot}": to_numpy(kernel)
        for name, layer in faulty_layers(model).items()
        for slot, kernel in layer.kernels.items()
    }


def fitted(callback, epochs=2, drop=0.2, **options):
    """Six steps an epoch."""
    images, labels = tiny_images(24)
    model, seen = tiny_model(drop), Seen()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    model.fit(
        images,
        labels,
        batch_size=4,
        epochs=epochs,
        verbose=0,
        callbacks=[callback, seen],
        validation_data=(images, labels),
        **options,
    )
    return model, seen


@pytest.mark.parametrize("every", [1, 4])
def test_the_chip_of_each_step_is_that_of_its_number(every):
    model, seen = fitted(FreshChips(ROWS, every=every, seed=5))
    assert len(seen.steps) == 12
    for step, found in enumerate(seen.steps):
        faults = Chip(parse(ROWS), seed=5, index=step // every, stream="training").faults(model)
        assert set(found) == set(faults)
        for name, mask in found.items():
            np.testing.assert_array_equal(mask, faults[name].mask)
    assert any((mask == 0).any() for mask in seen.steps[0].values())


def test_no_chip_of_training_is_one_of_validation_or_evaluation():
    """With the defaults all three have seed 0."""
    model, seen = fitted(FreshChips(ROWS))
    images, labels = tiny_images(24)
    validation = ChipValidation(images, labels, parse(ROWS), chips=12).chips
    for chip in [*population(parse(ROWS), 12), *validation]:
        faults = chip.faults(model)
        for found in seen.steps:
            assert any((found[name] != fault.mask).any() for name, fault in faults.items())
    assert not set(validation) & set(population(parse(ROWS), 12))
    gathered = FreshChips(ROWS).chips(12)  # what fixed statistics are gathered over
    assert not set(gathered) & {*validation, *population(parse(ROWS), 12)}


def test_validation_and_the_trained_model_have_no_chip():
    model, seen = fitted(FreshChips(ROWS))
    for found in [*seen.tests, masks(model)]:
        assert all((mask == 1).all() for mask in found.values())


class CtrlC(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


def test_the_next_training_takes_out_what_an_interrupted_one_left():
    """Keras tells callbacks nothing of an interrupt."""
    images, labels = tiny_images(24)
    model = tiny_model(0.0)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(KeyboardInterrupt):
        model.fit(images, labels, verbose=0, callbacks=[FreshChips(ROWS), CtrlC()])
    assert any((mask == 0).any() for mask in masks(model).values())
    model.fit(images, labels, verbose=0, callbacks=[FreshChips(ROWS)])
    assert all((mask == 1).all() for mask in masks(model).values())


def test_training_that_goes_on_has_the_chips_of_its_steps():
    _, whole = fitted(FreshChips(ROWS, every=4))
    _, rest = fitted(FreshChips(ROWS, every=4), initial_epoch=1)
    assert len(rest.steps) == 6
    for here, there in zip(rest.steps, whole.steps[6:], strict=True):
        for name in here:
            np.testing.assert_array_equal(here[name], there[name])


def test_weights_that_the_chip_lost_are_not_trained():
    """One chip for all steps: gradients of lost weights are zero, and the stored ones stay."""
    before = kernels(tiny_model(0.0))
    model, seen = fitted(FreshChips(ROWS, every=100), drop=0.0)
    for name, kept in kernels(model).items():
        # Validation takes the chip out, and the second epoch goes on with the same one.
        lost = seen.steps[0][name] == 0
        np.testing.assert_array_equal(kept[lost], before[name][lost])
        assert (kept[~lost] != before[name][~lost]).any()


def test_cells_stuck_on_add_offsets_and_train():
    model, _ = fitted(FreshChips(StuckCells(0.05, 0.02), every=2))
    assert all(np.isfinite(kernel).all() for kernel in kernels(model).values())
    for layer in faulty_layers(model).values():
        assert not any(to_numpy(offset).any() for offset in layer.fault_offsets.values())


def test_bad_arguments_are_errors():
    with pytest.raises(ValueError, match="`every` must be"):
        FreshChips(ROWS, every=0)
    with pytest.raises(ValueError, match="no fault model"):
        FreshChips("rows")
    with pytest.raises(ValueError, match="seed"):
        FreshChips(ROWS, seed=-1)
