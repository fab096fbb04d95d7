"""Roles: what a layer is in its network, and the named sets of roles that can be faulty."""

from collections.abc import Iterable

import keras

ROLES = ("stem", "expand", "depthwise", "project", "conv", "shortcut", "hidden", "head")

SCOPES: dict[str, frozenset[str]] = {
    # All kernels of the linear bottlenecks.
    "blocks": frozenset({"expand", "depthwise", "project"}),
    "depthwise": frozenset({"depthwise"}),
    # Every convolution of the network, the stem included.
    "convolutions": frozenset(ROLES) - {"hidden", "head"},
    "all": frozenset(ROLES),
}

_ROLES_OF_KINDS: dict[tuple[type, ...], str] = {
    (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D): "depthwise",
    (keras.layers.Dense,): "head",
    (
        keras.layers.SimpleRNN,
        keras.layers.LSTM,
        keras.layers.GRU,
        keras.layers.MultiHeadAttention,
        keras.layers.GroupQueryAttention,
        keras.layers.EinsumDense,
    ): "hidden",
}


def role_of(layer: keras.Layer) -> str:
    """Returns the role of a layer with kernels.

    `hidden` is a matrix layer in front of the `head`, the classifier.

    The builders of `keras_rram.models` end each layer name with its role (`block1_expand`), and so
    do many networks of `keras.applications` (`block_3_project`). A name without a role falls back
    on the layer's type: depthwise convolutions are `depthwise`, dense layers `head`, recurrent,
    attention and einsum layers `hidden`, any other `conv`.
    """
    for token in reversed(layer.name.lower().split("_")):
        if token in ROLES:
            return token
    for kinds, role in _ROLES_OF_KINDS.items():
        if isinstance(layer, kinds):
            return role
    return "conv"


def resolve_scope(scope: str | Iterable[str]) -> frozenset[str]:
    """Returns the set of roles that a scope names.

    Args:
        scope: a key of `SCOPES`, a role, or several roles.

    Raises:
        ValueError: if a name is neither a scope nor a role, or if there is none.
    """
    names = (scope,) if isinstance(scope, str) else tuple(scope)
    roles: frozenset[str] = frozenset()
    for name in names:
        if name not in SCOPES and name not in ROLES:
            raise ValueError(
                f"`scope` must be one of {sorted(SCOPES)} or roles out of {list(ROLES)}. "
                f"Received: {name!r}"
            )
        roles |= SCOPES.get(name, frozenset({name}))
    if not roles:
        raise ValueError(f"`scope` must name at least one role. Received: {scope!r}")
    return roles
