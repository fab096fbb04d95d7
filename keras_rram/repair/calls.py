"""Does something else where a layer of a model is called."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

Tensor = Any
Call = Callable[..., Tensor]


@contextmanager
def replaced_calls(
    layers: Mapping[str, Any], make: Callable[[str, Any, Call], Call]
) -> Iterator[None]:
    """Replaces the `call` of layers within a `with` block.

    Args:
        layers: layers by name.
        make: gets a layer's name, the layer and its own `call`, and returns the new one.
    """
    try:
        for name, layer in layers.items():
            # Beside the method of the class, as an attribute of the one object.
            object.__setattr__(layer, "call", make(name, layer, layer.call))
        yield
    finally:
        for layer in layers.values():
            layer.__dict__.pop("call", None)
