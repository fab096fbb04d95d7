"""The form of every record, declared once: `docs/formats.md` is made of this module.

Fields with a default may be missing. A record may have more fields than its form names.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from keras_rram.files.records import Kind

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
Some = Annotated[int, Meta(ge=1)]
Word = Annotated[int, Meta(ge=0, lt=1 << 32)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Plain = dict[str, Any]


class ChipIdentity(Struct, kw_only=True):
    """What a chip is: the text of its fault model, and its place in a population."""

    fault_model: str | None
    seed: Word
    index: Word
    stream: Literal["evaluation", "training", "validation", "calibration"]
    name: str = ""
    measured_sha256: Sha256 | None = None


class ChipLine(Struct, kw_only=True):
    """How one chip did: right answers, or the score of another measure."""

    index: Count
    fault_rate: Share
    achieved_fault_rate: Share
    correct: Count | None
    total: Some
    fold: Count
    folds: Some
    correctness: str | None = None
    name: str = ""
    score: float | None = None
    scores: str | None = None


class Fingerprint(Struct, kw_only=True):
    """What must be the same for a run to go on."""

    model: str
    data: str
    images: Some
    fault_model: str
    seed: Word
    engine: str
    quantization: str
    repair: str
    access_tier: Literal["A", "B", "C"]
    stop: Plain | None
    backend: str | None = None
    measure: Plain | None = None
    calibration: str | None = None
    largest_rate: Share | None = None


class RunHeader(Struct, kw_only=True):
    """What a run evaluates, and how the model does without faults."""

    name: str
    fingerprint: Fingerprint
    fault_free: ChipLine
    fault_free_repaired: ChipLine | None
    lines: Count | None = None


class Verified(Struct, kw_only=True):
    """What running a file showed, next to the Keras model that holds the same chip."""

    images: Some
    agreement: Share
    max_difference: float
    accuracy: Share | None
    keras_accuracy: Share | None


class Micro(Struct, kw_only=True):
    """What TensorFlow Lite Micro showed; without `xnnpack_steps`, `max_steps` is from XNNPACK."""

    arena_size: Count
    operators: list[str]
    size: Count
    images: Count
    max_steps: Count
    agreement: Share
    xnnpack_steps: Count | None = None


class IndexLine(Struct, kw_only=True):
    """A chip's file; or why there is none, `failed`."""

    file: str
    chip: ChipIdentity | None
    sha256: Sha256 | None = None
    size: Count | None = None
    method: Literal["converted", "patched"] | None = None
    fault_rate: Share | None = None
    verification: Verified | None = None
    also_on: dict[str, Verified] = {}
    micro: Micro | None = None
    stuck_values: Plain | None = None
    failed: str | None = None

    def __post_init__(self) -> None:
        """Checks that there is a file, or a reason."""
        if self.failed is None and None in (self.sha256, self.size, self.fault_rate, self.method):
            raise ValueError("expected sha256, size, method and fault_rate of the file, or failed")


class Sidecar(IndexLine, kw_only=True):
    """What is known of an exported file: its line of the index, and what all files share."""

    project: str
    version: str
    model: str
    weights_sha256: Sha256
    parameters: Count
    quantization: str
    data: str | None
    calibration: Plain | None
    ranges: Plain | None
    gains: dict[str, float]
    command: str | None
    commit: str | None
    repair: Plain | None = None
    converter: str = "tensorflow"


class ModelsIndex(Struct, kw_only=True):
    """A folder of exemplary files."""

    command: str | None
    commit: str | None
    data: str
    seed: Word
    files: list[IndexLine]
    fault_model: str | None = None


class Checkpoint(Struct, kw_only=True):
    """Where training was; the variables are arrays beside it, `model/0` and so on."""

    epoch: Count
    history: list[dict[str, float]]
    fingerprint: Plain
    config: str | None
    signature: dict[Literal["model", "optimizer"], list[tuple[str, list[int], str]]]


class Normalized(Struct, kw_only=True):
    """What samples went through before the model."""

    name: str
    mean: list[float] | None = None
    std: list[float] | None = None
    scale: float | None = None


class TrainedOn(Struct, kw_only=True):
    """The data set of a training."""

    source: str | None = None
    fingerprint: str | None = None
    normalization: Normalized | None = None


class Training(Struct, kw_only=True):
    """How a model was trained; a file of one's own may say as little as it likes."""

    command: str | None = None
    commit: str | None = None
    model: str | None = None
    seed: Word | None = None
    drop_rate: float | None = None
    drop_connect: Plain | None = None
    data: TrainedOn | str | None = None
    scope: list[str] | str | None = None
    fault_model: str | None = None


class Panel(Struct, kw_only=True):
    """A panel of the study, as it was run, with every figure."""

    name: str
    panel: str
    network: str
    protocol: str
    scale: str
    seed: Word
    setup: Plain
    dataset: str
    epochs: Count
    populations: dict[str, Plain]


class BenchmarkFigures(Struct, kw_only=True):
    """What is on the page of the benchmark; the record has the other figures of a run too."""

    fault_free: Share
    mean: Share
    low: Share
    high: Share
    sd: Annotated[float, Meta(ge=0)]
    worst: Share


class Benchmark(Struct, kw_only=True):
    """A model's score on a task of the benchmark: on which chips, and where it comes from."""

    task: str
    method: str
    access_tier: Literal["A", "B", "C"]
    repair: str
    faults: str
    chips: Some
    images: Some
    seed: Word
    population_sha256: Sha256
    on_reference_network: bool
    model: Sha256
    parameters: Count
    faulty_weights: Count
    backend: str
    figures: BenchmarkFigures
    command: str | None = None
    commit: str | None = None
    training: Plain | None = None


class Tiles(Struct, kw_only=True):
    """A map of tiles that was saved here; the tiles are arrays beside it."""

    tiles: Some


RUN = Kind(
    "the header of a run",
    "`run.json` in the folder of an evaluation",
    RunHeader,
    "Evaluate into another folder.",
    "schema",
    "keras_rram.run/3",
    ("keras_rram.run/2",),
)
CHIP_LINE = Kind(
    "the line of a chip",
    "`chips.jsonl` beside it, a line for each chip; the version is that of `run.json`",
    ChipLine,
    "Delete the line, and resume the run: its chip is evaluated anew.",
)
CHIP = Kind(
    "the identity of a chip",
    "the array `__chip__` of an `.npz` file; the digest covers the arrays beside it",
    ChipIdentity,
    "Save the chip anew, or copy it again.",
    "format",
    3,
    (2,),
)
TILES = Kind(
    "a map of tiles",
    "the array `__tiles__` of an `.npz` file; maps of other origin have none",
    Tiles,
    "Copy the map again.",
    "format",
    1,
)
SIDECAR = Kind(
    "the sidecar of a TFLite file",
    "`FILE.tflite.json` beside each exported file",
    Sidecar,
    "Export the files again.",
    "format",
    3,
    (2,),
)
INDEX_LINE = Kind(
    "the line of an index",
    "`index.jsonl` in the folder of an export, a line for each chip",
    IndexLine,
    "Delete the line, and resume the export: its file is written anew.",
    "format",
    3,
    (2,),
)
MODELS_INDEX = Kind(
    "the index of a folder of models",
    "`index.json` in the folder of `tools.export_models`",
    ModelsIndex,
    "Export the files again.",
    "format",
    3,
    (2,),
)
CHECKPOINT = Kind(
    "the header of a checkpoint",
    "the array `__checkpoint__` of `checkpoint.npz`; the digest covers the arrays beside it",
    Checkpoint,
    "Train anew, without the file.",
    "format",
    2,
    (1,),
)
TRAINING = Kind(
    "the record of a training",
    "`config.json` beside `model.keras`",
    Training,
    "Train again, or remove the file and give --data and --normalize.",
    "schema",
    "keras_rram.training/2",
    (None,),
)
PANEL = Kind(
    "the record of a panel",
    "`record.json` in the folder of a run of `tools.reproduce`",
    Panel,
    "Run the panel again.",
    "schema",
    "keras_rram.study/2",
    ("keras_rram.study/1",),
)
BENCHMARK = Kind(
    "the record of an entry of the benchmark",
    "`TASK/METHOD.json` in the folder of `tools.reproduce --benchmark`, and in `docs/benchmark/`",
    Benchmark,
    "Score the model again.",
    "schema",
    "keras_rram.benchmark/2",
    ("keras_rram.benchmark/1",),
)
KINDS = (
    RUN,
    CHIP_LINE,
    CHIP,
    TILES,
    SIDECAR,
    INDEX_LINE,
    MODELS_INDEX,
    CHECKPOINT,
    TRAINING,
    PANEL,
    BENCHMARK,
)
