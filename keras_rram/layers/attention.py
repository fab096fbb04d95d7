"""Attention layers with Drop-Connect and chip faults on their projections."""

from typing import Any

import keras

from keras_rram.layers.composite import CompositeMixin
from keras_rram.layers.parts import side_by_side

Tensor = Any


class _Attention(CompositeMixin):
    _places = {
        "query_kernel": ("_query_dense", "kernel"),
        "key_kernel": ("_key_dense", "kernel"),
        "value_kernel": ("_value_dense", "kernel"),
        "gate_kernel": ("_gate_dense", "kernel"),
        "output_kernel": ("_output_dense", "kernel"),
    }

    def build(  # type: ignore[override]
        self, query_shape: Any, value_shape: Any, key_shape: Any = None
    ) -> None:
        """Creates the projections, then the drop rate and one fault mask for each kernel."""
        self._plain.build(self, query_shape, value_shape, key_shape)
        self._build_fault_weights()

    @side_by_side
    def call(
        self,
        query: Tensor,
        value: Tensor,
        key: Tensor = None,
        query_mask: Tensor = None,
        value_mask: Tensor = None,
        key_mask: Tensor = None,
        attention_mask: Tensor = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
        use_causal_mask: bool = False,
    ) -> Any:
        """Returns what the Keras layer returns, projected by the effective kernels."""
        return self._plain.call(
            self._stand_in(training),
            query,
            value,
            key=key,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            attention_mask=attention_mask,
            return_attention_scores=return_attention_scores,
            training=training,
            use_causal_mask=use_causal_mask,
        )


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectMultiHeadAttention(_Attention, keras.layers.MultiHeadAttention):
    """`keras.layers.MultiHeadAttention` with Drop-Connect and chip faults on its projections.

    Args:
        *args: arguments of `keras.layers.MultiHeadAttention`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `kernel_constraint=DropConnect(...)` means `drop_connect=`.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectMultiHeadAttention(4, 16, drop_connect=0.2)
    ```
    """

    _plain = keras.layers.MultiHeadAttention
    _constraint_arguments = ("_kernel_constraint",)


@keras.saving.register_keras_serializable(package="keras_rram")
class DropConnectGroupQueryAttention(_Attention, keras.layers.GroupQueryAttention):
    """`keras.layers.GroupQueryAttention` with Drop-Connect and chip faults on its projections.

    Args:
        *args: arguments of `keras.layers.GroupQueryAttention`, likewise `**kwargs`.
        drop_connect: drop rate in `[0, 1)`, a `DropConnect`, or None for the plain Keras layer.
            At rate 0 nothing is dropped, but a chip can still be programmed.
        **kwargs: see `*args`. `kernel_constraint=DropConnect(...)` means `drop_connect=`.

    Example:

    ```python
    layer = keras_rram.layers.DropConnectGroupQueryAttention(16, 4, 2, drop_connect=0.2)
    ```
    """

    _plain = keras.layers.GroupQueryAttention
