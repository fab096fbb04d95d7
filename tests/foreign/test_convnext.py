"""ConvNeXtTiny at 96 x 96: layer normalization, so that other repairs serve it."""

from keras_rram.repair import Remapping
from tests.foreign.applications import RATE, big, through_tools, trained
from tests.foreign.cases import by_python


@big
def test_by_tools(tmp_path):
    plain, repaired, sidecars = through_tools("ConvNeXtTiny", "remap:rounds=1", tmp_path)
    assert [each["method"] for each in sidecars] == ["converted", "patched", "patched"]
    assert plain["fault_free"] > 0.6 and repaired["mean"] > plain["mean"]


@big
def test_by_python(tmp_path):
    model, _, test = trained("ConvNeXtTiny")
    repair = Remapping(rounds=1)
    by_python(model, test, tmp_path / "files", "float32", rate=RATE, repair=repair)
