"""The report of a run: what `tools.evaluate --report` and `tools.report_page` share."""

import dataclasses
import json
import pathlib
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from absl import flags

from . import chip_files, cli, inputs

flags.disclaim_key_flags()

FLAGS = flags.FLAGS

# What `tools.evaluate` found its model and data by.
_OF_ONE_RUN = ("model", "convert", "where", "images", "chip", "calibration_images")
_ARGUMENTS = (*_OF_ONE_RUN, "data", "data_dir", "normalize")
_PACKAGES = ("keras-rram", "keras", "tensorflow", "ai-edge-litert", "numpy")


def write(folder: pathlib.Path, run: Any) -> None:
    """Writes `report.html` about a `ReportRun`, see `run_of`, into its folder."""
    from keras_rram.plots.report import write_report

    write_report(folder / "report.html", [run])
    print(f"Report: {folder / 'report.html'}")


def arguments() -> dict[str, Any]:
    """Returns what a report needs of the flags of `tools.evaluate`, for its `config.json`."""
    return {name: FLAGS[name].value for name in (*_ARGUMENTS, "metric")}


def check_alone(folders: Sequence[pathlib.Path]) -> None:
    """Raises ValueError for flags that are about one run, where there are two."""
    given = [name for name in _OF_ONE_RUN if FLAGS[name].present]
    if given and len(folders) > 1:
        raise ValueError(
            f"--{given[0]} goes with one run: of two, each has its own by its config.json. Write a "
            "page of each, or give what both share (--data, --data_dir, --normalize)."
        )


def run_of(
    folder: pathlib.Path,
    results: Sequence[Any],
    config: Mapping[str, Any],
    model: Any,
    labels: Any,
    chips: Sequence[Any],
    required: float | None,
    lacks: str = "",
) -> Any:
    """Returns the `ReportRun` of a folder, its results and what was found beside them."""
    from keras_rram.plots.report import Chips, ReportRun

    known = Chips(model, _classes(labels), chips, _commands(config))
    made = {
        "command": config.get("command", "not known"),
        "commit": config.get("commit") or "not known",
        "versions": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {found}" for name in _PACKAGES if (found := _version(name))),
    }
    if lacks:
        made["not shown"] = lacks
    return ReportRun(folder.resolve().name, list(results), known, made, required)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def config_of(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the `config.json` of a run; empty where it has none."""
    path = folder / "config.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _classes(labels: Any) -> Any:
    """Returns labels where they are one class for each image."""
    shape, dtype = getattr(labels, "shape", ()), getattr(labels, "dtype", None)
    return labels if len(shape) == 1 and dtype.kind in "iu" else None  # type: ignore[union-attr]


def found_by(
    config: Mapping[str, Any], results: Sequence[Any]
) -> tuple[Any, Any, Sequence[Any], str]:
    """Returns model, labels and given chips of a run, and what is missing of them and why.

    They are looked for where flags say, and else where the run found them.

    Args:
        config: the run's `config.json`.
        results: its results, whose fingerprints say what was evaluated.
    """
    from keras_rram.evaluation.fingerprint import model_sha256
    from keras_rram.files import array_sha256
    from keras_rram.hardware.arrays import Analog, to_analog

    held = _arguments_of(config)
    if not held.get("model"):
        return None, None, (), "classes and tiles: its config.json does not say where its data are"
    for name in _ARGUMENTS:
        if not FLAGS[name].present:
            FLAGS[name].value = held.get(name, FLAGS[name].default)
    try:
        chips = chip_files.load()
        model, dataset, (images, labels) = inputs.load()
        if config.get("array"):
            model = to_analog(model, Analog(**config["array"]), inputs.calibration(dataset))
    except (ValueError, OSError) as error:
        return None, None, (), f"classes and tiles: {' '.join(str(error).split())}"
    lacks = []
    if model_sha256(model) != results[0].model:
        model = None
        lacks.append("tiles: the model is not the one that was evaluated any more")
    if array_sha256(images, labels) != results[0].data:
        labels = None
        lacks.append("classes: the images are not those that were evaluated")
    return model, labels, chips, "; ".join(lacks)


def _arguments_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a run found its model and data by, but for what flags say now."""
    given = {name: FLAGS[name].value for name in _ARGUMENTS if FLAGS[name].present}
    return {**(config.get("arguments") or {}), **given}


def _array(held: Mapping[str, Any]) -> str:
    """Returns `--array` of what a config.json says of it: what is not the default."""
    from keras_rram.hardware.arrays import Analog

    usual = dataclasses.asdict(Analog())
    unusual = {name: value for name, value in held.items() if usual.get(name, ...) != value}
    return ",".join(
        f"{name}={'none' if value is None else value}"
        for name, value in (unusual or {"adc_bits": held["adc_bits"]}).items()
    )


def _commands(config: Mapping[str, Any]) -> Any:
    """Returns what makes the commands that replay, explain and export a chip."""
    held = _arguments_of(config)
    if not held.get("model"):
        return None
    try:
        paths = chip_files.paths() if held.get("chip") else []
    except ValueError:
        return None  # the chips are not there any more
    array = [f"--array={_array(config['array'])}"] if config.get("array") else []

    def commands(result: Any, record: Any) -> dict[str, str]:
        model = [f"--model={held['model']}"]
        if held.get("convert"):
            model.append("--convert")
        if held.get("where"):
            model.append(f"--where={','.join(held['where'])}")
        for name in ("data", "data_dir", "normalize"):
            if held.get(name):
                model.append(f"--{name}={held[name]}")
        images = [f"--images={held['images']}"] if held.get("images") else []
        if held.get("metric"):
            images.append(f"--metric={held['metric']}")
        if paths:
            explained = place = [f"--chip={paths[record.index]}"]
        else:
            faults = f"'--fault_model={result.fault_model}'"
            place = [faults, f"--seed={result.seed}", f"--first_chip={record.index}", "--chips=1"]
            explained = [faults, f"--seed={result.seed}", f"--chip={record.index}"]
        engine, _, quantization = result.engine.partition(" ")
        computed = [f"--engine={engine}"] if engine in ("keras", "litert") else []
        computed += [f"--quantization={quantization}"] if quantization == "int8" else []
        count = held.get("calibration_images")
        calibrated = [f"--calibration_images={count}"] if count else []
        computed += array + (calibrated if array or quantization == "int8" else [])
        repair = config.get("repair", "none")
        repaired = [] if repair == "none" else [f"--repair={repair}"]
        without = ", not repaired" if repaired else ""
        without += ", without the arrays' converters and noise" if array else ""
        name = f"chip_{record.name or record.index}"
        return {
            "Replay it:": " ".join(
                [
                    cli.tool("evaluate"), *model, *images, *place, *computed, *repaired,
                    f"--out={name}",
                ]
            ),
            "Say why it is as it is:": " ".join(
                [
                    cli.tool("explain"), *model, *images, *explained, *array,
                    *(calibrated if array else []), *repaired,
                ]
            ),
            f"Export it{without}:": " ".join(
                [
                    cli.tool("export_tflite"), *model, *place,
                    *(calibrated if quantization == "int8" else []), f"--out={name}_tflite",
                ]
            ),
        }  # fmt: skip

    return commands
