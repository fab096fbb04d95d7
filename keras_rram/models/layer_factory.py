"""Which layers of a network sit on faulty hardware."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras

from keras_rram.layers import (
    DropConnectConv2D,
    DropConnectDense,
    DropConnectDepthwiseConv2D,
    faulty_layers,
)
from keras_rram.layers.drop_connect import DropConnect
from keras_rram.layers.roles import resolve_scope, role_of

# The networks read NHWC images whatever `keras.config.image_data_format()` says.
DATA_FORMAT = "channels_last"


@dataclass(frozen=True)
class LayerFactory:
    """Says which layers of a network sit on faulty hardware, and creates them.

    A layer whose role is in `scope` is a Drop-Connect layer, any other the plain Keras layer.

    Args:
        drop_connect: drop rate in `[0, 1)` or `DropConnect` of the layers on faulty hardware; None
            for plain Keras layers everywhere.
        scope: a key of `keras_rram.layers.roles.SCOPES`, a role, or several roles.

    Raises:
        ValueError: if `scope` names neither a scope nor a role.

    Example:

    ```python
    factory = LayerFactory(drop_connect=0.2, scope="depthwise")
    factory.conv2d(16, 1, role="expand", name="block1_expand")  # keras.layers.Conv2D
    factory.depthwise_conv2d(3, name="block1_depthwise")  # DropConnectDepthwiseConv2D
    ```
    """

    drop_connect: float | DropConnect | None = None
    scope: str | Iterable[str] = "blocks"

    def __post_init__(self) -> None:
        """Resolves the scope to its roles."""
        # A generator of roles could be read once only.
        object.__setattr__(self, "scope", resolve_scope(self.scope))

    def conv2d(self, filters: int, kernel_size: int, *, role: str, name: str, **kwargs: Any) -> Any:
        """Returns a 2D convolution of role `role`, plain or Drop-Connect."""
        kwargs |= {"filters": filters, "kernel_size": kernel_size, "data_format": DATA_FORMAT}
        return self._create(keras.layers.Conv2D, DropConnectConv2D, role, name, kwargs)

    def depthwise_conv2d(self, kernel_size: int, *, name: str, **kwargs: Any) -> Any:
        """Returns a depthwise 2D convolution of role `depthwise`, plain or Drop-Connect."""
        kwargs |= {"kernel_size": kernel_size, "data_format": DATA_FORMAT}
        return self._create(
            keras.layers.DepthwiseConv2D, DropConnectDepthwiseConv2D, "depthwise", name, kwargs
        )

    def dense(self, units: int, *, name: str, role: str = "head", **kwargs: Any) -> Any:
        """Returns a dense layer of role `head` or `hidden`, plain or Drop-Connect."""
        kwargs |= {"units": units}
        return self._create(keras.layers.Dense, DropConnectDense, role, name, kwargs)

    def _create(self, plain: Any, faulty: Any, role: str, name: str, kwargs: dict) -> Any:
        if self.drop_connect is None or role not in self.scope:
            return plain(name=name, **kwargs)
        return faulty(name=name, drop_connect=self.drop_connect, **kwargs)

    def checked(self, model: keras.Model) -> keras.Model:
        """Returns the model, once it is sure that `drop_connect` takes effect somewhere in it.

        Raises:
            ValueError: if `drop_connect` is given and no layer of the model has a role in `scope`.
        """
        if self.drop_connect is None or faulty_layers(model):
            return model
        kernel_layers = (
            keras.layers.Conv2D,
            keras.layers.DepthwiseConv2D,
            keras.layers.Dense,
        )
        present = {role_of(layer) for layer in model.layers if isinstance(layer, kernel_layers)}
        raise ValueError(
            f"`drop_connect={self.drop_connect!r}` cannot take effect: no layer of model "
            f"'{model.name}' has a role in `scope`. Received: scope of roles {sorted(self.scope)}, "
            f"where the model has {sorted(present)}. Give a scope with one of these roles, build "
            "the network with such layers (`resnet20` has linear bottlenecks only where "
            "`replaced=` says so), or leave out `drop_connect`."
        )
