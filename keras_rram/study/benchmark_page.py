"""The page of the benchmark, from its records."""

import os
import pathlib
from typing import Any

from keras_rram.files import written_whole
from keras_rram.files.schemas import BENCHMARK
from keras_rram.study.benchmark import TASKS, Task, population_sha256
from keras_rram.study.markdown import percent, table, with_range

_INTRODUCTION = """# A benchmark of methods against faults

How good is a way to make a network bear faulty cells? Each task is a fixed population of 100
chips (fault model, seed, and so every mask) and fixed test images; an entry is a trained model,
with or without a repair of each chip. Rows compare within one access tier: **A** is one model for
all chips, **B** has unlabelled images of the chip, **C** its map or labels.

Your own model, trained with whatever you have, is a row after one command:

```bash
python -m tools.reproduce --benchmark=mnist-30 --model=mine.keras --entry="my method" \\
    --data_dir=DIR --out=runs/reproduction --publish=docs
```

`--convert` puts a plain Keras model's layers on the chip, `--normalize` says how its images are
prepared, and `--repair=` repairs each chip. A model with other faulty layers than the task's
network is scored too, and marked: its chips have the same rates and seeds, but not the same
masks.

Means in percent, with two-way 95% intervals (new chips, new images); sd, without the noise of
finitely many images, and worst chip over the 100 chips. Scored twice, an entry has the same
digits. The files in `benchmark/` have each entry's commands and the hash of its model.
"""


def publish_benchmark(runs: str | os.PathLike[str], docs: str | os.PathLike[str]) -> pathlib.Path:
    """Copies the records of a benchmark folder to `docs/benchmark/` and rebuilds the page.

    Args:
        runs: folder of `score`; it may be missing, then the page is made of what is published.
        docs: folder of the page, `benchmark.md`.

    Returns:
        The page's path.

    Raises:
        ValueError: if there is no record, or one that is damaged or of another version.
    """
    docs = pathlib.Path(docs)
    for record in _read(pathlib.Path(runs)):
        folder = docs / "benchmark" / record["task"]
        folder.mkdir(parents=True, exist_ok=True)
        BENCHMARK.write(folder / record.pop("file"), record, indent=1)
    records = _read(docs / "benchmark")
    if not records:
        raise ValueError(
            f"Expected finished entries in '{runs}' or '{docs / 'benchmark'}'. Received: none "
            "(score a model with --benchmark first)"
        )
    lines = [_INTRODUCTION]
    for task in TASKS.values():
        chosen = [record for record in records if record["task"] == task.name]
        if chosen:
            lines += _task(task, chosen)
    page = docs / "benchmark.md"
    with written_whole(page) as temporary:
        temporary.write_text("\n".join(lines).rstrip() + "\n")
    return page


def _read(folder: pathlib.Path) -> list[dict[str, Any]]:
    found = []
    for path in sorted(folder.glob("*/*.json")):
        found.append(BENCHMARK.read(path) | {"file": path.name})
    return found


def _task(task: Task, records: list[dict[str, Any]]) -> list[str]:
    by_tier = sorted(
        records, key=lambda record: (record["access_tier"], -record["figures"]["mean"])
    )
    rows = []
    for record in by_tier:
        figures = record["figures"]
        rows.append(
            [
                record["access_tier"],
                record["method"] + ("" if record["on_reference_network"] else " (own network)"),
                "-" if record["repair"] == "none" else f"`{record['repair']}`",
                percent(figures["fault_free"]),
                with_range(figures["low"], figures["mean"], figures["high"]),
                percent(figures["sd"]),
                percent(figures["worst"]),
                f"[{record.get('commit') or 'record'}](benchmark/{task.name}/{record['file']})",
            ]
        )
    titles = ["tier", "method", "repair", "fault-free", "mean (95%)", "sd", "worst chip", "record"]
    return [
        f"## {task.name}: {task.title}",
        "",
        f"`{task.faults}`, {task.chips} chips of seed {task.seed}, {task.images:,} test images; "
        + (
            "what a stuck cell does depends on the weights."
            if task.fault_model.needs_kernel
            else f"masks on the reference network: `{population_sha256(task)[:16]}`."
        ),
        "",
        *table(titles, rows),
    ]
