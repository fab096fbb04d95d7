"""The file of a chip that was repaired: patched like any other, with scales and biases of its own.

A repair changes batch normalization, biases and weights. What the file holds of them is in the
weight tensor, the bias tensor and the quantization steps of each layer, see `folds`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_rram.chips.chip import Chip, erase
from keras_rram.export.converters import Converter, find_converter
from keras_rram.export.errors import ExportError, UnmappableError
from keras_rram.export.flatbuffer import parse
from keras_rram.export.folds import Fold, find_folds
from keras_rram.export.kernel_places import find_places
from keras_rram.export.kernels import clean_kernels_of, kernel_variables, kernels_of, scaled
from keras_rram.export.patchable import PatchableModel
from keras_rram.export.place import INT8_LIMIT, Place
from keras_rram.faults import Fault
from keras_rram.layers import faulty_layers
from keras_rram.repair import Repair

_BIAS_LIMITS = {"INT32": 2.0**31 - 1, "INT64": 2.0**63 - 1024}


class RepairableModel:
    """A model whose chips are patched into one file as they are after a repair.

    In float files the weights of each layer are written anew, as `kernel * scale`. In integer files
    they stay the chip's own, to the last bit, as long as the repair wrote no weight, and the step
    of each channel is scaled along with the normalization: steps are relative to the largest weight
    of a channel, so that nothing is rounded a second time. Where the repair wrote weights, the step
    is derived anew from the largest of them, as the converter does. Steps of activations stay what
    they are; where those of the fault-free model are too narrow for repaired chips, they can come
    from some of these, see `quantize_on_repaired`.

    Args:
        model: the model as trained, programmed with a chip or not.
        patchable: its fault-free conversion.
        sample: one input `(1, ...)`, preprocessed as for the model.

    Raises:
        UnmappableError: if the file cannot be patched.

    Example:

    ```python
    repairable = RepairableModel(model, patchable, images[:1])
    with chip.program(model), recalibrate_batch_norm(model, images):
        tflite = repairable.patch()
    ```
    """

    def __init__(self, model: keras.Model, patchable: PatchableModel, sample: np.ndarray):
        self.tflite = patchable.tflite
        self._places = dict(patchable.places)
        graph = parse(self.tflite)
        if clean := clean_kernels_of(model):
            try:
                kernels = kernels_of(model) | clean
                found = find_places(kernels, self.tflite, patchable.gains)
            except UnmappableError:
                found = {}  # then a repair may not change what these layers hold
            self._places |= {name: found[name] for name in clean if name in found}
        folds = find_folds(model, self._places, graph, self.tflite, sample)
        self._folds = folds.of_tensor
        self._scales = {
            index: [fold.scale for fold in found] for index, found in folds.of_tensor.items()
        }
        self._kernels = kernel_variables(model)
        covered = {id(variable) for variable in folds.variables}
        covered |= {id(kernel) for name, kernel in self._kernels.items() if name in self._places}
        self._faulty = faulty_layers(model)
        for layer in self._faulty.values():
            covered |= {id(layer.drop_rate), id(layer.seed_generator.state)}
            for held in (layer.fault_masks, layer.fault_offsets):
                covered |= {id(variable) for variable in held.values()}
        self._others = [
            (variable, np.array(ops.convert_to_numpy(variable)))
            for variable in model.variables
            # The state of a seed generator, as dropout has one, plays no part in inference.
            if id(variable) not in covered and variable.dtype != "uint32"
        ]

    def patch(self) -> bytearray:
        """Returns the file of the model as it is programmed and repaired now.

        Raises:
            UnmappableError: if the repair changed something that has no place in the file.
        """
        for variable, value in self._others:
            if not np.array_equal(ops.convert_to_numpy(variable), value):
                raise UnmappableError(
                    f"The repair changed '{variable.path}', whose place in the file is not known."
                )
        patched = bytearray(self.tflite)
        written: dict[int, bytes] = {}
        for name, places in self._places.items():
            kernel, fault = self._read(name)
            for place in places:
                folds = self._folds.get(place.tensor.index, ())
                steps = self._write_weights(patched, place, folds, kernel, fault)
                _put(patched, written, place.tensor.scales_offset, _scales(steps), place)
                for fold in folds:
                    self._write_bias(patched, written, fold, steps)
        return patched

    def check(self, tflite: bytes | bytearray) -> None:
        """Checks every byte of a file against the model as it is programmed and repaired now.

        Weights, steps and biases must stand for what the model computes, to half a step, and all
        other bytes must be those of the fault-free file.

        Raises:
            ExportError: if a byte differs. The message names the kernel.
        """
        if len(tflite) != len(self.tflite):
            raise ExportError(
                f"The file has {len(tflite)} bytes; its fault-free file has {len(self.tflite)}."
            )
        same = np.frombuffer(tflite, np.uint8) == np.frombuffer(self.tflite, np.uint8)
        graph = parse(tflite)
        for name, places in self._places.items():
            kernel, fault = self._read(name)
            for place in places:
                tensor = graph.tensors[place.tensor.index]
                same[tensor.offset : tensor.offset + tensor.size] = True
                same[tensor.scales_offset : tensor.scales_offset + 4 * tensor.scales.size] = True
                steps = tensor.scales if place.is_integer else np.ones(1)
                factor = _one_scale(self._folds.get(tensor.index, ()), place)
                if factor is None:
                    factor = np.nan_to_num(place.channel_factors) * place.tensor_steps
                wanted = place.transpose(fault.apply(kernel) * place.per_channel(factor))
                steps = place.transpose(place.per_channel(np.broadcast_to(steps, place.channels)))
                held = place.view(tflite) * steps
                _check_close(held, wanted, steps, place, name)
                for fold in self._folds.get(tensor.index, ()):
                    if fold.bias is not None:
                        bias = graph.tensors[fold.bias.index]
                        same[bias.offset : bias.offset + bias.size] = True
                        end = bias.scales_offset + 4 * bias.scales.size
                        same[bias.scales_offset : end] = True
                        _check_bias(bias, tflite, fold, name)
        if not same.all():
            raise ExportError(
                f"{int((~same).sum())} bytes that hold nothing of a chip or its repair differ from "
                f"the fault-free file's, the first at {int(np.argmin(same))}."
            )

    @property
    def wrote_weights(self) -> bool:
        """Whether the kernels of the model are no longer those that it was converted with."""
        return any(
            not np.array_equal(ops.convert_to_numpy(self._kernels[name]), place.kernel.values)
            for name, (place, *_) in self._places.items()
        )

    def _read(self, name: str) -> tuple[np.ndarray, Fault]:
        """Returns a kernel as it is stored, and what the chip makes of it."""
        kernel = np.array(ops.convert_to_numpy(self._kernels[name]), np.float32)
        layer, _, slot = name.rpartition("/")
        faulty = self._faulty.get(layer)
        if faulty is None:
            return kernel, Fault(np.ones(kernel.shape, np.float32))
        mask = np.array(ops.convert_to_numpy(faulty.fault_masks[slot]))
        if slot not in faulty.fault_offsets:
            return kernel, Fault(mask)
        offset = np.array(ops.convert_to_numpy(faulty.fault_offsets[slot]))
        return kernel, Fault(mask, offset if offset.any() else None)

    def _write_weights(
        self,
        data: bytearray,
        place: Place,
        folds: Sequence[Fold],
        kernel: np.ndarray,
        fault: Fault,
    ) -> np.ndarray:
        """Writes the weights of a place; returns the steps of its channels, empty for floats."""
        scale, view = _one_scale(folds, place), place.view(data)
        if not place.is_integer:
            factor = np.nan_to_num(place.channel_factors) if scale is None else scale
            stored = fault.apply(kernel) * place.per_channel(factor)
            np.copyto(view, place.transpose(stored) + 0.0, casting="unsafe")
            return np.zeros(0)
        steps = place.tensor.scales
        before = self._scales.get(place.tensor.index, [np.ones(place.channels)])[0]
        now = before if scale is None else scale
        kept = np.array_equal(kernel, place.kernel.values)
        if kept and (np.array_equal(now, before) or _grows(now, before, steps)):
            place.write(data, fault)
            ratio = np.divide(now, before, out=np.ones_like(now), where=before != 0)
            return steps * ratio if steps.size > 1 else steps
        wanted = fault.apply(kernel).astype(np.float64)
        if scale is None:
            wanted = wanted * place.per_channel(np.nan_to_num(place.channel_factors))
        else:
            wanted *= place.per_channel(scale)
            axes = tuple(a for a in range(wanted.ndim) if a not in place.kernel.output_axes)
            largest = np.abs(wanted).max(axes).ravel() if steps.size > 1 else np.abs(wanted).max()
            fresh = np.broadcast_to(largest / INT8_LIMIT, steps.shape)
            steps = np.where(fresh > 0, fresh, steps).astype(np.float32).astype(np.float64)
            wanted /= place.per_channel(np.broadcast_to(steps, place.channels))
        codes = np.clip(np.rint(wanted), -INT8_LIMIT, INT8_LIMIT)
        np.copyto(view, place.transpose(codes), casting="unsafe")
        return steps

    def _write_bias(
        self, data: bytearray, written: dict[int, bytes], fold: Fold, steps: np.ndarray
    ) -> None:
        shift, bias = fold.shift, fold.bias
        if bias is None:
            if shift.any():
                raise UnmappableError(
                    f"Layer '{fold.layer.name}' has no bias in the file that the repair could "
                    "change: it was zero."
                )
            return
        if bias.scales.size:
            units = (fold.input_step * steps).astype(np.float32).astype(np.float64)
            limit = _BIAS_LIMITS[bias.type]
            shift = np.clip(np.rint(shift / units), -limit, limit)
            _put(data, written, bias.scales_offset, _scales(units), fold.place)
        content = shift.astype(bias.dtype).tobytes()
        if not fold.is_alone and content != bytes(data[bias.offset : bias.offset + bias.size]):
            raise UnmappableError(
                f"Layer '{fold.layer.name}' shares its bias with another part of the file, since "
                "the two were equal: a repair of one would change the other."
            )
        _put(data, written, bias.offset, content, fold.place)


def quantize_on_repaired(
    model: keras.Model,
    images: np.ndarray,
    chips: Iterable[Chip],
    repair: Repair,
    gains: Mapping[str, float],
    batch_size: int | None = None,
    converter: Converter | str = "tensorflow",
) -> bytes:
    """Returns the repaired fault-free int8 file with the activation ranges of repaired chips.

    Args:
        model: the model as trained.
        images: calibration images.
        chips: the chips that the ranges come from, joined.
        repair: what is done to each of them, and to the fault-free model.
        gains: see `PatchableModel`.
        batch_size: see `convert`.
        converter: see `convert`.

    Raises:
        ExportError: if the float32 file cannot be patched, or TensorFlow fails to quantize.
    """
    with erase(model), repair(model, None):
        floats = PatchableModel.convert(
            model, "float32", batch_size=batch_size, converter=converter
        )
        base = floats.patch(scaled(model, gains))
        repairable = RepairableModel(model, floats, images[:1])

    def files() -> Iterator[bytearray]:
        for chip in chips:
            with chip.program(model), repair(model, chip):
                tflite = repairable.patch()
            yield tflite

    return find_converter(converter).quantize_int8(base, images, files())


def _one_scale(folds: Sequence[Fold], place: Place) -> np.ndarray | None:
    """Returns the scale of a weight tensor, None where nothing is known of its operators."""
    if not folds:
        return None
    first, *rest = (fold.scale for fold in folds)
    if any(not np.array_equal(first, other) for other in rest):
        raise UnmappableError(
            f"Layer '{place.kernel.layer}' has one weight tensor for several normalizations, which "
            "the repair changed differently."
        )
    return first


def _grows(now: np.ndarray, before: np.ndarray, steps: np.ndarray) -> bool:
    """Whether the steps of channels can follow a change of scales, and weights stay."""
    return steps.size == now.size and bool((np.sign(now) == np.sign(before)).all())


def _scales(steps: np.ndarray) -> bytes:
    return np.asarray(steps, "<f4").tobytes()


def _put(
    data: bytearray, written: dict[int, bytes], offset: int, content: bytes, place: Place
) -> None:
    """Writes bytes; two layers that share them must agree."""
    if not content:
        return
    if written.setdefault(offset, content) != content:
        raise UnmappableError(
            f"Layer '{place.kernel.layer}' shares its bias or its steps with another layer, since "
            "the two were equal: a repair of one would change the other."
        )
    data[offset : offset + len(content)] = content


def _check_close(
    held: np.ndarray, wanted: np.ndarray, steps: np.ndarray, place: Place, name: str
) -> None:
    error = np.abs(held - wanted)
    if place.is_integer:
        # Half a step, and the rounding of the step itself to float32; or beyond the range.
        is_full = np.abs(held) >= (INT8_LIMIT - 0.5) * np.abs(steps)
        wrong = (error > 0.51 * np.abs(steps)) & ~(is_full & (np.abs(wanted) >= np.abs(held)))
    else:
        wrong = ~(error <= 4 * np.finfo(place.tensor.dtype).eps * np.abs(wanted))
    if wrong.any():
        raise ExportError(
            f"{np.count_nonzero(wrong)} of {held.size} weights of kernel '{name}' are not what the "
            "repaired chip makes of them."
        )


def _check_bias(bias: Any, tflite: bytes | bytearray, fold: Fold, name: str) -> None:
    held, wanted = bias.read(tflite).astype(np.float64).ravel(), fold.shift
    allowed = 1e-6 * np.abs(wanted).max(initial=0.0)
    if bias.type == "FLOAT16":
        allowed = 2e-3 * np.abs(wanted).max(initial=0.0)
    if bias.scales.size:
        held, allowed = held * bias.scales, allowed + 0.51 * bias.scales
    if (np.abs(held - wanted) > allowed).any():
        raise ExportError(
            f"The bias in the file of kernel '{name}' is not what the repaired chip makes of it."
        )
