"""TFLite files as predict functions."""

import contextlib

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from keras_rram.export.flatbuffer import parse
from keras_rram.quiet import quiet

# LiteRT says once in a process, on stderr, that it made its delegate.
_first_use = iter([quiet])


class LiteRTModel:
    """Runs a TFLite file in `ai_edge_litert`, on the CPU.

    Args:
        tflite: bytes of the file.
        threads: number of threads.
        batch_size: images for each run of the interpreter; a file with a fixed batch keeps its own.
        reference: whether LiteRT's reference kernels compute, which are slow and define what an
            int8 file means; off: XNNPACK, which rounds otherwise (see `MicroReport`).

    Raises:
        ValueError: if `tflite` is not a TFLite file with one input and one output, or if the
            interpreter does not accept it.

    Example:

    ```python
    logits = LiteRTModel(tflite, threads=2).predict(images)
    ```
    """

    def __init__(
        self,
        tflite: bytes | bytearray,
        threads: int = 1,
        batch_size: int = 100,
        reference: bool = False,
    ):
        graph = parse(tflite)
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise ValueError(
                f"Expected a TFLite file with one input and one output. Received: "
                f"{len(graph.inputs)} inputs, {len(graph.outputs)} outputs"
            )
        try:
            with next(_first_use, contextlib.nullcontext)():
                self._prepare(bytes(tflite), threads, batch_size, reference)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"LiteRT does not accept the file: {error}") from error
        (self._input,) = self._interpreter.get_input_details()
        (self._output,) = self._interpreter.get_output_details()

    def _prepare(
        self, tflite: bytes, threads: int, batch_size: int, reference: bool = False
    ) -> None:
        kernels = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
        self._interpreter = Interpreter(
            model_content=tflite, num_threads=threads, experimental_op_resolver_type=kernels
        )
        (self._input,) = self._interpreter.get_input_details()
        fixed = int(self._input["shape_signature"][0])
        self.batch_size = fixed if fixed > 0 else batch_size
        if fixed <= 0:
            shape = [batch_size, *self._input["shape"][1:]]
            self._interpreter.resize_tensor_input(self._input["index"], shape)
        self._interpreter.allocate_tensors()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return tuple(int(size) for size in self._input["shape"][1:])

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Returns float images as the numbers that the file takes: an int8 file's are quantized.

        `predict` does it too; who predicts the same images often does it once.

        Args:
            images: float array `(n, ...)`.

        Returns:
            array of the same shape, of the type of the file's input.
        """
        return encode(images, self._input)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Returns the outputs of the model for float images.

        Args:
            images: float array `(n, ...)`, preprocessed as for the Keras model, or what `encode`
                made of it.

        Returns:
            float32 array `(n, classes)`; those of an int8 file are multiples of its output step.
        """
        if images.shape[1:] != self.input_shape:
            raise ValueError(
                f"Expected images of shape {('n', *self.input_shape)}. Received: {images.shape}"
            )
        count = len(images)
        outputs = np.empty((count, *self._output["shape"][1:]), np.float32)
        for start in range(0, count, self.batch_size):
            batch = encode(images[start : start + self.batch_size], self._input)
            used = len(batch)
            if used < self.batch_size:
                # A resize would prepare the delegate again, for one batch.
                padding = np.zeros((self.batch_size - used, *batch.shape[1:]), batch.dtype)
                batch = np.concatenate([batch, padding])
            self._interpreter.set_tensor(self._input["index"], batch)
            self._interpreter.invoke()
            raw = self._interpreter.get_tensor(self._output["index"])
            outputs[start : start + used] = decode(raw[:used], self._output)
        return outputs


def encode(images: np.ndarray, details: dict) -> np.ndarray:
    """Returns images as the numbers of an input tensor; `details` are as LiteRT gives them."""
    dtype = np.dtype(details["dtype"])
    if dtype.kind == "f" or images.dtype == dtype:
        return np.ascontiguousarray(images, dtype)
    scale, zero_point = details["quantization"]
    if not scale:  # integers that stand for themselves: tokens
        return np.ascontiguousarray(images.astype(dtype))
    limits = np.iinfo(dtype)
    steps = np.rint(images / np.float32(scale)) + zero_point
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def decode(outputs: np.ndarray, details: dict) -> np.ndarray:
    """Returns the floats that the numbers of an output tensor stand for."""
    if outputs.dtype.kind == "f":
        return outputs
    scale, zero_point = details["quantization"]
    return (outputs.astype(np.float32) - zero_point) * np.float32(scale)
