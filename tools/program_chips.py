r"""Turns measured tile maps into chips, and a model into a programming map for real hardware.

A map of each chip's tiles (`.npz`, `.csv`, `.png`, or a folder of such files; the docstring of
`keras_rram.hardware.tile_maps` has the forms) becomes a chip of the same name, for `--chip` of the
other tools:

  python -m tools.program_chips --model=runs/digits/model.keras --maps='maps/*.npz' \
      --mapping=differential_pair --share --out=runs/chips
  python -m tools.evaluate --model=runs/digits/model.keras --chip='runs/chips/*.npz' \
      --keep_above=0.95 --out=runs/measured
  python -m tools.export_tflite --model=runs/digits/model.keras --chip='runs/chips/*.npz' \
      --keep_above=0.95 --out=runs/tflite

Which layer is on which tile follows from the model, `--mapping`, `--tile` and `--share`; what a
stuck cell does follows from the weights too: make chips anew after retraining. The folder `--out`
gets a file for each chip, `index.csv` (chip, map, part of faulty weights) and, with `--program`,
`program.csv`: the conductance in siemens that each cell (tile, row, column) must be programmed to.
"""

import glob
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import flags

from . import cli, inputs, report

FLAGS = flags.FLAGS

inputs.define_model(convert=True)
flags.DEFINE_list("maps", [], "Maps of tiles, files or folders, one for each chip; * is any name.")
flags.DEFINE_string(
    "mapping",
    "none",
    "How weights become conductances: differential_pair, centred_pair, reference_column or "
    "bit_slices, with keys as in differential_pair(g_min=1e-6,g_max=1e-4); none: a cell is a "
    "weight, and stuck_off is zero.",
)
flags.DEFINE_string("tile", None, "ROWSxCOLUMNS of a tile. Default: as in the maps, or 128x128.")
flags.DEFINE_bool("share", False, "Kernels share tiles where they fit.")
flags.DEFINE_bool("program", False, "Write program.csv: the conductance of each cell.")
flags.DEFINE_string("out", None, "Folder for the chips.")


def main(argv: Sequence[str]) -> None:
    """Makes chips and maps as the flags say."""
    del argv
    cli.check_output_folder()
    if not FLAGS.maps and not FLAGS.program:
        raise ValueError("--maps is missing: name the maps of tiles, or give --program.")
    mapping = _mapping()
    if FLAGS.program and mapping is None:
        raise ValueError("--program needs --mapping, which says what conductance a weight is.")
    paths = _paths()
    from keras_rram.hardware.programming_map import programming_map
    from keras_rram.hardware.tile_maps import chip_from_tiles, load_tiles
    from keras_rram.hardware.tile_placement import place

    maps = [load_tiles(path) for path in paths]
    model = inputs.faulty_model(FLAGS.model)
    placement = place(model, mapping, _tile(maps), FLAGS.share)
    folder = cli.output_folder(FLAGS.out)
    rows = []
    for path, tiles in zip(paths, maps, strict=True):
        try:
            chip = chip_from_tiles(model, tiles, placement, mapping, name=path.stem)
        except ValueError as error:
            raise ValueError(f"--maps: '{path}': {error}") from None
        chip.save(folder / f"{chip.name}.npz")
        faults = chip.faults(model).values()
        faulty = sum(int(fault.faulty.sum()) for fault in faults)
        rate = faulty / sum(fault.mask.size for fault in faults)
        rows.append({"chip": chip.name, "map": str(path), "fault_rate": rate})
        print(f"{chip.name}: {rate:.2%} of the weights faulty.")
    if rows:
        table = report.table(rows).to_csv(index=False, lineterminator="\n")
        report.write(folder / "index.csv", table)
    if FLAGS.program:
        programming_map(model, placement, mapping).save(folder / "program.csv")
    print(
        f"{len(rows)} chips of {placement.tiles} tiles of {placement.tile[0]} x "
        f"{placement.tile[1]}. Results: {folder}/"
    )


def _paths() -> list[pathlib.Path]:
    """Returns the maps, each pattern's in the order of their names."""
    found: list[pathlib.Path] = []
    for pattern in FLAGS.maps:
        fitting = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        if not fitting:
            raise ValueError(f"--maps={pattern}: no file has such a name.")
        found += [pathlib.Path(path) for path in fitting]
    names = [path.stem for path in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"--maps must have different names, which chips keep. Received: {twice}")
    return found


def _mapping() -> Any:
    """Returns the cell mapping of `--mapping`, or None."""
    from keras_rram import faults

    if FLAGS.mapping == "none":
        return None
    try:
        model: Any = faults.parse(f"differential_pair:mapping={FLAGS.mapping}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"--mapping='{FLAGS.mapping}': {error}") from None
    return model.mapping


def _tile(maps: Sequence[Any]) -> tuple[int, int]:
    """Returns rows and columns of a tile."""
    if FLAGS.tile is None:
        return maps[0][0].shape if maps else (128, 128)
    found = re.fullmatch(r"(\d+)x(\d+)", FLAGS.tile)
    if found is None:
        raise ValueError(f"--tile must be ROWSxCOLUMNS, such as 128x128. Received: {FLAGS.tile}")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    cli.run(main)
