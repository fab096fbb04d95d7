"""How a written TFLite file is verified: the flags of the tools that write some."""

from collections.abc import Mapping
from typing import Any

from absl import flags

from . import cli, number_flags

flags.disclaim_key_flags()

FLAGS = flags.FLAGS


@cli.section("verification")
def define(micro_images: int) -> None:
    """Defines the thresholds and the images of TensorFlow Lite Micro."""
    number_flags.define(
        "min_agreement", 0.98, "Share of images with Keras's class to be reached.", "[0, 1]"
    )
    number_flags.define(
        "max_accuracy_difference", 0.01, "Allowed difference to Keras's accuracy.", "[0, 1]"
    )
    number_flags.define(
        "max_difference",
        1e-4,
        "Of float32 files: allowed difference to Keras's outputs, as part of the largest.",
        "[0, inf)",
    )
    number_flags.define_whole(
        "micro_images", micro_images, "Images to run int8 files on in TFLite Micro.", "[0, 1e9]"
    )


def options(dataset: Any, quantization: str) -> dict[str, Any]:
    """Returns what the flags say of an export from a data set, by the names of its arguments."""
    from keras_rram.export import Thresholds

    from . import inputs

    is_calibrated = quantization in ("int8", "int16x8")
    return {
        "quantization": quantization,
        "calibration": inputs.calibration(dataset) if is_calibrated else None,
        "thresholds": Thresholds(
            max_difference=FLAGS.max_difference,
            agreement=FLAGS.min_agreement,
            accuracy=FLAGS.max_accuracy_difference,
        ),
        "micro_images": FLAGS.micro_images,
        "data": dataset.name,
        "command": cli.command(is_public=True),
        "commit": cli.commit(),
    }


def verified(found: Mapping[str, Any]) -> str:
    """Returns what running a file showed: its accuracy, or where there is none its likeness."""
    if found["accuracy"] is None:
        return f"Keras's answer in {found['agreement']:.2%}"
    return f"accuracy {found['accuracy']:.2%}"
