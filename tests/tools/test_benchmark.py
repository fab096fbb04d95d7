import numpy as np
import pytest

from tests.run_tools import run_here
from tools.benchmarks.timing import in_turn, ratio


def test_in_turn_calls_all_once_a_round_in_alternating_order():
    calls = []
    seconds = in_turn([lambda: calls.append("a"), lambda: calls.append("b")], rounds=2)
    assert calls == ["a", "b", "a", "b", "b", "a"]
    assert [len(row) for row in seconds] == [2, 2]


def test_ratio_is_the_median_of_the_rounds():
    assert ratio([2.0, 6.0, 100.0], [1.0, 2.0, 1.0]) == 3.0


@pytest.mark.slow
def test_the_suite_of_layers_prints_its_figures():
    output = run_here("benchmark", "--suite=layers", "--quick")
    for name in ("dropconnect_step_ratio_mini", "fixed_step_ratio_mini"):
        assert f"{name}: " in output
    run_here("benchmark", "--suite=nothing", code=1)


@pytest.mark.parametrize("replaced", [(), (4, 6, 10, 12, 16, 18)])
def test_the_network_in_pytorch_is_the_same(replaced):
    """As many weights in layers of the same shapes as that of the builder."""
    torch = pytest.importorskip("torch")
    from keras_rram.models import resnet20
    from tools.benchmarks.torch_resnet import _network

    ours = resnet20(replaced=replaced)
    found = sorted(one.numel() for one in _network(replaced).parameters())
    assert found == sorted(int(np.prod(one.shape)) for one in ours.trainable_weights)
    assert _network(replaced)(torch.zeros(2, 3, 32, 32)).shape == (2, *ours.output_shape[1:])


def test_steps_in_pytorch_are_taken_in_a_process_of_their_own():
    pytest.importorskip("torch")
    from tools.benchmarks.torch_resnet import trainer

    with trainer((4,), 2, "bfloat16") as train:
        train()
        train()
