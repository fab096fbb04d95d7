"""Blocks of large networks: squeeze and excite, layer scale, stochastic depth, depthwise 7 x 7."""

from keras_rram.export.flatbuffer import parse
from keras_rram.export.image_statistics import ISLAND
from tests.foreign.cases import by_python, by_tools
from tests.foreign.networks import trained


def test_by_tools(tmp_path):
    _, repaired, sidecars = by_tools(*trained("families"), "batch_norm:images=64", tmp_path)
    assert [each["method"] for each in sidecars] == ["converted", "patched", "patched"]
    assert repaired["engine"] == "litert float32"


def test_by_python_in_int8_with_layer_normalization_in_floats(tmp_path):
    model, train, test = trained("families")
    by_python(model, test, tmp_path / "files", "int8", train[0][:100])
    graph = parse((tmp_path / "files" / "base.tflite").read_bytes())
    tensors = [graph.tensors[number] for op in graph.operators for number in op.outputs]
    inside = {tensor.type for tensor in tensors if f"/{ISLAND}/" in tensor.name}
    assert inside == {"FLOAT32"} and sum(tensor.type == "INT8" for tensor in tensors) > 20
    kinds = [operator.name for operator in graph.operators]
    assert kinds.count("DEPTHWISE_CONV_2D") == 2  # that of ConvNeXt is a grouped one in Keras
