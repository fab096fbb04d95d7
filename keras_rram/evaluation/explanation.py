"""Why a chip is bad: the steps from the Keras model to it, and what it does to each layer."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_rram.chips.chip import Chip, Programmed, check_chip, program
from keras_rram.evaluation.engines.keras import KerasEngine
from keras_rram.evaluation.engines.protocol import Task
from keras_rram.evaluation.layer_effects import LayerEffect, layer_effects
from keras_rram.evaluation.measure import Metric
from keras_rram.evaluation.population import check_data
from keras_rram.export.kernel_levels import quantize_levels
from keras_rram.faults import CellMapping, Fault, spec
from keras_rram.faults.beginnings import beginnings
from keras_rram.faults.cells import MAPPINGS
from keras_rram.hardware.arrays import to_analog
from keras_rram.hardware.periphery import Analog
from keras_rram.hardware.precision import quantize_to_cells
from keras_rram.layers import faulty_layers, to_drop_connect
from keras_rram.repair import BatchNormRecalibration, Repair, describe_repair
from keras_rram.repair.batch_norm import normalizations


@dataclass(frozen=True)
class Step:
    """One step from the Keras model to the chip.

    Attributes:
        name: what is added, "converters".
        detail: how, in words.
        accuracy: accuracy with this and all steps before, in [0, 1]; the score under another
            measure.
    """

    name: str
    detail: str
    accuracy: float


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; `print` it for two tables and a verdict.

    Attributes:
        model: the model's name.
        chip: the chip in words.
        images: number of images that answered.
        measure: what says how good the model is.
        higher_is_better: whether a larger score is a better one.
        has_statistics: whether the model has batch normalization, whose statistics can be renewed.
        steps: from the Keras model to the chip, a repair last; each adds to those before.
        layers: the layers on faulty hardware, in the order of the model.
    """

    model: str
    chip: str
    images: int
    measure: str
    higher_is_better: bool
    has_statistics: bool
    steps: tuple[Step, ...]
    layers: tuple[LayerEffect, ...]

    @property
    def healthy(self) -> float:
        """Accuracy of the Keras model that was given."""
        return self.steps[0].accuracy

    @property
    def on_chip(self) -> float:
        """Accuracy on the chip, not repaired."""
        return next(step.accuracy for step in reversed(self.steps) if step.name != "repair")

    @property
    def repaired(self) -> float | None:
        """Accuracy after the repair; None without one."""
        return self.steps[-1].accuracy if self.steps[-1].name == "repair" else None

    @property
    def worst_layer(self) -> LayerEffect:
        """The layer whose faults cost most where all other layers are healthy."""
        sign = 1 if self.higher_is_better else -1
        return min(self.layers, key=lambda one: sign * one.alone)

    @property
    def verdict(self) -> str:
        """What breaks and whether the statistics can mend it, in a few sentences."""
        sign = 1 if self.higher_is_better else -1
        lost = sign * (self.healthy - self.on_chip)
        if lost <= 0:
            return "Nothing is lost: the chip does as well as the Keras model."
        worst = self.worst_layer
        alone = sign * (self.before_faults - worst.alone)
        found = f"The chip loses {self._difference(lost)}. "
        if alone > 0:
            found += (
                f"By its faults alone, layer '{worst.layer}' costs {self._difference(alone)}, the "
                "most of any layer. "
            )
        else:
            found += "No layer's faults cost anything alone: it is their sum. "
        if self.repaired is None and self.has_statistics:
            return found + "No repair was tried: give calibration images to see what one mends."
        if self.repaired is None:
            return found + "The model has no batch normalization whose statistics could mend it."
        back = sign * (self.repaired - self.on_chip)
        share = back / lost
        return found + (
            f"The repair gives back {self._difference(back)} ({min(share, 1.0):.0%} of it): "
            + (
                "shift and scale of the outputs were most of what was wrong."
                if share > 0.5
                else "shift and scale of the outputs were the smaller part of what was wrong."
            )
        )

    @property
    def before_faults(self) -> float:
        """Accuracy of the last step before any fault."""
        names = [step.name for step in self.steps]
        return self.steps[names.index("faults") - 1].accuracy

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields and the verdict as plain values."""
        return {**dataclasses.asdict(self), "verdict": self.verdict}

    def __str__(self) -> str:
        """Returns the two tables and the verdict."""
        lines = [f"{self.model} on {self.chip}, {self.images:,} images ({self.measure})"]
        before = self.healthy
        for step in self.steps:
            lines.append(
                f"{step.name:<14} {self._shown(step.accuracy):>8} "
                f"{self._change(step.accuracy - before):>8}  {step.detail}"
            )
            before = step.accuracy
        heads = f"{'faulty':>7} {'shift':>7} {'scale':>7} {'lost':>7} {'alone':>8}"
        lines += ["", f"{'layer':<28} {'role':<10} {heads}"]
        for one in self.layers:
            lines.append(
                f"{one.layer:<28} {one.role:<10} {one.rate:>7.1%} {one.shift:>7.2f} "
                f"{one.scale:>7.2f} {one.lost:>7.1%} {self._shown(one.alone):>8}"
            )
        lines += [
            "shift: of a channel's mean, in its healthy deviations; scale: of its deviation; lost: "
            "share that no shift and scale brings back;",
            "alone: with the faults of this layer only. Shift, scale and lost include what the "
            "layers before did.",
            "",
            self.verdict,
        ]
        return "\n".join(lines)

    @property
    def _is_counted(self) -> bool:
        return "accuracy" in self.measure

    def _shown(self, value: float) -> str:
        return f"{value:.2%}" if self._is_counted else f"{value:.4g}"

    def _change(self, value: float) -> str:
        return f"{100 * value:+.2f}" if self._is_counted else f"{value:+.4g}"

    def _difference(self, value: float) -> str:
        return f"{100 * value:.2f} points" if self._is_counted else f"{value:.4g}"


def explain(
    model: keras.Model,
    chip: Chip,
    data: Any,
    *,
    bits: int | None = None,
    analog: Analog | None = None,
    calibration: np.ndarray | None = None,
    repair: Repair | None = None,
    mapping: CellMapping | str | None = None,
    metric: Metric | None = None,
    layer_images: int = 256,
) -> Explanation:
    """Takes the way from a Keras model to a chip step by step, with the accuracy after each.

    The steps are the Keras model; its weights as cells hold them; few levels (`bits=`); converters
    and read noise (`analog=`); each fault model of the chip in its order, with the draws that it
    has on the chip; and a repair. A step that changes nothing has exactly the accuracy of the one
    before, and without faults the chip's is the Keras model's.

    For each layer on faulty hardware it compares the outputs on the chip with the healthy ones,
    image by image, see `LayerEffect`. What is a shift and a scale of channels, new statistics of a
    batch normalization can mend; what is lost, they cannot. It also evaluates the chip with the
    faults of one layer at a time, so that the layer that breaks is seen apart from those behind it,
    whose inputs it spoils.

    Args:
        model: a built Keras model, with Drop-Connect layers or plain; left as it is.
        chip: the chip.
        data: test images and integer labels, as for `evaluate_population`.
        bits: levels of the weights, see `quantize_levels`; None for weights as trained.
        analog: converters and read noise; None for exact sums.
        calibration: training images `(n, ...)`, preprocessed as for the model: for converters, and
            for the statistics of batch normalization, where the model has one and there is no
            `repair`.
        repair: a repair of the chip, the last step.
        mapping: how weights become conductances, a `CellMapping` or a name of
            `keras_rram.faults.cells.MAPPINGS`; None for that of the fault model, where it has one.
        metric: what says how good an answer is, as for `evaluate_population`.
        layer_images: how many of the images the outputs of layers are compared on.

    Raises:
        TypeError: if `chip` is none.
        ValueError: if chip, model and data do not fit, or if images to calibrate by are missing.

    Example:

    ```python
    chip = keras_rram.Chip(keras_rram.StuckAtZero(0.3), seed=0, index=7)
    print(explain(model, chip, dataset.arrays("test"), calibration=dataset.arrays("train", 512)[0]))
    ```
    """
    check_chip(chip)
    if isinstance(layer_images, bool) or not isinstance(layer_images, int) or layer_images < 1:
        raise ValueError(f"`layer_images` must be an integer >= 1. Received: {layer_images!r}")
    held = model if faulty_layers(model) else to_drop_connect(model, 0.0)
    images, labels, measure = check_data(held, data, metric)

    def engine(of: keras.Model, with_repair: Repair | None = None) -> KerasEngine:
        return KerasEngine(of, images, labels, with_repair, measure=measure)

    def score(by: KerasEngine, task: Any) -> float:
        return float(np.mean(by.answer([task])[0].correct, dtype=np.float64))

    shown, by = model, engine(model)
    steps = [Step("keras", "the model without faults", score(by, Task(None)))]

    def add(name: str, detail: str, now: keras.Model) -> None:
        nonlocal held, shown, by
        held = now
        if now is not shown:
            shown, by = now, engine(now)
        steps.append(Step(name, detail, score(by, Task(None))))

    cells = _mapping(mapping, chip)
    if cells is None:
        add("cells", "one cell in a weight, of any value", held)
    else:
        add("cells", type(cells).__name__, quantize_to_cells(held, cells))
    if bits is not None:
        add("levels", f"{bits} bits, evenly spaced", quantize_levels(held, bits))
    if analog is not None:
        add("converters", _converters(analog), to_analog(held, analog, calibration))
    for part, chip_so_far in _fault_steps(chip):
        steps.append(Step("faults", part, score(by, Task(chip_so_far))))
    has_statistics = bool(normalizations(held, required=False))
    if repair is None and calibration is not None and has_statistics:
        repair = BatchNormRecalibration(np.asarray(calibration))
    if repair is not None:
        what = describe_repair(repair).partition("/")[0]
        steps.append(Step("repair", what, score(engine(held, repair), Task(chip))))
    faults = chip.faults(held)

    def alone(layer: str) -> float:
        only = {name: fault for name, fault in faults.items() if name.rpartition("/")[0] == layer}
        return score(by, Task(_Held(only, chip.seed, chip.index)))  # type: ignore[arg-type]

    return Explanation(
        model=model.name,
        chip=repr(chip),
        images=len(images),
        measure="accuracy" if measure is None else measure.name,
        higher_is_better=measure is None or measure.higher_is_better,
        has_statistics=has_statistics,
        steps=tuple(steps),
        layers=layer_effects(held, faults, images[:layer_images], alone),
    )


@dataclass(frozen=True)
class _Held:
    """Faults that an engine takes for those of a chip, on the scale that they have on it.

    A measured chip of the same faults would be scaled anew, by the rate that they reach alone.
    """

    faults: dict[str, Fault]
    seed: int
    index: int

    def program(self, model: keras.Model) -> Programmed:
        return program(model, self.faults)


def _fault_steps(chip: Chip) -> list[tuple[str, Chip]]:
    """Returns what each fault model of a chip is, and the chip with it and those before."""
    if chip.fault_model is None or chip.measured is not None:
        return [("measured" if chip.fault_model is None else "as saved with the chip", chip)]
    found = []
    for part, so_far in beginnings(chip.fault_model):
        try:
            text = spec(part)
        except TypeError:  # a fault model of the user's own
            text = repr(part)
        same = so_far is chip.fault_model
        found.append((text, chip if same else dataclasses.replace(chip, fault_model=so_far)))
    return found


def _mapping(given: CellMapping | str | None, chip: Chip) -> CellMapping | None:
    if isinstance(given, str):
        if given not in MAPPINGS:
            raise ValueError(f"`mapping` must be one of {sorted(MAPPINGS)}. Received: {given!r}")
        return MAPPINGS[given]
    if given is not None or chip.fault_model is None:
        return given
    parts = getattr(chip.fault_model, "models", (chip.fault_model,))
    return next((found for part in parts if (found := getattr(part, "mapping", None))), None)


def _converters(analog: Analog) -> str:
    adc = "exact sums" if analog.adc_bits is None else f"{analog.adc_bits} bits"
    noise = f", read noise {analog.read_noise:g}" if analog.read_noise else ""
    return f"{adc}, tiles of {analog.tile_rows} rows{noise}"
