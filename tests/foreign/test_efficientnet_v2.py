"""EfficientNetV2B0 at 96 x 96, with its preprocessing inside."""

from keras_rram.repair import BatchNormRecalibration
from tests.foreign.applications import RATE, big, through_tools, trained
from tests.foreign.cases import by_python


@big
def test_by_tools(tmp_path):
    plain, repaired, sidecars = through_tools("EfficientNetV2B0", "batch_norm:images=100", tmp_path)
    assert [each["method"] for each in sidecars] == ["converted", "patched", "patched"]
    # It bears these faults as it is, and statistics of 100 images are no better.
    assert min(plain["fault_free"], plain["mean"], repaired["mean"]) > 0.6


@big
def test_by_python(tmp_path):
    model, train, test = trained("EfficientNetV2B0")
    repair = BatchNormRecalibration(train[0][:100])
    by_python(model, test, tmp_path / "files", "float32", rate=RATE, repair=repair)
