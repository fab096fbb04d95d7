"""What one inference costs in array reads and conversions, in energy and in time: coarse."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import keras

from keras_rram.faults.crossbar import TILE
from keras_rram.faults.grammar import read_fields
from keras_rram.faults.mapping import check_number
from keras_rram.hardware.cost import MAPPINGS
from keras_rram.hardware.macs import size
from keras_rram.hardware.summary import summary_table
from keras_rram.hardware.tile_placement import place
from keras_rram.layers import faulty_layers


@dataclass(frozen=True)
class Prices:
    """Energy and time of single operations; give those of your own circuits.

    The defaults are ISAAC's at 32 nm ([Shafiee et al., ISCA 2016](
    https://doi.org/10.1109/ISCA.2016.12), table I): eight arrays of 128 x 128 cells read every 100
    ns at 2.4 mW (30 pJ a read), their 1024 one-bit drivers at 4 mW (50 pJ for the 128 of an array),
    eight converters of 8 bits and 1.2 GS/s at 16 mW (1.67 pJ a conversion). The digital multiply-
    accumulate, its memory included, is that of DaDianNao as the paper compares with it (286.4
    GOPS/W in 16 bits, two operations each: 7.0 pJ).

    Attributes:
        read_pj: one read of one array, drivers included, in picojoules.
        adc_pj: one conversion of one bit line.
        digital_pj: one multiply-accumulate of the exact hardware.
        read_ns: one read, in nanoseconds, the conversions of its bit lines within.
        input_bits: bits of an input value, one in each read.
    """

    read_pj: float = 80.0
    adc_pj: float = 1.67
    digital_pj: float = 7.0
    read_ns: float = 100.0
    input_bits: int = 8

    def __post_init__(self) -> None:
        """Checks the values."""
        for name in ("read_pj", "adc_pj", "digital_pj", "read_ns", "input_bits"):
            value = getattr(self, name)
            check_number(name, value, "a price")
            if not 0 <= value < float("inf"):
                raise ValueError(f"`{name}` must be >= 0 and finite. Received: {name}={value}")
        if isinstance(self.input_bits, bool) or not isinstance(self.input_bits, int):
            raise ValueError(f"`input_bits` must be an integer. Received: {self.input_bits!r}")
        if self.input_bits < 1:
            raise ValueError(f"`input_bits` must be >= 1. Received: {self.input_bits}")

    @classmethod
    def parse(cls, text: str) -> "Prices":
        """Returns the prices of a text, `read_pj=50,adc_pj=2`; those left out are the defaults.

        Raises:
            ValueError: if a key is unknown or given twice, or a value is no price.
        """
        return read_fields(cls, text, "Prices")


@dataclass(frozen=True)
class LayerOperations:
    """What one inference costs in one layer on faulty hardware.

    Attributes:
        layer: its name.
        macs: multiply-accumulates.
        cells: cells that hold weights or references.
        tiles: tiles, none of which it shares.
        array_reads: reads of single arrays: positions x input bits x tiles.
        conversions: bit lines that are converted in them.
        analog_pj: energy of reads and conversions, in picojoules.
        analog_ns: time of its reads one after the other, all its tiles at once, in nanoseconds.
        digital_pj: energy of the same multiply-accumulates on exact digital hardware.
    """

    layer: str
    macs: int
    cells: int
    tiles: int
    array_reads: int
    conversions: int
    analog_pj: float
    analog_ns: float
    digital_pj: float

    @property
    def saved_pj(self) -> float:
        """What an inference saves by having the layer on RRAM; negative where it costs more."""
        return self.digital_pj - self.analog_pj

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, `saved_pj` among them."""
        return dataclasses.asdict(self) | {"saved_pj": self.saved_pj}


def count_operations(
    model: keras.Model,
    prices: Prices | None = None,
    mapping: str = "differential_pair",
    tile: tuple[int, int] | int = TILE,
) -> dict[str, LayerOperations]:
    """Counts reads and conversions of one inference for each Drop-Connect layer, and their price.

    It is coarse: every input bit is one read of each of a kernel's tiles, every bit line in use is
    converted, layers run one after the other, and buffers, links, activations and what is written
    are left out. It answers which layers are worth an array, not what a chip draws.

    Args:
        model: a functional or built Sequential model whose image sizes are known.
        prices: of single operations; None: ISAAC's, see `Prices`.
        mapping: a key of `keras_rram.hardware.cost.MAPPINGS`.
        tile: rows (word lines) and columns (bit lines) of a tile.

    Raises:
        ValueError: if the mapping is unknown, the model has no Drop-Connect layer, or its
            multiply-accumulates cannot be counted.

    Example:

    ```python
    costs = count_operations(model, Prices(adc_pj=2.0))
    costs["c01_conv"].saved_pj
    ```
    """
    price = prices or Prices()
    table = summary_table(model, mapping, tile)
    macs = {row.name: row.macs for row in table.rows}
    placement = place(model, MAPPINGS[mapping], tile)
    cells: dict[str, int] = {}
    for row in table.hardware[0].rows:
        name = row.kernel.rpartition("/")[0]
        cells[name] = cells.get(name, 0) + row.cells
    found = {}
    for name, layer in faulty_layers(model).items():
        weights = sum(size(kernel) for kernel in layer.kernels.values())
        parts = [part for slot in layer.kernels for part in placement.kernels[f"{name}/{slot}"]]
        # Every kernel of a layer is used at each of its positions.
        reads = macs[name] // weights * price.input_bits
        columns = sum(part.block.shape[1] + placement.reference_columns for part in parts)
        array_reads, conversions = reads * len(parts), reads * columns
        found[name] = LayerOperations(
            layer=name,
            macs=macs[name],
            cells=cells[name],
            tiles=len(parts),
            array_reads=array_reads,
            conversions=conversions,
            analog_pj=array_reads * price.read_pj + conversions * price.adc_pj,
            analog_ns=reads * len(layer.kernels) * price.read_ns,
            digital_pj=macs[name] * price.digital_pj,
        )
    return found
