"""Training recipes: optimizer, schedule, batch size and epochs as one record."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import keras

from keras_rram.training.checkpoint import strategy_scope
from keras_rram.training.muon import KernelMuon, vectors_of

# A learning rate that rises from 1/25 of its peak and ends at 1/10,000 of it, as in PyTorch's
# `OneCycleLR`.
_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = 1e-4
# Fields that checkpoints of earlier versions do not name, and their values of then.
_LATER_FIELDS = {
    "gradient_clip": 0.0,
    "drop_rates": "constant",
    "drop_ramp_epochs": 0,
    "statistics_epochs": 0,
}


def _require(condition: bool, expected: str, name: str, value: Any) -> None:
    if not condition:
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class Recipe:
    """How to train: everything but the model, the data and the seed.

    `weight_decay` of "sgd" means what it means in PyTorch and in the ResNet literature: an L2
    term, `gradient + weight_decay * weight`, which passes through the momentum. There, in the
    steady state, each step shrinks a weight by `learning_rate * weight_decay / (1 - momentum)`.
    Keras shrinks weights outside the momentum, so it is given `weight_decay / (1 - momentum)`.
    The two agree where weights change little within `1 / (1 - momentum)` steps. For "adam" it is
    the decoupled decay of AdamW ([Loshchilov and Hutter, 2019](https://arxiv.org/abs/1711.05101)),
    for which PyTorch and Keras agree as they are, and so for "muon". Biases and normalization
    weights decay too, as in PyTorch.

    Args:
        optimizer: "adam"; "sgd"; or "muon", see `KernelMuon`.
        learning_rate: the highest learning rate of the schedule.
        batch_size: images in a batch, over all devices.
        epochs: passes over the training images.
        schedule: "constant"; "step" multiplies by `decay_factor` at each milestone; "cosine" falls
            to 0 over all epochs; "one_cycle" rises linearly from 1/25 of `learning_rate` in the
            first `warmup_fraction` of all steps, then falls by a cosine to 1/10,000 of it.
        milestones: for "step", the epochs (completed, increasing) after which the rate changes.
        decay_factor: for "step", in (0, 1).
        warmup_fraction: for "one_cycle", in (0, 1).
        momentum: for "sgd" and "muon", in [0, 1).
        nesterov: for those with momentum.
        weight_decay: at least 0; see above.
        gradient_clip: if positive, a longer gradient (of all weights together) is shortened to this
            norm.
        drop_rates: "constant"; or "uniform" draws the drop rate of each step anew between 0 and
            each layer's own, so that one model serves chips of all these fault rates.
        drop_ramp_epochs: epochs in which the drop rate rises from 0 to its full value.
        statistics_epochs: the last epochs, on fixed statistics; see `FixedStatistics`.

    Raises:
        ValueError: if a value is out of range, or if it could not take effect.

    Example:

    ```python
    recipe = dataclasses.replace(RECIPES["cifar10"], epochs=100, milestones=(50, 75))
    recipe.compile(model, dataset.steps_per_epoch(recipe.batch_size))
    ```
    """

    optimizer: str
    learning_rate: float
    batch_size: int
    epochs: int
    schedule: str = "constant"
    milestones: tuple[int, ...] = ()
    decay_factor: float = 0.1
    warmup_fraction: float = 0.0
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    gradient_clip: float = 0.0
    drop_rates: str = "constant"
    drop_ramp_epochs: int = 0
    statistics_epochs: int = 0

    def __post_init__(self) -> None:
        """Checks every value, alone and against the others."""
        adam, step = self.optimizer == "adam", self.schedule == "step"
        optimizers = ("adam", "sgd", "muon")
        one_cycle = self.schedule == "one_cycle"
        schedules = ("constant", "step", "cosine", "one_cycle")
        rising = all(
            _is_integer(after) and before < after < self.epochs
            for before, after in zip((0, *self.milestones), self.milestones, strict=False)
        )

        def within_epochs(epochs: Any) -> bool:
            return _is_integer(epochs) and 0 <= epochs < self.epochs

        ramp, fixed = "drop_ramp_epochs", "statistics_epochs"
        for holds, expected, name in (
            (self.optimizer in optimizers, f"one of {optimizers}", "optimizer"),
            (self.schedule in schedules, f"one of {schedules}", "schedule"),
            (0 < self.learning_rate < math.inf, "a positive number", "learning_rate"),
            (_is_integer(self.batch_size) and self.batch_size > 0, "an integer >= 1", "batch_size"),
            (_is_integer(self.epochs) and self.epochs > 0, "an integer >= 1", "epochs"),
            (rising, f"increasing epochs between 0 and {self.epochs}", "milestones"),
            (bool(self.milestones) == step, "given for schedule 'step', only", "milestones"),
            (0 < self.decay_factor < 1, "in (0, 1)", "decay_factor"),
            (0 <= self.warmup_fraction < 1, "in [0, 1)", "warmup_fraction"),
            (
                (self.warmup_fraction > 0) == one_cycle,
                "given for schedule 'one_cycle', only",
                "warmup_fraction",
            ),
            (0 <= self.momentum < 1, "in [0, 1)", "momentum"),
            (not (adam and self.momentum), "0 for the optimizer 'adam'", "momentum"),
            (not self.nesterov or self.momentum > 0, "False without momentum", "nesterov"),
            (0 <= self.weight_decay < math.inf, "at least 0", "weight_decay"),
            (0 <= self.gradient_clip < math.inf, "at least 0", "gradient_clip"),
            (self.drop_rates in ("constant", "uniform"), "'constant' or 'uniform'", "drop_rates"),
            (within_epochs(self.drop_ramp_epochs), "at least 0, below `epochs`", ramp),
            (within_epochs(self.statistics_epochs), "at least 0, below `epochs`", fixed),
        ):
            _require(holds, expected, name, getattr(self, name))

    def fingerprint(self) -> dict[str, Any]:
        """Returns what must stay the same when training resumes, as values that JSON can hold.

        The number of epochs is part of it only where the schedule depends on it: a constant or
        stepped run can be prolonged.
        """
        values = asdict(self)
        if self.schedule in ("constant", "step") and not self.statistics_epochs:
            del values["epochs"]
        for name, unused in _LATER_FIELDS.items():
            if values[name] == unused:
                del values[name]
        return values

    def learning_rate_schedule(self, steps_per_epoch: int) -> Any:
        """Returns the learning rate for Keras: a float, or a schedule by optimizer step."""
        steps = steps_per_epoch * self.epochs
        if self.schedule == "constant":
            return self.learning_rate
        if self.schedule == "step":
            # Keras changes the value in the step after the boundary; the first step is step 0.
            return keras.optimizers.schedules.PiecewiseConstantDecay(
                [epoch * steps_per_epoch - 1 for epoch in self.milestones],
                [
                    self.learning_rate * self.decay_factor**count
                    for count in range(len(self.milestones) + 1)
                ],
            )
        if self.schedule == "cosine":
            return keras.optimizers.schedules.CosineDecay(self.learning_rate, steps)
        warmup_steps = max(1, round(self.warmup_fraction * steps))
        return keras.optimizers.schedules.CosineDecay(
            self.learning_rate * _ONE_CYCLE_START,
            max(1, steps - warmup_steps),
            alpha=_ONE_CYCLE_END,
            warmup_target=self.learning_rate,
            warmup_steps=warmup_steps,
        )

    def build_optimizer(
        self, steps_per_epoch: int, model: keras.Model | None = None
    ) -> keras.optimizers.Optimizer:
        """Returns a new Keras optimizer with this recipe's schedule.

        Args:
            steps_per_epoch: optimizer steps in an epoch.
            model: for "muon", the built model, whose layers say which kernels are matrices; without
                it, all are.
        """
        learning_rate = self.learning_rate_schedule(steps_per_epoch)
        if self.optimizer == "adam":
            return keras.optimizers.Adam(
                learning_rate,
                weight_decay=self.weight_decay or None,
                global_clipnorm=self.gradient_clip or None,
            )
        if self.optimizer == "muon":
            return KernelMuon(
                learning_rate,
                momentum=float(self.momentum),
                nesterov=self.nesterov,
                weight_decay=self.weight_decay or None,
                adam_weight_decay=self.weight_decay or None,
                global_clipnorm=self.gradient_clip or None,
                exclude_layers=None if model is None else vectors_of(model),
            )
        return keras.optimizers.SGD(
            learning_rate,
            momentum=float(self.momentum),
            nesterov=self.nesterov,
            weight_decay=self.weight_decay / (1 - self.momentum) or None,
            global_clipnorm=self.gradient_clip or None,
        )

    def compile(self, model: keras.Model, steps_per_epoch: int) -> None:
        """Compiles a model that outputs logits, with the metric "accuracy".

        XLA stays off on the TensorFlow backend without a GPU: there it was measured at 0.1 to 0.8
        times the speed of the plain graph.
        """
        on_cpu = keras.config.backend() == "tensorflow" and not keras.distribution.list_devices(
            "gpu"
        )
        with strategy_scope(model):
            model.compile(
                optimizer=self.build_optimizer(steps_per_epoch, model),
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
                jit_compile=False if on_cpu else "auto",
            )


RECIPES: dict[str, Recipe] = {
    # The offline digits, in a minute or two on two CPU cores.
    "digits": Recipe(
        optimizer="adam",
        learning_rate=1e-2,
        batch_size=64,
        epochs=15,
        schedule="one_cycle",
        warmup_fraction=0.2,
    ),
    # The full MNIST in a third of the study's time, and better.
    "mnist_short": Recipe(
        optimizer="adam",
        learning_rate=1e-2,
        batch_size=128,
        epochs=8,
        schedule="one_cycle",
        warmup_fraction=0.2,
    ),
    # The settings of the source study.
    "mnist": Recipe(optimizer="adam", learning_rate=1e-3, batch_size=256, epochs=20),
    "cifar10": Recipe(
        optimizer="sgd",
        learning_rate=0.1,
        batch_size=128,
        epochs=200,
        schedule="step",
        milestones=(100, 150),
        momentum=0.9,
        weight_decay=1e-4,
    ),
    # A sixth of the time, for a first look.
    "cifar10_short": Recipe(
        optimizer="sgd",
        learning_rate=0.2,
        batch_size=128,
        epochs=30,
        schedule="one_cycle",
        warmup_fraction=0.2,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
    ),
    # Without drops a point above `cifar10_short` of as many epochs; with several masks no better,
    # see docs/robust_training.md.
    "cifar10_muon": Recipe(
        optimizer="muon",
        learning_rate=1e-2,
        batch_size=128,
        epochs=20,
        schedule="one_cycle",
        warmup_fraction=0.2,
        momentum=0.95,
        nesterov=True,
        weight_decay=0.1,
    ),
}
