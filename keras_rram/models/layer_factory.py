"""Which layers of a network sit on faulty hardware, and how its channels are normalized."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras

from keras_rram.layers import (
    CenteredInput,
    DropConnectConv2D,
    DropConnectDense,
    DropConnectDepthwiseConv2D,
    FusedBatchNormalization,
    FusedGroupNormalization,
    faulty_layers,
)
from keras_rram.layers.drop_connect import DropConnect
from keras_rram.layers.group_normalization import NORMALIZATIONS, groups_of
from keras_rram.layers.roles import resolve_scope, role_of
from keras_rram.models.arguments import check_choice

# The networks read NHWC images whatever `keras.config.image_data_format()` says.
DATA_FORMAT = "channels_last"

# As in PyTorch, in which the study ran. The default momentum of Keras, 0.99, makes the moving
# statistics lag behind in the first epochs of a short training.
BATCH_NORMALIZATION = {"momentum": 0.9, "epsilon": 1e-5}

KerasTensor = Any


@dataclass(frozen=True)
class LayerFactory:
    """Says which layers of a network sit on faulty hardware, and creates them.

    A layer whose role is in `scope` is a Drop-Connect layer, any other the plain Keras layer.

    Args:
        drop_connect: drop rate in `[0, 1)` or `DropConnect` of the layers on faulty hardware; None
            for plain Keras layers everywhere.
        scope: a key of `keras_rram.layers.roles.SCOPES`, a role, or several roles.
        normalization: "batch"; or "instance" or "group" (of 4 channels), whose statistics are those
            of each image, on whatever chip it is, see `FusedGroupNormalization`.
        centered_inputs: whether a `CenteredInput` goes before each layer on faulty hardware.

    Raises:
        ValueError: if `scope` names neither a scope nor a role, `normalization` is unknown, or
            `centered_inputs` is given without `drop_connect`.

    Example:

    ```python
    factory = LayerFactory(drop_connect=0.2, scope="depthwise")
    factory.conv2d(16, 1, role="expand", name="block1_expand")  # keras.layers.Conv2D
    factory.depthwise_conv2d(3, name="block1_depthwise")  # DropConnectDepthwiseConv2D
    ```
    """

    drop_connect: float | DropConnect | None = None
    scope: str | Iterable[str] = "blocks"
    normalization: str = "batch"
    centered_inputs: bool = False

    def __post_init__(self) -> None:
        """Resolves the scope to its roles, and checks the rest."""
        check_choice("normalization", self.normalization, NORMALIZATIONS)
        if self.centered_inputs and self.drop_connect is None:
            raise ValueError(
                "`centered_inputs=True` cannot take effect without faulty layers: expected "
                "`drop_connect`, a rate of 0 is enough. Received: drop_connect=None"
            )
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

    def normalize(self, x: KerasTensor, *, name: str) -> KerasTensor:
        """Normalizes the channels of `x`, shape `(batch, height, width, channels)`.

        Args:
            x: images.
            name: place; the layer is `<name>_bn`, `<name>_in` or `<name>_gn`, as it is of batch,
                instance or group normalization.

        Raises:
            ValueError: if instance normalization would get a single pixel, and make it zero.
        """
        name = f"{name}_{NORMALIZATIONS[self.normalization]}"
        if self.normalization == "batch":
            return FusedBatchNormalization(**BATCH_NORMALIZATION, name=name)(x)
        if self.normalization == "instance" and x.shape[1] == x.shape[2] == 1:
            raise ValueError(
                f"Instance normalization of the single pixel at '{name}' makes it zero. Expected "
                "larger images, or normalization='group' or 'batch'. Received: "
                "normalization='instance'"
            )
        groups = groups_of(self.normalization, x.shape[-1])
        return FusedGroupNormalization(groups, name=name)(x)

    def center(self, x: KerasTensor, *, role: str, name: str) -> KerasTensor:
        """Centres the input of the layer `name`, if such layers are faulty and inputs centred."""
        if not self.centered_inputs or not self.is_faulty(role):
            return x
        return CenteredInput(name=f"{name}_center")(x)

    def is_faulty(self, role: str) -> bool:
        """Returns whether layers of a role sit on faulty hardware."""
        return self.drop_connect is not None and role in self.scope

    def _create(self, plain: Any, faulty: Any, role: str, name: str, kwargs: dict) -> Any:
        if not self.is_faulty(role):
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
