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

Each chip repaired first, by recalibration on unlabelled training images or from its map
(`--help_repairs` has the names and keys); its file has scales and biases of its own, and its
sidecar says what was done with which images:

  python -m tools.export_tflite --model=runs/digits/model.keras --fault_rate=0.2 --chips=10 \
      --repair=batch_norm:images=512 --out=runs/repaired

A chip whose file fails its verification, or whose map does not fit, has none; the others are
written, the reasons are listed, and the exit code is 1.

Without --fault_rate, --fault_model and --chip only the fault-free file is written. Training images
of the model's data calibrate int8, its test images verify the files; `--convert` puts a plain Keras
model's weights on the chip. Activation ranges are those of the fault-free model, or those of some
chips, which reach less far:

  python -m tools.export_tflite --model=runs/digits/model.keras --fault_rate=0.2 --chips=1000 \
      --calibration_chips=5 --norun_all --out=runs/thousand

`--cross_check=20` shows on 20 chips that patching is as good as converting: every weight is held
against a fresh conversion of the baked chip. It is slow.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from . import (
    chip_files,
    cli,
    export_flags,
    fault_flags,
    inputs,
    metric_flag,
    number_flags,
    repair_flags,
)

FLAGS = flags.FLAGS

inputs.define_model(convert=True)
flags.DEFINE_enum(
    "quantization",
    "int8",
    ["int8", "float32", "float16", "dynamic", "int16x8"],
    "Numbers in the file.",
)
flags.DEFINE_enum(
    "converter",
    "tensorflow",
    ["tensorflow", "litert"],
    "What makes the file; litert: int8 by litert-quantizer (extra `litert`).",
)
inputs.define_data(images=500, calibration=300)
fault_flags.define(otherwise="no chips")
fault_flags.define_chips(1)
export_flags.define(micro_images=0)
chip_files.define()
repair_flags.define()
metric_flag.define()
number_flags.define_whole(
    "calibration_chips",
    0,
    "Take activation ranges from this many chips, of the seed after --seed; 0: fault-free.",
    "[0, 100000]",
)
flags.DEFINE_list(
    "also_on",
    [],
    "Further datasets (digits, .npz files) to run each file on, normalized as the model's own.",
)
number_flags.define_whole("cross_check", 0, "Chips to check a second, slow way.", "[0, 1000000]")
flags.DEFINE_bool("run_all", True, "Run every file; off: all bytes are checked, the first is run.")
flags.DEFINE_string("out", None, "Folder for the files.")
flags.DEFINE_bool("resume", False, "Go on with a run that was stopped.")


def main(argv: Sequence[str]) -> None:
    """Exports as the flags say."""
    del argv
    cli.check_output_folder()
    import numpy as np
    import tqdm

    from keras_rram.export import export_population, export_tflite
    from keras_rram.export.folder import file_names

    chips, calibration_chips, metric = _chips(), _calibration_chips(), metric_flag.given()
    if metric is not None and FLAGS.keep_above is None:
        raise ValueError("--metric goes with --keep_above: it says which chips are kept.")
    if chips:
        file_names(chips)  # before any work: they must differ
    if FLAGS.cross_check and not chips:
        raise ValueError("--cross_check needs chips.")
    if FLAGS.cross_check and repair_flags.plan() is not None:
        raise ValueError("--cross_check is for chips as they are, without --repair.")
    model, dataset, (images, labels) = inputs.load(faulty=bool(chips))
    for chip in chips[:1]:
        chip.faults(model)
    common: dict[str, Any] = {
        **export_flags.options(dataset, FLAGS.quantization),
        "images": images,
        "labels": labels,
        "calibration_chips": calibration_chips,
        "repair": repair_flags.given(dataset),
        "converter": FLAGS.converter,
        "also_on": inputs.further_images(FLAGS.also_on, dataset),
    }
    folder = cli.output_folder(FLAGS.out, FLAGS.resume)
    if FLAGS.keep_above is not None:
        from keras_rram.evaluation import evaluate_population

        chips = [
            chips[place]
            for place in chip_files.verdicts(
                evaluate_population(
                    model, chips, (images, labels), metric=metric, repair=common["repair"]
                ),
                folder,
            )
        ]
        if not chips:
            raise ValueError("--keep_above rejects all chips: there is nothing to export.")
    if not chips:
        report = export_tflite(model, folder / "base.tflite", **common)
        _show(report)
        print(f"Results: {folder}/")
        return
    reports: list[Any] = []
    with tqdm.tqdm(total=len(chips), unit="chip", desc="export", disable=None) as bar:

        def progress(report: Any) -> None:
            reports.append(report)
            bar.update()

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
        report.verification.accuracy
        for report in reports
        if report.verification is not None and report.verification.accuracy is not None
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
    if result.failed:
        for each in result.failed:
            print(f"  failed {pathlib.Path(each.file).stem}: {each.reason}")
        cli.fail(
            f"{len(result.failed)} of {len(chips)} chips have no file, for the reasons above and "
            "in the index; --resume tries them again."
        )


def _chips() -> list[Any]:
    from keras_rram import population

    if FLAGS.chip and _is_sampled():
        raise ValueError(
            "--chip excludes --fault_rate and --fault_model: give saved chips, or what chips are "
            "sampled from."
        )
    if not _is_sampled():
        if FLAGS["chips"].present:
            raise ValueError("--chips needs --fault_rate or --fault_model, to sample chips from.")
        return chip_files.load()
    return population(_fault_model(), FLAGS.chips, FLAGS.seed, FLAGS.first_chip)


def _is_sampled() -> bool:
    return FLAGS.fault_rate is not None or FLAGS["fault_model"].present


def _fault_model() -> Any:
    return fault_flags.at(FLAGS.fault_rate)


def _calibration_chips() -> list[Any]:
    from keras_rram import population

    if not FLAGS.calibration_chips:
        return []
    if not _is_sampled() or FLAGS.quantization != "int8":
        raise ValueError(
            "--calibration_chips needs --fault_rate or --fault_model, and --quantization=int8."
        )
    return population(
        fault_flags.at(FLAGS.fault_rate), FLAGS.calibration_chips, FLAGS.seed, stream="calibration"
    )


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


def _show(report: Any) -> None:
    verification = report.verification
    line = f"{pathlib.Path(report.path).name}: {report.size:,} bytes"
    line += f", {report.fault_rate:.1%} of the weights faulty"
    if verification is not None:
        if verification.accuracy is not None:
            line += f", accuracy {verification.accuracy:.2%} (Keras "
            line += f"{verification.keras_accuracy:.2%})"
        line += f", Keras's answer on {verification.agreement:.1%}"
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
