import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_rram.export import flatbuffer
from tests import export_models


@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_tensors_are_what_the_interpreter_sees(quantization):
    data = export_models.patchable(quantization).tflite
    graph = flatbuffer.parse(data)
    interpreter = Interpreter(model_content=data, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    details = {entry["index"]: entry for entry in interpreter.get_tensor_details()}
    constants = [tensor for tensor in graph.tensors if tensor.size]
    assert len(constants) > 15
    for tensor in constants:
        expected = details[tensor.index]
        assert tensor.shape == tuple(expected["shape"])
        assert tensor.dtype == expected["dtype"]
        np.testing.assert_array_equal(tensor.read(data), interpreter.get_tensor(tensor.index))
        parameters = expected["quantization_parameters"]
        np.testing.assert_allclose(tensor.scales, parameters["scales"])
        assert tensor.axis == parameters["quantized_dimension"]


def test_operators_and_ends():
    graph = flatbuffer.parse(export_models.patchable("int8").tflite)
    names = [operator.name for operator in graph.operators]
    assert names.count("DEPTHWISE_CONV_2D") == 3
    assert names.count("FULLY_CONNECTED") == 2
    assert graph.tensors[graph.inputs[0]].shape == (1, *export_models.SHAPE)
    assert graph.tensors[graph.outputs[0]].type == "INT8"


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\0" * 100, b"PK\x03\x04" * 30])
def test_foreign_files_are_named_as_such(data):
    with pytest.raises(ValueError, match="Not a TFLite file"):
        flatbuffer.parse(data)


def test_truncated_files_are_refused_wherever_they_end():
    data = export_models.patchable("int8").tflite
    for length in range(0, len(data) - 1, 101):
        with pytest.raises(ValueError, match="TFLite file"):
            flatbuffer.parse(data[:length])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(8, 4000), st.integers(0, 255)), min_size=1, max_size=40))
def test_damage_raises_value_error_or_nothing(changes):
    data = bytearray(export_models.patchable("int8").tflite)
    for position, value in changes:
        data[position] = value
    try:
        flatbuffer.parse(data)
    except ValueError as error:
        assert "TFLite file" in str(error)


def test_read_names_the_path(tmp_path):
    path = tmp_path / "x.tflite"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="x.tflite: Not a TFLite"):
        flatbuffer.read(path)
    with pytest.raises(FileNotFoundError):
        flatbuffer.read(tmp_path / "absent.tflite")
