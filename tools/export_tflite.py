r"""Writes TFLite files of a trained model: the fault-free one, and one for each chip.

The model is converted and calibrated once; the file of a chip is that file with the faulty weights'
bytes patched. Every file is verified after writing and has a JSON sidecar.

Ten sampled chips at 20% faults as int8, then a chip with a measured fault map:

  python -m tools.export_tflite --model=runs/digits/model.keras --fault_rate=0.2 --chips=10 \
      --out=runs/tflite
  python -m tools.export_tflite --model=runs/digits/model.keras --chip=map.npz --out=runs/mine

Chips with other faults, here the cells of differential pairs, of which some are stuck on:

  python -m tools.export_tflite --model=runs/digits/model.keras --chips=10 --out=runs/pairs \
      --fault_model=differential_pair:stuck_off=0.05,stuck_on=0.001

Without --fault_rate, --fault_model and --chip only the fault-free file is written. `--data` must be
the dataset of the training: its training images calibrate int8, its test images verify the files.
Activation ranges are those of the fault-free model, or those of some chips, which reach less far:

  python -m tools.export_tflite --model=runs/digits/model.keras --fault_rate=0.2 --chips=1000 \
      --calibration_chips=5 --norun_all --out=runs/thousand

`--cross_check=20` shows on 20 chips that patching is as good as converting: every weight is held
against a fresh conversion of the baked chip. It is slow.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import flags

from . import cli

FLAGS = flags.FLAGS

flags.DEFINE_string("model", None, "Trained model, a .keras file.")
flags.DEFINE_enum(
    "quantization",
    "int8",
    ["int8", "float32", "float16", "dynamic", "int16x8"],
    "Numbers in the file.",
)
flags.DEFINE_string("data", "digits", "digits (offline), mnist, cifar10, or an .npz file.")
flags.DEFINE_string("data_dir", None, "Folder of tensorflow-datasets.")
flags.DEFINE_bool("download", False, "Download the dataset if it is not in --data_dir.")
flags.DEFINE_float("fault_rate", None, "Fault rate of sampled chips, in [0, 1).")
cli.define_fault_model()
flags.DEFINE_integer("chips", 1, "Number of sampled chips.", lower_bound=1)
flags.DEFINE_integer("first_chip", 0, "Index of the first.", lower_bound=0)
flags.DEFINE_integer("seed", 0, "Seed of the population of chips.", lower_bound=0)
flags.DEFINE_list("chip", [], "Saved chips or measured fault maps, .npz files.")
flags.DEFINE_integer("calibration_images", 300, "Training images for calibration.", lower_bound=1)
flags.DEFINE_integer(
    "calibration_chips",
    0,
    "Take activation ranges from this many chips, of a stream of their own; 0: fault-free.",
    lower_bound=0,
)
flags.DEFINE_integer("images", 500, "Test images to run each file on.", lower_bound=1)
flags.DEFINE_float(
    "min_agreement", 0.98, "Share of images with Keras's class that a file must reach.", 0.0, 1.0
)
flags.DEFINE_float(
    "max_accuracy_difference", 0.01, "Allowed difference to Keras's accuracy.", 0.0, 1.0
)
flags.DEFINE_list("also_on", [], "Further datasets (digits, .npz files) to run each file on.")
flags.DEFINE_integer(
    "micro_images", 0, "Test images to run int8 files on in TensorFlow Lite Micro.", lower_bound=0
)
flags.DEFINE_integer("cross_check", 0, "Chips to check a second, slow way.", lower_bound=0)
flags.DEFINE_bool("run_all", True, "Run every file; off: all bytes are checked, the first is run.")
flags.DEFINE_string("out", None, "Folder for the files.")
flags.DEFINE_bool("resume", False, "Go on with a run that was stopped.")


def main(argv: Sequence[str]) -> None:
    """Exports as the flags say."""
    del argv
    import numpy as np

    from keras_rram import data
    from keras_rram.export import Thresholds, export_population, export_tflite

    chips = _chips()
    if FLAGS.cross_check and not chips:
        raise ValueError("--cross_check needs chips.")
    model = cli.load_model(FLAGS.model)
    dataset = data.load(FLAGS.data, FLAGS.data_dir, FLAGS.download)
    calibration, _ = dataset.arrays(
        "train", min(FLAGS.calibration_images, len(dataset.train_labels))
    )
    images, labels = dataset.arrays("test", min(FLAGS.images, len(dataset.test_labels)))
    for chip in chips:
        chip.faults(model)
        break
    calibration_chips = _calibration_chips()
    also_on = {name: data.load(name).arrays("test") for name in FLAGS.also_on}
    folder = cli.output_folder(FLAGS.out, FLAGS.resume)
    common: dict[str, Any] = {
        "quantization": FLAGS.quantization,
        "calibration": calibration if FLAGS.quantization in ("int8", "int16x8") else None,
        "images": images,
        "labels": labels,
        "calibration_chips": calibration_chips,
        "thresholds": Thresholds(
            agreement=FLAGS.min_agreement, accuracy=FLAGS.max_accuracy_difference
        ),
        "also_on": also_on,
        "micro_images": FLAGS.micro_images,
        "data": dataset.name,
        "command": cli.command(),
        "commit": cli.commit(),
    }
    if not chips:
        report = export_tflite(model, folder / "base.tflite", **common)
        _show(report)
        print(f"Results: {folder}/")
        return
    reports: list[Any] = []
    with _progress(len(chips), reports) as progress:
        result = export_population(
            model,
            folder,
            chips,
            resume=FLAGS.resume,
            run=FLAGS.run_all,
            progress=progress,
            **common,
        )
    for report in reports[:5]:
        _show(report)
    accuracies = [
        report.verification.accuracy for report in reports if report.verification is not None
    ]
    if len(accuracies) > 1:
        print(
            f"{len(accuracies)} files run: accuracy {np.mean(accuracies):.2%} on average, "
            f"{min(accuracies):.2%} to {max(accuracies):.2%}, on {len(labels)} images."
        )
    if FLAGS.cross_check:
        _cross_check(model, chips[: FLAGS.cross_check], result.base, images)
    print(
        f"{result.written} files written and verified, {result.kept} kept. Results: {folder}/ "
        f"(index: {result.index})"
    )


def _chips() -> list[Any]:
    from keras_rram import Chip, population

    if FLAGS.chip and _is_sampled():
        raise ValueError(
            "--chip excludes --fault_rate and --fault_model: give saved chips, or what chips are "
            "sampled from."
        )
    if not _is_sampled():
        if FLAGS["chips"].present or FLAGS.exact:
            raise ValueError(
                "--chips and --exact need --fault_rate or --fault_model, to sample chips from."
            )
        return [Chip.load(path) for path in FLAGS.chip]
    return population(_fault_model(), FLAGS.chips, FLAGS.seed, FLAGS.first_chip)


def _is_sampled() -> bool:
    return FLAGS.fault_rate is not None or FLAGS["fault_model"].present


def _fault_model() -> Any:
    return cli.fault_model_at(FLAGS.fault_rate)


def _calibration_chips() -> list[Any]:
    from keras_rram import population

    if not FLAGS.calibration_chips:
        return []
    if not _is_sampled() or FLAGS.quantization != "int8":
        raise ValueError(
            "--calibration_chips needs --fault_rate or --fault_model, and --quantization=int8."
        )
    return population(_fault_model(), FLAGS.calibration_chips, FLAGS.seed, stream="calibration")


def _cross_check(model: Any, chips: Sequence[Any], base: pathlib.Path, images: Any) -> None:
    """Compares patched files with files that were made in another way, and prints the result."""
    from keras_rram.export import PatchableModel, against_conversion, read_sidecar

    gains = (read_sidecar(base) or {}).get("gains")
    patchable = PatchableModel(model, base.read_bytes(), gains)
    found = [against_conversion(patchable, model, chip, images) for chip in chips]
    print(
        f"{len(chips)} chips: all of {sum(each.weights for each in found):,} weights are those of "
        "a fresh conversion of the baked model, in the quantization of the fault-free file; "
        f"outputs differ by at most {max(each.difference for each in found):.3g} on {len(images)} "
        "images."
    )


@contextlib.contextmanager
def _progress(total: int, reports: list[Any]) -> Iterator[Callable[[Any], None]]:
    """Gives a function that keeps each report and moves a progress bar."""
    import tqdm

    with tqdm.tqdm(total=total, unit="chip", desc="export") as bar:

        def add(report: Any) -> None:
            reports.append(report)
            bar.update()

        yield add


def _show(report: Any) -> None:
    verification = report.verification
    line = f"{pathlib.Path(report.path).name}: {report.size:,} bytes"
    line += f", {report.fault_rate:.1%} of the weights faulty"
    if verification is not None:
        line += (
            f", accuracy {verification.accuracy:.2%} (Keras "
            f"{verification.keras_accuracy:.2%}), same top-1 on {verification.agreement:.1%}"
        )
    print(line)
    if report.source.ranges is not None:
        ranges = report.source.ranges
        print(
            f"  calibrated on chips: {ranges.changed} of {ranges.activations} activations have "
            f"other steps, {ranges.smallest:.3f} to {ranges.largest:.3f} times the fault-free ones"
        )
    if report.stuck_values is not None:
        stuck = report.stuck_values
        print(
            f"  {stuck.count:,} weights are stuck at a value: {stuck.saturated:,} beyond the range "
            f"of int8, off by {stuck.mean_error:.3g} on average, at most {stuck.max_error:.3g}"
        )
    if report.micro is not None:
        print(f"  TensorFlow Lite Micro: an arena of {report.micro.arena_size:,} bytes")


if __name__ == "__main__":
    cli.run(main)
