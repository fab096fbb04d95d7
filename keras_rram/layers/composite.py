"""Layers whose kernels belong to parts of them: the cell of a recurrent layer, say."""

from typing import Any

import keras

from keras_rram.layers.mixin import DropConnectMixin, stored_kernel


class CompositeMixin(DropConnectMixin):
    """`DropConnectMixin` for a Keras layer that is made of other layers.

    The layer owns the masks of all kernels of its parts. Its forward pass is that of the Keras
    class, run on a stand-in: an object of that class which shares all state with the layer, but
    whose parts have the effective kernels as tensors. So whatever Keras does with a kernel, and
    however often (in each time step, or in cuDNN), it finds one effective kernel, drawn once.

    A subclass gives `_plain`, the Keras class, and `_places`.
    """

    _plain: Any
    # Kernel name -> the attribute that is a part, and the kernel's name in it.
    _places: dict[str, tuple[str, str]]

    @property
    def kernel_slots(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the kernels, those of optional parts where the layer has them."""
        return tuple(slot for slot, (part, _) in self._places.items() if hasattr(self, part))

    @classmethod
    def kernels_in(cls, layer: Any) -> dict[str, keras.Variable]:
        """Returns the kernels of a layer of this class or of its plain Keras class, by slot."""
        return {
            slot: stored_kernel(getattr(layer, part), name)
            for slot, (part, name) in cls._places.items()
            if hasattr(layer, part)
        }

    def kernel_holder(self, slot: str) -> tuple[Any, str]:
        """Returns the part that holds a kernel, and its name there."""
        part, name = self._places[slot]
        return getattr(self, part), name

    def _stand_in(self, training: bool | None, **attributes: Any) -> Any:
        """Returns a layer of the Keras class with effective kernels; itself without Drop-Connect.

        Args:
            training: whether Drop-Connect applies.
            **attributes: further attributes that the stand-in does not share.
        """
        if self.drop_connect is None:
            return self
        kernels: dict[str, dict[str, Any]] = {}
        for slot in self.kernel_slots:
            place, name = self._places[slot]
            part = getattr(self, place)
            if getattr(part, "quantization_mode", None) is not None:
                self._refuse_quantization()
            kernel = self.effective_kernel(slot, training=training)
            held = kernels.setdefault(place, {})
            held[f"_{name}" if f"_{name}" in vars(part) else name] = kernel
            if getattr(part, "lora_enabled", False):
                held["lora_enabled"] = False  # the effective kernel has its sum in it already
        for place, held in kernels.items():
            part = getattr(self, place)
            attributes[place] = _shared(part, type(part), held)
        return _shared(self, self._plain, attributes)


def _shared(layer: Any, kind: type, attributes: dict[str, Any]) -> Any:
    """Returns an object of class `kind` with all of a layer's state but some attributes."""
    # Not the constructor, which would make new state; not `copy`, which Keras does by saving.
    twin: Any = object.__new__(kind)
    vars(twin).update(vars(layer))
    vars(twin).update(attributes)
    return twin
