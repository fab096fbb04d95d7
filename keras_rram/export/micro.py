"""TFLite files in TensorFlow Lite Micro, as a microcontroller runs them."""

import dataclasses
import re
from typing import Any

import numpy as np

from keras_rram.export.errors import ExportError
from keras_rram.export.flatbuffer import Graph, parse
from keras_rram.export.litert_model import LiteRTModel, decode, encode
from keras_rram.quiet import quiet

# The interpreter ends the process, rather than raise, if some parts do not fit: always enough.
_LARGE_ARENA = 1 << 26
_USED = re.compile(r"Arena allocation total (\d+) bytes")
_ALIGNMENT = 16


@dataclasses.dataclass(frozen=True)
class MicroReport:
    """What running a file in TensorFlow Lite Micro showed, next to LiteRT.

    It is held to LiteRT's reference kernels. Operator by operator, on the same inputs, Micro is
    equal to them, floats included, but for `FULLY_CONNECTED`, which may differ by a step: so the
    outputs of a network with one dense layer differ by at most one. XNNPACK, with which LiteRT
    is fast, is another matter. It rounds `MEAN`, convolutions and, behind floats, `QUANTIZE`
    otherwise: by at most one step each, which adds up through the layers.

    Attributes:
        arena_size: least tensor arena that the file runs in, in bytes, on this 64-bit machine. A
            32-bit microcontroller has smaller pointers and needs a little less.
        operators: names of the operators to register, sorted.
        size: bytes of the file itself, which stays in flash.
        images: number of images.
        max_steps: largest difference of an output from the reference kernels', in quantization
            steps.
        agreement: share of images with the same top-1 class as XNNPACK, in `[0, 1]`. It can be
            below 1 without fault where the two largest outputs of an image are close.
        xnnpack_steps: largest difference of an output from XNNPACK's; None in older records.
    """

    arena_size: int
    operators: tuple[str, ...]
    size: int
    images: int
    max_steps: int
    agreement: float
    xnnpack_steps: int | None = None

    def check(self, max_steps: int = 1, agreement: float = 0.98) -> None:
        """Raises `ExportError` if steps from the reference or classes of XNNPACK differ more."""
        if self.max_steps > max_steps:
            raise ExportError(
                f"TensorFlow Lite Micro and LiteRT's reference kernels differ by {self.max_steps} "
                f"quantization steps; at most {max_steps} was expected."
            )
        if self.agreement < agreement:
            raise ExportError(
                f"TensorFlow Lite Micro and LiteRT give the same class on {self.agreement:.1%} of "
                f"{self.images} images; at least {agreement:.1%} was expected. It may be chance if "
                "the images are few: run it on more of them."
            )


class MicroModel:
    """Runs an int8 TFLite file in the interpreter of TensorFlow Lite Micro.

    The kernels are the portable reference ones that a microcontroller without a vendor's library
    runs. Much slower than `LiteRTModel`: one image at a time. Dilated convolutions are right only
    in files with a fixed batch (`convert(..., batch_size=1)`): others have operators around them
    that this interpreter computes differently.

    Args:
        tflite: bytes of a full integer file, int8 in and out.
        arena_size: bytes that the target has for activations and the interpreter's own data; None
            for any number.

    Attributes:
        arena_size: the bytes that the file needs.

    Raises:
        ImportError: without the package `tflite-micro`.
        ValueError: if `tflite` is not such a file.
        ExportError: if it has an operator that TensorFlow Lite Micro lacks, or needs more bytes.

    Example:

    ```python
    model = MicroModel(tflite)
    print(model.arena_size, model.predict(images[:10]).argmax(-1))
    ```
    """

    def __init__(self, tflite: bytes | bytearray, arena_size: int | None = None):
        self._graph = _check(tflite)
        self._interpreter, self.arena_size = _interpreter(bytes(tflite))
        if arena_size is not None and arena_size < self.arena_size:
            raise ExportError(
                f"The file needs an arena of {self.arena_size} bytes. Received: "
                f"arena_size={arena_size}"
            )
        self._input, self._output = (
            _details(read(0))
            for read in (
                self._interpreter.get_input_details,
                self._interpreter.get_output_details,
            )
        )

    @property
    def operators(self) -> tuple[str, ...]:
        """Names of the operators of the file, each once, sorted."""
        return tuple(sorted({operator.name for operator in self._graph.operators}))

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Returns the outputs for float images.

        Args:
            images: float array `(n, ...)`, preprocessed as for the Keras model.

        Returns:
            float32 array `(n, classes)` of multiples of the output step.
        """
        images = np.asarray(images)
        if images.shape[1:] != self._input["shape"][1:] or images.dtype.kind != "f":
            raise ValueError(
                f"Expected float images of shape {('n', *self._input['shape'][1:])}. "
                f"Received: {images.dtype} of shape {images.shape}"
            )
        steps = np.empty((len(images), *self._output["shape"][1:]), np.int8)
        for number, image in enumerate(encode(images, self._input)):
            self._interpreter.set_input(image[None], 0)
            self._interpreter.invoke()
            steps[number] = self._interpreter.get_output(0)[0]
        return decode(steps, self._output)


def run_micro(
    tflite: bytes | bytearray, images: np.ndarray, arena_size: int | None = None
) -> MicroReport:
    """Runs an int8 TFLite file in TensorFlow Lite Micro and compares it with LiteRT.

    Args:
        tflite: see `MicroModel`.
        images: float images `(n, ...)`, preprocessed as for the Keras model; a few dozen.
        arena_size: see `MicroModel`.

    Raises:
        ValueError: see `MicroModel`, also for no images.
        ExportError: see there. The report's `check` judges the difference from LiteRT.

    Example:

    ```python
    report = run_micro(tflite, test_images[:50])
    report.check()
    ```
    """
    if not len(images):
        raise ValueError("`images` must hold at least one image. Received: none")
    micro = MicroModel(tflite, arena_size)
    outputs = micro.predict(images)
    defined = LiteRTModel(tflite, batch_size=1, reference=True).predict(images)
    fast = LiteRTModel(tflite, batch_size=min(50, len(images))).predict(images)
    step = micro._output["quantization"][0]
    return MicroReport(
        arena_size=micro.arena_size,
        operators=micro.operators,
        size=len(tflite),
        images=len(images),
        max_steps=int(np.rint(np.abs(outputs - defined).max() / step)),
        agreement=float(np.mean(outputs.argmax(-1) == fast.argmax(-1))),
        xnnpack_steps=int(np.rint(np.abs(outputs - fast).max() / step)),
    )


def _check(tflite: bytes | bytearray) -> Graph:
    graph = parse(tflite)
    ends = [graph.tensors[number] for number in (*graph.inputs, *graph.outputs)]
    if len(graph.inputs) != 1 or len(graph.outputs) != 1 or any(t.type != "INT8" for t in ends):
        raise ValueError(
            "Expected a full integer TFLite file with one int8 input and one int8 output. "
            f"Received: {[t.type for t in ends]}. Export with quantization='int8'."
        )
    return graph


def _interpreter(data: bytes) -> tuple[Any, int]:
    """Returns the interpreter of a file, and the bytes of its arena that it uses."""
    try:
        from tflite_micro.python.tflite_micro import runtime
    except ImportError as error:
        raise ImportError(
            "TensorFlow Lite Micro needs the package `tflite-micro` (for Linux and macOS): "
            f"pip install 'keras-rram[micro]'. ({error})"
        ) from error
    with quiet() as messages:
        try:
            interpreter = runtime.Interpreter.from_bytes(data, arena_size=_LARGE_ARENA)
        except RuntimeError as error:
            reason = " ".join(f"{messages()} {error}".split())[:300]
            raise ExportError(f"The file does not run in TensorFlow Lite Micro: {reason}") from None
        interpreter.print_allocations()
        used = _USED.search(messages())
    if used is None:
        raise ExportError(
            "This version of `tflite-micro` does not say how much of the arena it uses. Install "
            "another one."
        )
    return interpreter, -(-int(used[1]) // _ALIGNMENT) * _ALIGNMENT


def _details(details: dict) -> dict:
    """Returns a tensor's details in the form of LiteRT's."""
    quantization = details["quantization_parameters"]
    return {
        "shape": tuple(int(size) for size in details["shape"]),
        "dtype": details["dtype"],
        "quantization": (float(quantization["scales"][0]), int(quantization["zero_points"][0])),
    }
