"""What `tools.sensitivity` and `tools.place` share: groups of layers, statistics, prices."""

from typing import Any

from absl import flags

from . import cli, inputs, number_flags

flags.disclaim_key_flags()

FLAGS = flags.FLAGS

_FEWEST = 100


@cli.section("placement")
def define() -> None:
    """Defines the flags of both tools."""
    flags.DEFINE_enum(
        "groups",
        "layer",
        ["layer", "place", "role"],
        "What is placed: each layer; each place (a bottleneck, a convolution); each role.",
    )
    flags.DEFINE_list("keep", [], "Layers or roles that stay on exact hardware.")
    number_flags.define_whole(
        "images_per_chip",
        None,
        "Images of each chip, which no other chip answers; 0: all images for all chips. Default: "
        "its share of the images where that is 100 or more, else 0.",
        "[0, 1e9]",
    )
    number_flags.define_whole(
        "calibration_images", 256, "Training images that statistics are gathered on.", "[2, 1e9]"
    )
    number_flags.define_whole(
        "gathering_chips",
        16,
        "Chips, of a stream of their own, that the statistics of a placement are gathered over.",
        "[1, 1e9]",
    )
    flags.DEFINE_string(
        "prices",
        "",
        "Energy and time of single operations, KEY=VALUE,KEY=VALUE: read_pj, adc_pj, digital_pj, "
        "read_ns, input_bits. Default: ISAAC's, see docs/placement.md.",
    )
    flags.DEFINE_enum(
        "mapping",
        "differential_pair",
        ["single_cell", "differential_pair", "reference_column"],
        "How weights become cells, for the hardware's cost.",
    )


def prices() -> Any:
    """Returns the prices of `--prices`."""
    from keras_rram.hardware import Prices

    return cli.parsed("prices", Prices.parse) if FLAGS.prices else Prices()


def statistics_of(model: Any) -> list[str]:
    """Returns where statistics can come from: not from images, where a model has none."""
    from keras_rram.layers.statistics import statistics_layers

    return ["placement", "chip"] if statistics_layers(model) else ["model"]


def bench(
    network: Any,
    fault_model: Any,
    data: tuple[Any, Any],
    calibration: Any,
    statistics: Any,
    chips: int,
    stream: str,
    first_chip: int = 0,
) -> Any:
    """Returns a bench of `chips` chips of a stream, seeded by `--seed`, on some images."""
    from keras_rram import population
    from keras_rram.placement import Bench

    each = FLAGS.images_per_chip
    if each is None:
        each = len(data[1]) // chips
        each = each if each >= _FEWEST else 0
    gathering = []
    if statistics == "placement":
        count, seed = FLAGS.gathering_chips, FLAGS.seed
        gathering = population(fault_model, count, seed, stream="calibration")
    return Bench(
        network,
        population(fault_model, chips, FLAGS.seed, first_chip, stream),
        data,
        each or None,
        statistics,
        None if statistics == "model" else calibration,
        gathering,
    )


def calibration(dataset: Any) -> Any:
    """Returns `--calibration_images` training images."""
    return inputs.calibration(dataset)


def fingerprint(statistics: str, calibration: Any, unit: str) -> dict[str, Any]:
    """Returns the flags here that a trial depends on: where statistics are gathered, and on what.

    Args:
        statistics: where they come from.
        calibration: the training images that they are gathered on.
        unit: what the work is counted in; cells and tiles follow from `--mapping`.
    """
    found: dict[str, Any] = {}
    if statistics != "model":
        found["calibration_images"] = len(calibration)
    if statistics == "placement":
        found["gathering_chips"] = FLAGS.gathering_chips
    if unit != "macs":
        found["mapping"] = FLAGS.mapping
    return found


def costs(model: Any, groups: Any) -> dict[str, dict[str, float]]:
    """Returns what each group of layers costs on RRAM, and saves."""
    from keras_rram.hardware import count_operations

    found = count_operations(model, prices(), FLAGS.mapping)
    names = ("cells", "tiles", "array_reads", "conversions", "analog_pj", "analog_ns")
    return {
        group: {
            name: sum(getattr(found[layer], name) for layer in layers)
            for name in (*names, "digital_pj", "saved_pj")
        }
        for group, layers in groups.items()
    }
