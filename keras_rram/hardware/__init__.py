"""What a network asks of the hardware: tiles, converters, read noise, precision, cost."""

from keras_rram.hardware.arrays import to_analog
from keras_rram.hardware.cost import HardwareCost, hardware_cost
from keras_rram.hardware.operations import LayerOperations, Prices, count_operations
from keras_rram.hardware.summary import Summary, SummaryRow, summary_table
from keras_rram.hardware.tile_maps import chip_from_tiles, load_tiles, save_tiles, tiles_from_chip
from keras_rram.hardware.tile_placement import TilePlacement, place

__all__ = [
    "HardwareCost",
    "LayerOperations",
    "Prices",
    "Summary",
    "SummaryRow",
    "TilePlacement",
    "chip_from_tiles",
    "count_operations",
    "hardware_cost",
    "load_tiles",
    "place",
    "save_tiles",
    "summary_table",
    "tiles_from_chip",
    "to_analog",
]
