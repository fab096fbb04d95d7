"""How fast chips are sampled at the level of cells."""

import statistics
from collections.abc import Iterator

from .timing import in_turn, ratio

SEED = 1


def run(quick: bool) -> Iterator[tuple[str, float]]:
    """Yields the seconds for a chip of MobileNetV2 with ten classes: `Chip.faults`, all kernels.

    `cell_chip_seconds` is of stuck cells in differential pairs, at the published rates;
    `cell_chip_seconds_over_weight` its ratio to `StuckAtZero`, which draws one number for each
    weight and computes nothing.
    """
    import keras

    from keras_rram import Chip, to_drop_connect
    from keras_rram.faults import (
        BitSlices,
        CentredPair,
        FaultModel,
        LognormalVariation,
        ReferenceColumn,
        SameCells,
        StuckAtZero,
        StuckCells,
    )

    keras.utils.set_random_seed(SEED)
    plain = keras.applications.MobileNetV2((32, 32, 3), weights=None, classes=10)
    network = to_drop_connect(plain, 0.0)
    rates = (0.0904, 0.0175)
    pair = StuckCells(*rates)
    models: dict[str, FaultModel] = {
        "weight": StuckAtZero(0.1079),
        "cell": pair,
        "cell_centred": StuckCells(*rates, mapping=CentredPair()),
        "cell_reference": StuckCells(*rates, mapping=ReferenceColumn()),
        "cell_variation": LognormalVariation(0.1),
        "cell_variation_and_stuck": SameCells((LognormalVariation(0.1), pair)),
        "cell_slices_2_bits": StuckCells(*rates, mapping=BitSlices(2)),
    }

    chips = [Chip(model, SEED) for model in models.values()]
    functions = [lambda chip=chip: chip.faults(network) for chip in chips]
    seconds = in_turn(functions, rounds=1 if quick else 15)
    for name, found in zip(models, seconds, strict=True):
        yield f"{name}_chip_seconds", statistics.median(found)
    yield "cell_chip_seconds_over_weight", ratio(seconds[1], seconds[0])
    yield "weights", sum(fault.mask.size for fault in chips[0].faults(network).values())
