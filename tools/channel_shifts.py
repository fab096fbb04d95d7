r"""Shows what chips do to the mean and the scale of a layer's channels, network by network.

The outputs of the layers of these names, on 20 chips with 30% of their weights at zero:

  python -m tools.channel_shifts --models=runs/batch/model.keras,runs/instance/model.keras \
      --layers=block2_depthwise_bn,block2_depthwise_in --titles=batch,instance \
      --fault_rate=0.3 --out=runs/shifts

The folder `--out` gets `channel_shifts.png` and `channel_shifts.json`.
"""

from collections.abc import Sequence

from absl import flags

from . import cli, fault_flags, inputs, report

FLAGS = flags.FLAGS

flags.DEFINE_list("models", None, "Trained models, .keras files.")
flags.DEFINE_list("layers", None, "A layer of each model, or one name for all.")
flags.DEFINE_list("titles", None, "A title for each model; default: its file.")
fault_flags.define(otherwise="0.3")
fault_flags.define_chips(20, least=2)
inputs.define_data(images=256)
flags.DEFINE_string("out", None, "Folder for the results.")


def main(argv: Sequence[str]) -> None:
    """Measures, draws and writes."""
    del argv
    cli.check_output_folder()
    from keras_rram import population
    from keras_rram.evaluation.channel_shifts import channel_shifts
    from keras_rram.faults import spec
    from keras_rram.plots.channels import channel_clouds

    if not FLAGS.models or not FLAGS.layers:
        raise ValueError("--models and --layers are missing: name at least one of each.")
    names = FLAGS.layers * len(FLAGS.models) if len(FLAGS.layers) == 1 else FLAGS.layers
    titles = FLAGS.titles or FLAGS.models
    for flag, values in (("layers", names), ("titles", titles)):
        if len(values) != len(FLAGS.models):
            raise ValueError(
                f"--{flag} must be one for each of --models. Received: {len(values)} for "
                f"{len(FLAGS.models)}"
            )
    fault_model = fault_flags.at(FLAGS.fault_rate, otherwise=0.3)
    chips = population(fault_model, FLAGS.chips, FLAGS.seed, FLAGS.first_chip)
    dataset = inputs.load_data(inputs.Training.beside(FLAGS.models[0]))
    images, _ = dataset.arrays("test", inputs.image_count(dataset))
    print(inputs.describe(dataset, images))
    found = {
        title: channel_shifts(inputs.load_model(path), layer, images, chips)
        for title, path, layer in zip(titles, FLAGS.models, names, strict=True)
    }
    folder = cli.output_folder(FLAGS.out)
    channel_clouds(found, folder / "channel_shifts.png")
    record = {
        "command": cli.command(),
        "commit": cli.commit(),
        "fault_model": spec(fault_model),
        "chips": FLAGS.chips,
        "seed": FLAGS.seed,
        "images": FLAGS.images,
        "networks": {
            title: {"layer": each.layer, "shift_rms": each.shift, "scale_spread": each.spread}
            for title, each in found.items()
        },
    }
    report.write_json(folder / "channel_shifts.json", record, indent=2)
    for title, each in found.items():
        print(f"{title}: shift {each.shift:.3f} rms, spread of the scale {each.spread:.1%}")
    print(f"Results: {folder}/")


if __name__ == "__main__":
    cli.run(main)
