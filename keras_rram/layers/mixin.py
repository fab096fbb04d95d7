"""The mixin that substitutes the effective kernel, and what all Drop-Connect layers share."""

import hashlib
from typing import TYPE_CHECKING, Any, NoReturn

import keras
from keras import ops

from keras_rram.layers.drop_connect import DropConnect

Tensor = Any

if TYPE_CHECKING:
    from keras import Layer as _MixinBase
else:
    _MixinBase = object


def _as_drop_connect(value: Any) -> DropConnect | None:
    """Returns a rate, a `DropConnect`, its serialized form or None as `DropConnect` or None."""
    if value is None or isinstance(value, DropConnect):
        return value
    if isinstance(value, dict):
        value = keras.saving.deserialize_keras_object(value)
        if isinstance(value, DropConnect):
            return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return DropConnect(value)
    raise TypeError(
        "`drop_connect` must be a rate in [0, 1), a `DropConnect` or None. "
        f"Received: drop_connect={value!r} (of type {type(value).__name__})"
    )


def _stream_seed(seed: int, name: str) -> int:
    """Derives a layer's own seed, so that layers that share one `DropConnect` differ."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def stored_kernel(layer: Any, name: str) -> keras.Variable:
    """Returns the variable behind a layer's kernel.

    `Dense`, `EinsumDense` and `BaseConv` keep it under a private name: their `kernel` is a tensor
    once LoRA is enabled.
    """
    variable = getattr(layer, f"_{name}", None)
    return getattr(layer, name) if variable is None else variable


class DropConnectMixin(_MixinBase):
    """Adds Drop-Connect and chip faults to a Keras layer; goes before the Keras class.

    A subclass names its kernels in `kernel_slots` and takes them from `effective_kernel` in
    `call`. With `drop_connect=None` the layer is its Keras parent: no mask, no further weight.

    Attributes:
        drop_connect: the layer's `DropConnect`, or None.
        drop_rate: scalar non-trainable variable, the drop rate in use. A schedule assigns it
            without any retracing.
        fault_masks: kernel name -> non-trainable variable of the kernel's shape, ones when new.
        fault_offsets: likewise, zeros when new; empty before `add_fault_offsets`.
        read_noise: a `KernelNoise` on every read of the chip, or None; see
            `keras_rram.read_noise`.
    """

    kernel_slots: Any = ("kernel",)
    _held_kernels: Any = None
    _constraint_arguments: tuple[str, ...] = ("kernel_constraint",)
    read_noise: Any = None
    is_analog = False
    """Whether inference computes more than a product with the effective kernel."""
    is_product: Any = False
    """Whether each output is the product of the channels at its place with the one kernel."""

    def __init__(self, *args: Any, drop_connect: Any = None, **kwargs: Any):
        has_offsets = kwargs.pop("fault_offsets", False)
        super().__init__(*args, **kwargs)
        self.drop_connect = self._resolve_drop_connect(_as_drop_connect(drop_connect))
        self.drop_rate = None
        self.fault_masks: dict[str, keras.Variable] = {}
        self.fault_offsets: dict[str, keras.Variable] = {}
        self._build_fault_offsets = has_offsets
        if self.drop_connect is not None:
            seed = self.drop_connect.seed
            self.seed_generator = keras.random.SeedGenerator(
                None if seed is None else _stream_seed(seed, self.name)
            )

    @property
    def is_noisy(self) -> bool:
        """Whether two inferences of the same input may differ."""
        return self.read_noise is not None

    @property
    def masks(self) -> int:
        """How many masks a batch gets in training."""
        is_held = self._held_kernels is not None
        return 1 if self.drop_connect is None or is_held else self.drop_connect.masks

    def _resolve_drop_connect(self, drop_connect: DropConnect | None) -> DropConnect | None:
        """Takes a `DropConnect` out of the Keras constraint arguments, where it means the same."""
        owner = self._constraint_owner()
        for name in self._constraint_arguments:
            constraint = getattr(owner, name)
            if not isinstance(constraint, DropConnect):
                continue
            if drop_connect is not None and drop_connect.get_config() != constraint.get_config():
                raise ValueError(
                    f"Layer '{self.name}' got two settings, {drop_connect.get_config()}"
                    f" and {constraint.get_config()}. Give one, as `drop_connect=`."
                )
            drop_connect = constraint
            setattr(owner, name, None)
        return drop_connect

    def _constraint_owner(self) -> Any:
        """The layer that holds the Keras constraint arguments."""
        return self

    def build(self, input_shape: Any) -> None:
        """Creates the parent's weights, then the drop rate and one fault mask for each kernel."""
        super().build(input_shape)
        self._build_fault_weights()

    def _build_fault_weights(self) -> None:
        if self.drop_connect is None:
            return
        self._tracker.unlock()
        self.drop_rate = self.add_weight(
            name="drop_rate",
            shape=(),
            initializer=keras.initializers.Constant(self.drop_connect.rate),
            trainable=False,
            dtype="float32",
            autocast=False,
        )
        for slot, kernel in self.kernels.items():
            self.fault_masks[slot] = self._add_fault_weight(slot, "mask", kernel, "ones")
        if self._build_fault_offsets:
            self.add_fault_offsets()
        self._tracker.lock()

    def _add_fault_weight(self, slot: str, kind: str, kernel: Any, initializer: str) -> Any:
        return self.add_weight(
            name=f"{slot.removesuffix('kernel')}fault_{kind}",
            shape=kernel.shape,
            initializer=initializer,
            trainable=False,
            dtype=kernel.dtype,
        )

    @classmethod
    def kernels_in(cls, layer: Any) -> dict[str, keras.Variable]:
        """Returns the kernels of a layer of this class or of its plain Keras class, by slot."""
        return {slot: stored_kernel(layer, slot) for slot in cls.kernel_slots}

    @property
    def kernels(self) -> dict[str, keras.Variable]:
        """Kernel name -> the stored variable, untouched by Drop-Connect and faults."""
        return self.kernels_in(self)

    def add_fault_offsets(self) -> None:
        """Adds the offsets that fault models with stuck-on cells need; no-op where they exist.

        A function compiled earlier (`fit`, `predict`) does not see them: `Chip.program` calls this
        and resets the model's compiled functions.
        """
        if self.fault_offsets:
            return
        if not self.fault_masks:
            raise ValueError(
                f"Layer '{self.name}' cannot hold fault offsets: it is not built, or was made with "
                "`drop_connect=None`. Build it, or give it a drop rate (0 is enough)."
            )
        self._tracker.unlock()
        for slot, kernel in self.kernels.items():
            self.fault_offsets[slot] = self._add_fault_weight(slot, "offset", kernel, "zeros")
        self._tracker.lock()
        self._build_fault_offsets = True

    def kernel_holder(self, slot: str) -> tuple[Any, str]:
        """Returns the layer (this one or a part of it) that holds a kernel, and its name there."""
        return self, slot

    def effective_kernel(self, slot: str = "kernel", training: bool | None = False) -> Tensor:
        """Returns the kernel that the forward pass uses.

        Args:
            slot: kernel name, one of `kernel_slots`.
            training: whether Drop-Connect applies.
        """
        kernel = getattr(*self.kernel_holder(slot))
        if self.drop_connect is None:
            return kernel
        if self._held_kernels is not None:
            return self._held_kernels[slot]
        if isinstance(kernel, keras.Variable):
            kernel = kernel.value  # the tensor, cast by the autocast of mixed precision
        stored = kernel
        if training:
            kernel = self.drop_connect(kernel, rate=self.drop_rate, seed=self.seed_generator)
        kernel = kernel * ops.cast(self.fault_masks[slot], kernel.dtype)
        if self.fault_offsets:
            kernel = kernel + ops.cast(self.fault_offsets[slot], kernel.dtype)
        if self.read_noise is not None:
            kernel = self.read_noise(kernel, self.seed_generator, reference=stored)
        return kernel

    def _bias_and_activation(self, outputs: Tensor) -> Tensor:
        if self.bias is not None:
            bias = self.bias
            if getattr(self, "data_format", None) == "channels_first":
                bias = ops.reshape(bias, (1, -1) + (1,) * self.rank)
            outputs = ops.add(outputs, bias)
        return outputs if self.activation is None else self.activation(outputs)

    # `Dense` and `BaseConv` store the kernel and the bias only; these store all variables.
    def save_own_variables(self, store: Any) -> None:
        """Saves every variable, the drop rate and the fault masks included."""
        if self.drop_connect is None:
            super().save_own_variables(store)
        else:
            keras.Layer.save_own_variables(self, store)

    def load_own_variables(self, store: Any) -> None:
        """Loads what `save_own_variables` saved."""
        if self.drop_connect is None:
            super().load_own_variables(store)
        else:
            keras.Layer.load_own_variables(self, store)

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Refuses: a quantized call would bypass Drop-Connect and faults silently."""
        if self.drop_connect is None:
            super().quantize(*args, **kwargs)
            return
        self._refuse_quantization()

    def _refuse_quantization(self) -> NoReturn:
        raise NotImplementedError(
            f"Layer '{self.name}' cannot be quantized in place: its faults would be lost. Make a "
            "plain model with `keras_rram.bake(model)` and quantize that, or export int8 TFLite."
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the parent's config with `drop_connect`."""
        config = super().get_config()
        config["drop_connect"] = keras.constraints.serialize(self.drop_connect)
        if self._build_fault_offsets:
            config["fault_offsets"] = True
        return config
