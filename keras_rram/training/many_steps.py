"""Several training steps in one call, where the calls are what takes the time: JAX on a GPU."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras

_MOST = 40
_BYTES = 1 << 27  # of the batches of a call: what is larger keeps a GPU busy step by step


def steps_at_once(
    model: keras.Model,
    callbacks: Iterable[keras.callbacks.Callback],
    steps: int,
    batch_bytes: int,
) -> int:
    """Returns how many steps of an epoch are best made in one call, a divisor of `steps`.

    A step of a small network takes a GPU less time than Python needs to call it. It is more than
    one only on JAX with a GPU or TPU, on one device, where no callback has something to do at each
    step and the batches of a call are at most 128 MiB.

    Args:
        model: compiled model.
        callbacks: those it is trained with.
        steps: steps in an epoch.
        batch_bytes: size of a batch's samples on the device.
    """
    if keras.config.backend() != "jax" or keras.distribution.distribution() is not None:
        return 1
    import jax

    if jax.default_backend() == "cpu" or model.run_eagerly or not model.jit_compile:
        return 1
    if any(_acts_in_steps(callback) for callback in callbacks):
        return 1
    most = min(_MOST, max(1, _BYTES // batch_bytes))
    return max(count for count in range(1, most + 1) if steps % count == 0)


def _acts_in_steps(callback: keras.callbacks.Callback) -> bool:
    for name in ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end"):
        # `LambdaCallback` has functions where others have methods.
        method = getattr(getattr(callback, name), "__func__", None)
        if method is not getattr(keras.callbacks.Callback, name):
            return True
    return False


@contextlib.contextmanager
def many_steps(model: keras.Model, count: int) -> Iterator[None]:
    """Within it, `fit` of a model compiled on JAX makes `count` steps in one call.

    They are the same steps: each has its batch, its masks and its update, and the metrics are over
    all of them. Callbacks are told of the first and the last of a call. The data of an epoch must
    be whole calls.

    Args:
        model: compiled model; its training function is made anew at both ends.
        count: steps in a call, at least 1, which changes nothing.

    Example:

    ```python
    with many_steps(model, 30):
        model.fit(dataset.batches(128, seed=0), steps_per_epoch=390, epochs=20)
    ```
    """
    if count == 1:
        yield
        return
    single = model.steps_per_execution

    def make(force: bool = False) -> None:
        if force or model.train_function is None:
            model.train_function = _scanned(model, count)

    model.steps_per_execution, model.train_function = count, None
    model.make_train_function = make
    try:
        yield
    finally:
        model.steps_per_execution, model.train_function = single, None
        del model.make_train_function  # the class has its own


def _scanned(model: keras.Model, count: int) -> Callable[[Any, Any], Any]:
    """Returns a training function, as Keras has it: `(state, iterator) -> (logs, state)`."""
    import jax

    def one(state: Any, batch: Any) -> Any:
        logs, state = model.train_step(state, batch)
        return state, logs

    def call(state: Any, batches: Any) -> Any:
        stacked = jax.tree.map(lambda *parts: jax.numpy.stack(parts), *batches)
        state, logs = jax.lax.scan(one, state, stacked)
        return jax.tree.map(lambda values: values[-1], logs), state

    compiled = jax.jit(call, donate_argnums=0)

    def train(state: Any, iterator: Iterator[Any]) -> Any:
        return compiled(state, tuple(itertools.islice(iterator, count)))

    return train
