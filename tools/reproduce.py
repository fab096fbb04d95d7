r"""Runs the study's panels, and builds the page that compares them with it.

One panel on the offline digits, in seconds; all MNIST panels on two CPU cores; a CIFAR-10 panel
with the study's 200 epochs on a GPU, with the JAX backend:

  python -m tools.reproduce --panel=2B --scale=smoke --out=runs/smoke
  python -m tools.reproduce --panel=mnist --scale=short --data_dir=DIR --out=runs/reproduction
  python -m tools.reproduce --panel=4C --scale=paper --backend=jax --data_dir=DIR \
      --out=runs/reproduction

`--panel` takes panels (2A-2C, 3A-3C, S1A-S1E, 4A-4F, all: see `keras_rram.study.panels.PANELS`;
basic-10 to bottlenecks-30: see `keras_rram.study.bottlenecks.PAIRS`) and groups of them: mnist,
cifar10, architectures, all_panels, linear_bottlenecks. The same command continues what was
killed or is missing, and repeats nothing (`--noresume` refuses a folder that holds a run); a panel
that fails does not stop the others. `--seeds=0,1,2` trains each panel with each seed.
`--at_once=5` has five of them run at the same time, each in a process with a log in `OUT/logs/`: a
small network leaves most of a large GPU idle.
`--protocol=published` trains and evaluates as the study's code did, `--method` in another way than
the study. `--publish=docs` copies the small results to `docs/reproduction/` and rebuilds
`docs/reproduction.md`, its appendix and its table; with `--panel=` (none) it does nothing else.

`--benchmark` scores a model of your own on fixed populations, beside other methods; with
`--publish` it gets its rows in `docs/benchmark.md`:

  python -m tools.reproduce --benchmark=mnist-10,mnist-30 --model=mine.keras --entry="my method" \
      --data_dir=DIR --out=runs/reproduction --publish=docs
"""

import os
from collections.abc import Sequence
from typing import Any

from absl import flags
from tqdm import tqdm

from . import at_once, benchmark_entry, cli, inputs, number_flags

FLAGS = flags.FLAGS

flags.DEFINE_list("panel", ["2A"], "Panels, or groups of them.")
flags.DEFINE_enum("scale", "short", ["smoke", "brief", "short", "long", "paper"], "How large.")
flags.DEFINE_enum("protocol", "text", ["text", "published"], "As the study says, or as it did.")
flags.DEFINE_string("network", None, "strided or published for MNIST; default: by scale.")
flags.DEFINE_string("method", "study", "How to train: a name in keras_rram.study.METHODS.")
flags.DEFINE_list("seeds", ["0"], "Seeds of weights, images and masks; each is a run.")
flags.DEFINE_bool("resume", True, "Go on with runs that were stopped, keep those finished.")
inputs.define_data_dir()
benchmark_entry.define()
number_flags.define_jobs("Processes for the populations; -1 for one on each core.")
number_flags.define_whole(
    "at_once", 1, "Panels that run at the same time, each in a process of its own.", "[1, 1000]"
)
flags.DEFINE_string("out", "runs/reproduction", "Folder for the runs.")
flags.DEFINE_string("publish", None, "Folder of the page and of the small results, say docs.")
flags.DEFINE_enum("backend", None, ["tensorflow", "jax", "torch"], "Keras backend.")
flags.DEFINE_enum("device", None, ["cpu", "gpu"], "Where to compute; default: a GPU if there is.")


def main(argv: Sequence[str]) -> None:
    """Runs the panels and publishes them, as the flags say."""
    del argv
    if FLAGS.benchmark:
        print("\n".join(benchmark_entry.run()))
        _publish()
        return
    if alone := [name for name in ("model", "entry", "normalize") if FLAGS[name].present]:
        raise ValueError(f"--{alone[0]} goes with --benchmark.")
    runs = _runs()
    failed = _in_processes(runs) if FLAGS.at_once > 1 else _in_turn(runs)
    if runs:
        print(f"Results: {FLAGS.out}/")
    _publish()
    if failed:
        cli.fail(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}")


def _in_turn(runs: Sequence[Any]) -> list[str]:
    """Runs one after the other, and returns the names of those that failed."""
    from keras_rram.study import run_panel

    failed = []
    for run in (bar := tqdm(runs, desc="panels", disable=None if runs else True)):
        bar.set_postfix_str(run.name)
        try:
            record = run_panel(
                run,
                FLAGS.out,
                FLAGS.data_dir,
                FLAGS.download,
                {"command": _command(run), "commit": cli.commit()},
                verbose=2,
                jobs=FLAGS.jobs,
                resume=FLAGS.resume,
            )
        except (ValueError, OSError) as error:
            if len(runs) == 1:
                raise
            failed.append(run.name)
            tqdm.write(f"{run.name}: {cli.in_a_line(error)}")
            continue
        tqdm.write(_line(record))
    return failed


def _in_processes(runs: Sequence[Any]) -> list[str]:
    """Runs `--at_once` at a time, and returns the names of those that failed."""
    from keras_rram.files.schemas import PANEL

    logs = os.path.join(FLAGS.out, "logs")
    commands = {run.name: _process(run) for run in runs}
    # Networks that differ in their drop rate or seed alone are compiled alike, once.
    compiled = {"JAX_COMPILATION_CACHE_DIR": os.path.abspath(os.path.join(logs, "compiled"))}
    failed = []
    with tqdm(total=len(runs), desc="panels", disable=None if runs else True) as bar:
        for name, code in at_once.run_at_once(commands, FLAGS.at_once, logs, compiled):
            bar.update()
            if code:
                failed.append(name)
                tqdm.write(f"{name}: failed, see {logs}/{name}.txt")
                continue
            tqdm.write(_line(PANEL.read(os.path.join(FLAGS.out, name, "record.json"))))
    return failed


def _process(run: Any) -> list[str]:
    """Returns the command line that does one run as this one would."""
    named = {
        "panel": run.panel.name,
        "scale": run.scale,
        "protocol": run.protocol,
        "network": run.network,
        "seeds": run.seed,
        "method": run.method,
    }
    passed_on = ("data_dir", "download", "jobs", "out", "backend", "device", "resume")
    given = {name: FLAGS[name].value for name in passed_on if FLAGS[name].present}
    flags_of = [f"--{name}={value}" for name, value in {**named, **given}.items()]
    return [*cli.start("reproduce"), *flags_of]


def _publish() -> None:
    """Rebuilds the page of `--publish`: that of the benchmark, or that of the study."""
    if not FLAGS.publish:
        return
    from keras_rram.study import publish, publish_benchmark

    if FLAGS.benchmark:
        print(f"Page: {publish_benchmark(os.path.join(FLAGS.out, 'benchmark'), FLAGS.publish)}")
    else:
        print(f"Page: {publish(FLAGS.out, FLAGS.publish)}")


def _runs() -> list[Any]:
    """Returns what the flags name: each panel with each seed."""
    from keras_rram.study import METHODS, Run
    from keras_rram.study.setups import default_network, setup

    if FLAGS.method not in METHODS:
        raise ValueError(f"--method must be one of {list(METHODS)}. Received: {FLAGS.method!r}")
    runs = []
    for panel in _panels():
        network = FLAGS.network or default_network(panel, FLAGS.scale)
        how = setup(panel, FLAGS.scale, FLAGS.protocol, network)
        for seed in cli.numbers("seeds", number_flags.SEEDS, whole=True):
            runs.append(Run(panel, how, FLAGS.scale, FLAGS.protocol, network, seed, FLAGS.method))
    return runs


def _panels() -> list[Any]:
    """Returns the named panels, each once."""
    from keras_rram.study.bottlenecks import ALL_GROUPS, ALL_PANELS

    names: list[str] = []
    for given in FLAGS.panel:
        if given not in ALL_GROUPS and given not in ALL_PANELS:
            raise ValueError(
                f"--panel must be panels {list(ALL_PANELS)} or groups {list(ALL_GROUPS)}. "
                f"Received: {given!r}"
            )
        names += ALL_GROUPS.get(given, (given,))
    return [ALL_PANELS[name] for name in dict.fromkeys(names)]


def _command(run: Any) -> str:
    """Returns the command of one panel, without this machine's paths."""
    parts = [f"python -m tools.reproduce --panel={run.panel.name} --scale={run.scale}"]
    parts += [f"--protocol={run.protocol} --network={run.network} --seeds={run.seed}"]
    parts += [f"--method={run.method}"] if run.method != "study" else []
    parts += [f"--backend={FLAGS.backend}"] if FLAGS.backend else []
    if run.scale != "smoke":
        parts.append("--data_dir=DIR")
    return " ".join(parts)


def _line(record: dict[str, Any]) -> str:
    found = record["populations"]["chips"]
    sd = f", sd {100 * found['sd']:.2f}" if found["sd"] is not None else ""
    text = f"{record['name']}: fault-free {found['fault_free']:.2%}, chips {found['mean']:.2%}{sd}"
    repaired = record["populations"].get("chips_repaired")
    return text + (f", recalibrated {repaired['mean']:.2%}" if repaired else "")


if __name__ == "__main__":
    cli.run(main)
