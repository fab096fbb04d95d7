"""Placements of one model on the same chips and the same images."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np

from keras_rram.chips import Chip
from keras_rram.data import check_classes, check_images, check_labels
from keras_rram.evaluation.statistics.intervals import (
    QUESTIONS,
    ROUNDING,
    Interval,
    alike_interval,
    effective_df,
    t_interval,
)
from keras_rram.evaluation.statistics.two_way import two_way_interval
from keras_rram.layers import is_binary
from keras_rram.placement.stages import Moments, StagedNetwork, State, pooled
from keras_rram.placement.walk import Placement, walk
from keras_rram.repair import Tier

Statistics = Literal["model", "placement", "chip"]
"""Where normalizations have their statistics from, see `Bench`."""
TIERS: dict[str, Tier] = {"model": "A", "placement": "A", "chip": "B"}
"""Access tier of each."""
HEALTHY: Placement = frozenset()
"""Nothing on faulty hardware."""

Answers = list[np.ndarray]
"""Right or wrong for each image of each chip."""


class Bench:
    """Evaluates placements of one model: which of its Drop-Connect layers are faulty.

    All placements meet the same chips and the same images, so that their differences are paired.
    A chip's faults of a layer do not depend on the placement.

    Moving statistics fit the weights that they were gathered on. A model that was trained with
    every layer dropped does not fit a placement that has half of them exact, so there are three
    ways:

    - "model": those of the file, for every placement (access tier A).
    - "placement": gathered anew for each placement, over chips of a stream of their own and
      training images, as `gather_statistics` does: `mean = E[mean]`, `variance = E[variance] +
      Var[mean]` over the chips. One model for all chips of that placement (tier A).
    - "chip": gathered anew on each chip, from unlabelled training images (tier B), as
      `recalibrate_batch_norm` does with one batch; `CenteredInput` stays as it is.

    Args:
        network: the model in stages.
        chips: the chips, at least two.
        data: images `(n, ...)`, preprocessed as for the model, and labels `(n,)`: classes, or 0
            and 1 of a model with one sigmoid.
        images_per_chip: images of each chip, its own: no other chip answers them. Over pairs of
            a chip and its images Student's interval counts both. None: all chips answer all images,
            and intervals are two-way.
        statistics: see above.
        calibration: training images, for "placement" and "chip".
        gathering: chips that "placement" gathers over, of another stream than `chips`.

    Raises:
        ValueError: if the arguments do not fit.
    """

    def __init__(
        self,
        network: StagedNetwork,
        chips: Sequence[Chip],
        data: tuple[Any, Any],
        images_per_chip: int | None = None,
        statistics: Statistics = "model",
        calibration: np.ndarray | None = None,
        gathering: Sequence[Chip] = (),
    ):
        self.network, self.chips, self.statistics = network, tuple(chips), statistics
        self.images = check_images(network.model, data[0], "images")
        self.labels = check_labels(np.asarray(data[1]), len(self.images), "labels")
        self._is_binary = is_binary(network.model)
        check_classes(network.model, self.labels, is_binary=self._is_binary)
        if statistics not in get_args(Statistics):
            raise ValueError(
                f"expected statistics as one of {get_args(Statistics)}. Received: {statistics!r}"
            )
        if len(self.chips) < 2:
            raise ValueError(f"expected at least 2 chips. Received: {len(self.chips)}")
        if statistics != "model":
            network.check_statistics()
        if (statistics == "model") != (calibration is None):
            raise ValueError(
                "expected `calibration`, training images, with statistics='placement' or 'chip' "
                f"and only then. Received: statistics={statistics!r}, calibration "
                f"{'missing' if calibration is None else 'given'}"
            )
        if (statistics == "placement") != bool(gathering):
            raise ValueError(
                "expected `gathering`, chips, with statistics='placement' and only then. Received: "
                f"statistics={statistics!r}, {len(gathering)} chips"
            )
        self._calibration = None
        if calibration is not None:
            self._calibration = check_images(network.model, calibration, "calibration images")
        self._gathering = tuple(gathering)
        if set(map(_identity, self.chips)) & set(map(_identity, self._gathering)):
            raise ValueError("expected `gathering` of other chips than `chips`.")
        self.is_crossed = images_per_chip is None
        self.folds = _folds(self.labels, len(self.chips), images_per_chip)
        # (stage, what is faulty in front of it) -> statistics.
        self._known: dict[tuple[int, Placement], Moments] = {}

    @property
    def tier(self) -> Tier:
        """The access tier."""
        return TIERS[self.statistics]

    def answers(
        self,
        placements: Iterable[Placement],
        chips: range | None = None,
        progress: Callable[[], object] | None = None,
    ) -> dict[Placement, Answers]:
        """Returns what every placement answers.

        Args:
            placements: sets of layers on faulty hardware, each a part of `network.layers`.
            chips: which of the chips; None for all.
            progress: called after each chip.

        Returns:
            By placement the answers of each chip, boolean.

        Raises:
            ValueError: if a layer is unknown.
        """
        unique = list(dict.fromkeys(map(frozenset, placements)))
        for placement in unique:
            if unknown := sorted(placement - set(self.network.layers)):
                raise ValueError(
                    f"expected layers out of {list(self.network.layers)}. Received: {unknown}"
                )
        found: dict[Placement, Answers] = {placement: [] for placement in unique}
        with self.network.in_use():
            if self.statistics == "placement":
                self._gather(unique)
            for index in range(len(self.chips)) if chips is None else chips:
                self._answer(index, unique, found)
                if progress is not None:
                    progress()
        return found

    def interval(self, answers: Answers, less: Answers | None = None) -> Interval:
        """Returns the interval of the mean accuracy, or of its difference to another placement's.

        Args:
            answers: from `answers`.
            less: those of the other placement, of the same chips.
        """
        scale: Any = "logit" if less is None else "raw"
        rows = [one.astype(np.int8) for one in answers]
        if less is not None:
            rows = [one - other for one, other in zip(rows, less, strict=True)]
        if self.is_crossed:
            return two_way_interval(np.stack(rows), scale=scale)
        return own_images_interval(np.array([row.mean() for row in rows]), rows[0].size, scale)

    def _gather(self, placements: Sequence[Placement]) -> None:
        """Gathers the statistics that are not known yet, all chips side by side."""
        images = self._calibration
        if images is None:
            return
        fronts = {(n, p & self._before(n)) for p in placements for n in self._normalizing()}
        if fronts <= self._known.keys():
            return

        def normalize(place: int, front: Placement, states: Sequence[State]) -> None:
            stage = self.network.stages[place]
            if (place, front) not in self._known:
                parts = [stage.moments(state) for state in states]
                self._known[place, front] = pooled(parts)
            stage.assign(self._known[place, front])

        faults = [chip.faults(self.network.model) for chip in self._gathering]
        parts = np.array_split(images, len(faults)) if len(images) >= len(faults) else [images]
        states = [self.network.begin(parts[n % len(parts)]) for n in range(len(faults))]
        walk(self.network, states, faults, placements, lambda *_: None, normalize)

    def _answer(
        self, index: int, placements: Sequence[Placement], found: dict[Placement, Answers]
    ) -> None:
        network, count = self.network, 0
        own = self.folds[index]
        images, normalize = self.images[own], None
        if self.statistics == "chip" and self._calibration is not None:
            count = len(self._calibration)
            images = np.concatenate([self._calibration, images])
        elif self.statistics == "placement":

            def normalize(place: int, front: Placement, states: Sequence[State]) -> None:
                network.stages[place].assign(self._known[place, front])

        def done(placement: Placement, states: Sequence[State]) -> None:
            outputs = network.outputs(states[0])[count:]
            said = outputs[:, 0] > 0.5 if self._is_binary else outputs.argmax(-1)
            found[placement].append(said == self.labels[own])

        faults = [self.chips[index].faults(network.model)]
        walk(network, [network.begin(images)], faults, placements, done, normalize, count)

    def _normalizing(self) -> list[int]:
        stages = enumerate(self.network.stages)
        return [number for number, stage in stages if stage.normalization is not None]

    def _before(self, number: int) -> Placement:
        return frozenset(name for one in self.network.stages[:number] for name in one.faulty)


def own_images_interval(values: np.ndarray, images: int, scale: Any = "raw") -> Interval:
    """Interval of a mean over chips each of which answered images of its own.

    Chips and images are drawn together, independently from one pair to the next, so that the
    spread of the pairs counts both: Student's interval, its degrees of freedom lowered for heavy
    tails (`effective_df`).

    Args:
        values: accuracy or difference of each chip, shape (chips,).
        images: images of each chip.
        scale: "logit" for accuracies, "raw" for differences.
    """
    count, mean = values.size, float(values.mean())
    variance = float(values.var(ddof=1)) / count
    question = QUESTIONS["new"]
    if variance < ROUNDING:
        return alike_interval(mean, count, 0.95, scale, question)
    df = effective_df(values - mean)
    method = f"each chip on images of its own, t({df:.1f})"
    return t_interval(mean, variance, df, count * images, 0.95, scale, question, method)


def _folds(labels: np.ndarray, chips: int, images: int | None) -> list[np.ndarray]:
    """Returns which images each chip answers, every class with its share."""
    if images is None:
        return [np.arange(len(labels))] * chips
    if images < 2 or chips * images > len(labels):
        raise ValueError(
            f"expected images_per_chip from 2 to {len(labels) // chips}, as {chips} chips share "
            f"{len(labels)} images. Received: {images}"
        )
    order = np.lexsort((np.random.default_rng(0).random(len(labels)), labels))
    part = order[np.linspace(0, len(labels) - 1, chips * images).round().astype(int)]
    return [np.sort(part[chip::chips]) for chip in range(chips)]


def _identity(chip: Chip) -> Any:
    return (chip.stream, chip.seed, chip.index) if chip.measured is None else id(chip)
