"""`--benchmark`: a model as an entry of the benchmark of methods."""

import os
from typing import Any

from absl import flags
from tqdm import tqdm

from . import cli, inputs, repair_flags

FLAGS = flags.FLAGS


@cli.section("benchmark")
def define() -> None:
    """Defines the flags of an entry."""
    flags.DEFINE_list("benchmark", [], "Tasks to score --model on; or all.")
    flags.DEFINE_string("entry", None, "Name of the entry: how the model was trained.")
    flags.DEFINE_string("normalize", None, "How images are prepared, where no config.json says it.")
    inputs.define_model(convert=True)
    repair_flags.define()


def run() -> list[str]:
    """Scores the model on each task and returns a line on each.

    Raises:
        ValueError: if a flag does not fit.
    """
    from keras_rram import data
    from keras_rram.study import TASKS, score

    if FLAGS["panel"].present:
        raise ValueError("--panel and --benchmark exclude each other.")
    names = list(TASKS) if FLAGS.benchmark == ["all"] else FLAGS.benchmark
    for name in names:
        if name not in TASKS:
            raise ValueError(f"--benchmark must be of {list(TASKS)}, or all. Received: {name!r}")
    if not FLAGS.entry:
        raise ValueError("--entry is missing: name the method, as its row shall.")
    repair_flags.plan()
    model = inputs.faulty_model(FLAGS.model)
    training = inputs.Training.beside(FLAGS.model)
    lines = []
    for name in (bar := tqdm(names, desc="benchmark", disable=None)):
        bar.set_postfix_str(name)
        task = TASKS[name]
        how = training.normalization or FLAGS.normalize
        dataset = data.load(task.dataset, FLAGS.data_dir, FLAGS.download, how)
        images, labels = dataset.arrays("test", task.images)
        tqdm.write(inputs.describe(dataset, images))
        origin: dict[str, Any] = {"command": _command(name), "commit": cli.commit()}
        origin["training"] = training.origin()
        out = os.path.join(FLAGS.out, "benchmark")
        repair = repair_flags.given(dataset)
        record = score(task, model, images, labels, FLAGS.entry, repair, origin, out, FLAGS.jobs)
        found = record["figures"]
        lines.append(
            f"{name}, tier {record['access_tier']}: {found['mean']:.2%} "
            f"({found['low']:.2%} to {found['high']:.2%}), worst {found['worst']:.2%}"
        )
    return lines


def _command(task: str) -> str:
    parts = [f"python -m tools.reproduce --benchmark={task} --model=MODEL --entry={FLAGS.entry!r}"]
    parts += [f"--repair={FLAGS.repair}"] if FLAGS.repair != "none" else []
    parts += ["--convert"] if FLAGS.convert else []
    parts += [f"--where={','.join(FLAGS.where)}"] if FLAGS.where else []
    parts += [f"--normalize={FLAGS.normalize}"] if FLAGS.normalize else []
    return " ".join([*parts, "--data_dir=DIR"])
