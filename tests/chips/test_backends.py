"""The same library on every Keras backend: the layer tests, and one chip's accuracy."""

import importlib.util
import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_rram import Chip, StuckAtZero
from tests.helpers import tiny_images, tiny_model
from tests.run_tools import ROOT, on_backend

OTHERS = [name for name in ("jax", "torch") if name != keras.backend.backend()]
TESTS = [
    "layers/test_drop_connect",
    "layers/test_layers",
    "chips/test_chips",
    "layers/test_convert",
    "chips/test_audit",
]


# JAX compiles every operation of every shape: what differs from its neighbours in the number of
# axes alone is left to the other backends.
LEFT_OUT = {
    "jax": "xla or another_process or without_a_twin or wrappers or trains_apart or "
    "(harness and (Conv3D or Transpose or Separable or groups or channels_first or EinsumDense))",
}


def require(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("backend", OTHERS)
def test_the_core_tests_pass(backend):
    require(backend)
    paths = [f"tests/{name}.py" for name in TESTS]
    if left_out := LEFT_OUT.get(backend):
        paths += ["-k", f"not ({left_out})"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *paths],
        cwd=ROOT,
        env=on_backend(backend),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:]


CODE = """
import json, sys
import keras, numpy as np
from keras_rram import Chip, StuckAtZero
from tests.helpers import tiny_images
from tests.run_tools import ROOT
model = keras.models.load_model(sys.argv[1])
images, _ = tiny_images(400, seed=5)
logits = []
for index in range(3):
    with Chip(StuckAtZero(0.2), seed=9, index=index).program(model):
        logits.append(model.predict(images, verbose=0).tolist())
print(json.dumps(logits))
"""


@pytest.mark.parametrize("backend", OTHERS)
def test_the_same_chip_gives_the_same_accuracy(backend, tmp_path):
    require(backend)
    model = tiny_model()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*tiny_images(128), epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    result = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "model.keras")],
        cwd=ROOT,
        env=on_backend(backend),
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = np.array(json.loads(result.stdout.splitlines()[-1]))
    images, _ = tiny_images(400, seed=5)
    labels = model.predict(images, verbose=0).argmax(1)
    for index, logits in enumerate(theirs):
        with Chip(StuckAtZero(0.2), seed=9, index=index).program(model):
            ours = model.predict(images, verbose=0)
        np.testing.assert_allclose(logits, ours, atol=1e-4)
        accuracies = [np.mean(values.argmax(1) == labels) for values in (logits, ours)]
        assert abs(accuracies[0] - accuracies[1]) <= 1e-3 + 1 / 400
