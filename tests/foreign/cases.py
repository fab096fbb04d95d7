"""What every foreign model must go through: population, repair, verified file."""

import json
import warnings
from contextlib import nullcontext

import numpy as np

from keras_rram import StuckAtZero, population, to_drop_connect
from keras_rram.evaluation import evaluate_population
from keras_rram.export import LiteRTModel, export_population
from tests.run_tools import run_main

RATE = 0.05


def right(model, test):
    """Number of right answers, by Keras's own evaluation."""
    accuracy = model.evaluate(*test, batch_size=50, verbose=0)[1]
    return round(accuracy * len(test[1]))


def by_tools(model, train, test, repair, folder, rate=RATE):
    """Runs the tools on saved files alone; returns results, repaired results, and sidecars."""
    model.save(folder / "mine.keras")
    np.savez(folder / "mine.npz", x_train=train[0], y_train=train[1],
             x_test=test[0], y_test=test[1])  # fmt: skip
    common = [f"--model={folder}/mine.keras", "--convert", f"--data={folder}/mine.npz"]
    chips = [f"--fault_rates={rate}", "--chips=2"]
    run_main("evaluate", *common, *chips, "--engine=keras", f"--out={folder}/plain")
    run_main("evaluate", *common, *chips, f"--repair={repair}", f"--out={folder}/repaired")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of chips that are converted anew
        run_main("export_tflite", *common, f"--fault_rate={rate}", "--chips=2",
                 "--quantization=float32", f"--repair={repair}",
                 f"--out={folder}/files")  # fmt: skip
    plain, repaired = (
        json.loads((folder / name / "results.json").read_text())["summary"][0]
        for name in ("plain", "repaired")
    )
    sidecars = [json.loads(path.read_text()) for path in sorted((folder / "files").glob("*.json"))]
    healthy, count = right(model, test), len(test[1])
    assert round(plain["fault_free"] * count) == round(repaired["fault_free"] * count) == healthy
    assert [each["chip"] is None for each in sidecars] == [True, False, False]
    for each in sidecars:
        found = each["verification"]
        assert found["images"] == count
        assert found["accuracy"] == found["keras_accuracy"]
        assert found["max_difference"] <= 1e-4
        assert each["repair"]["repair"].startswith(repair.partition(":")[0])
    accuracies = [each["verification"]["accuracy"] for each in sidecars[1:]]
    assert abs(np.mean(accuracies) - repaired["mean"]) <= 1 / count
    return plain, repaired, sidecars


def by_python(model, test, folder, quantization, calibration=None, rate=RATE, repair=None):
    """Calls the library alone; returns the result of a population and the report of its export."""
    twin = to_drop_connect(model, 0.0)
    result = evaluate_population(
        twin, rate, test, chips=2, seed=3, engine="litert", progress=False, repair=repair
    )
    assert round(result.fault_free * len(test[1])) == right(model, test)
    chips = population(StuckAtZero(rate), 2, seed=3)
    export = export_population(twin, folder, chips, quantization, calibration, *test, repair=repair)
    assert export.written == 2 and not export.failed
    for chip, found in zip(chips, result.chips, strict=True):
        with chip.program(twin), repair(twin, chip) if repair else nullcontext():
            expected = twin.predict(test[0], verbose=0).argmax(-1)
        np.testing.assert_array_equal(found.answers, expected == test[1])
        file = (folder / f"chip_3_{chip.index:05}.tflite").read_bytes()
        same = LiteRTModel(file).predict(test[0].astype(np.float32)).argmax(-1) == expected
        assert same.mean() >= (1.0 if quantization == "float32" else 0.98)
    return result, export
