"""Golden draws: a chip of today is the same chip in every later version, of NumPy's too.

`python -m tests.faults.test_golden_draws` writes the file anew, which changes every chip that was
ever evaluated or exported: add cases, and change none.
"""

import hashlib
import json
import pathlib

import numpy as np
import pytest

from keras_rram.faults import (
    BitSlices,
    CentredPair,
    ClusteredFaults,
    ColumnFaults,
    Composed,
    Crossbar,
    DifferentialPair,
    Drift,
    FiniteOnOff,
    KernelShape,
    LognormalVariation,
    ReferenceColumn,
    RowFaults,
    SameCells,
    SpreadFaults,
    StuckAtValues,
    StuckAtZero,
    StuckCells,
)

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "fault_draws.json"
KEY = [7, 2, 0xDEADBEEF, 1]
SHAPE = KernelShape(Crossbar.depthwise((3, 3, 24, 2)))
KERNEL = (np.arange(432) % 61 - 30).reshape(SHAPE).astype(np.float32) / 64

MODELS = {
    "stuck_at_zero": StuckAtZero(0.3),
    "stuck_at_zero, exact": StuckAtZero(0.3, exact=True),
    "row_faults": RowFaults(0.3, tile=16),
    "row_faults of cells": RowFaults(0.3, tile=(16, 8), mapping="centred_pair", stuck="on"),
    "column_faults": ColumnFaults(0.3, tile=16),
    "spread_faults": SpreadFaults(0.3, tile=16, concentration=3.0),
    "spread_faults of cells": SpreadFaults(0.3, mapping="differential_pair", stuck="open"),
    "clustered_faults": ClusteredFaults(0.3, tile=(64, 16), length=2.0),
    "clustered_faults, exact": ClusteredFaults(0.3, exact=True),
    "differential_pair": StuckCells(0.1, 0.05),
    "reference_column": StuckCells(0.1, 0.05, mapping=ReferenceColumn(scaling="channel")),
    "bit_slices": StuckCells(0.1, 0.05, mapping=BitSlices(4, "offset_binary")),
    "stuck_at_values": StuckAtValues(0.2, values=(0.0, 2e-6, 8e-5)),
    "lognormal_variation": LognormalVariation(0.2),
    "drift": Drift(1e4, nu=0.05, nu_sd=0.02, mapping=CentredPair(g_min=0.0)),
    "finite_on_off": FiniteOnOff(8.0, mapping=DifferentialPair(g_min=0.0)),
    "composed": Composed((RowFaults(0.2, tile=16), StuckAtZero(0.1), LognormalVariation(0.1))),
    "same_cells": SameCells((LognormalVariation(0.1), StuckCells(0.1, 0.02))),
}


def drawn(model):
    """Returns what a JSON file holds of one draw: which weights are faulty, and some values."""
    fault = model.sample(SHAPE, np.random.default_rng(KEY), KERNEL)
    offset = np.zeros(SHAPE) if fault.offset is None else fault.offset
    return {
        "faulty": int(fault.faulty.sum()),
        "sha256": hashlib.sha256(np.packbits(fault.faulty).tobytes()).hexdigest(),
        "mask": [float(f"{value:.7g}") for value in fault.mask.ravel()[::27]],
        "offset": [float(f"{value:.7g}") for value in offset.ravel()[::27]],
    }


@pytest.mark.parametrize("name", MODELS)
def test_draws_are_those_of_the_golden_file(name):
    golden, found = json.loads(GOLDEN.read_text())[name], drawn(MODELS[name])
    assert (found["faulty"], found["sha256"]) == (golden["faulty"], golden["sha256"])
    for part in ("mask", "offset"):
        # The last digits of exponentials and sums are the platform's.
        np.testing.assert_allclose(found[part], golden[part], rtol=1e-5, atol=1e-7)


def test_the_golden_file_has_no_other_cases():
    assert set(json.loads(GOLDEN.read_text())) == set(MODELS)


if __name__ == "__main__":
    found = {name: drawn(model) for name, model in MODELS.items()}
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in found.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
