"""The same ResNet20 in plain PyTorch, to measure training against.

It runs in a process of its own, since PyTorch and TensorFlow cannot both be imported everywhere (on
Linux the compilers in them have been seen to clash).
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import IO, Any, cast

import numpy as np

_FILTERS = (16, 32, 64)
_EXPANSION = 6


@contextlib.contextmanager
def trainer(
    replaced: Collection[int], batch: int, dtype: str = "float32"
) -> Iterator[Callable[[], object]]:
    """Gives a function that takes a training step in PyTorch, channels last, and waits for it.

    Args:
        replaced: convolutions (1 to 18) that are bottlenecks, as in `models.resnet20`.
        batch: images in a batch, the same random ones in each step.
        dtype: "float32", or "bfloat16" by autocast.
    """
    what = json.dumps({"replaced": list(replaced), "batch": batch, "dtype": dtype})
    with subprocess.Popen(
        [sys.executable, "-m", __name__, what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        orders, answers = cast(IO[str], process.stdin), cast(IO[str], process.stdout)

        def train() -> None:
            orders.write("step\n")
            orders.flush()
            if answers.readline() != "done\n":
                raise ValueError("expected a training step of PyTorch. Received: its process ended")

        try:
            yield train
        finally:
            process.kill()


def _serve(what: str) -> None:
    """Takes a step for each line of the standard input."""
    step = _step(**json.loads(what))
    for _ in sys.stdin:
        step()
        print("done", flush=True)


def _step(replaced: Collection[int], batch: int, dtype: str) -> Callable[[], object]:
    import torch

    torch.manual_seed(0)
    model = _network(replaced).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.normal(size=(batch, 3, 32, 32)).astype("float32"))
    images = images.to(memory_format=torch.channels_last)
    labels = torch.from_numpy(rng.integers(0, 10, batch))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    return step


def _network(replaced: Collection[int]) -> Any:
    from torch import nn

    class Block(nn.Module):
        """Two convolutions and a shortcut that drops every other pixel and pads channels."""

        def __init__(self, numbers: Sequence[int], inputs: int, outputs: int, stride: int):
            super().__init__()
            first, second = (number in replaced for number in numbers)
            self.first = _convolution(first, inputs, outputs, stride)
            self.second = _convolution(second, outputs, outputs, 1)
            self.missing, self.stride = outputs - inputs, stride

        def forward(self, inputs: Any) -> Any:
            outputs = self.second(nn.functional.relu(self.first(inputs)))
            shortcut = inputs[:, :, :: self.stride, :: self.stride]
            if self.missing:
                pad = (0, 0, 0, 0, self.missing // 2, self.missing - self.missing // 2)
                shortcut = nn.functional.pad(shortcut, pad)
            return nn.functional.relu(outputs + shortcut)

    blocks: list[Any] = []
    inputs = _FILTERS[0]
    for stage, outputs in enumerate(_FILTERS):
        for index in range(3):
            number = 6 * stage + 2 * index + 1
            stride = 2 if stage and not index else 1
            blocks.append(Block((number, number + 1), inputs, outputs, stride))
            inputs = outputs
    return nn.Sequential(
        *_layers(nn.Conv2d(3, _FILTERS[0], 3, padding=1, bias=False)),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(_FILTERS[-1], 10),
    )


def _layers(convolution: Any) -> list[Any]:
    """A convolution and its normalization."""
    from torch import nn

    return [convolution, nn.BatchNorm2d(convolution.out_channels)]


def _convolution(is_bottleneck: bool, inputs: int, outputs: int, stride: int) -> Any:
    from torch import nn

    if not is_bottleneck:
        return nn.Sequential(*_layers(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)))
    width = _EXPANSION * inputs
    return nn.Sequential(
        *_layers(nn.Conv2d(inputs, width, 1, bias=False)),
        nn.ReLU6(),
        *_layers(nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False)),
        nn.ReLU6(),
        *_layers(nn.Conv2d(width, outputs, 1, bias=False)),
        nn.BatchNorm2d(outputs),  # that of the convolution that it replaces
    )


if __name__ == "__main__":
    _serve(sys.argv[1])
