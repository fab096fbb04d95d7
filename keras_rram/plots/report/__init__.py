"""The report of a run: one HTML file to open in a browser and to pass around."""

from keras_rram.plots.report.chips import Chips
from keras_rram.plots.report.page import ReportRun, write_report

__all__ = ["Chips", "ReportRun", "write_report"]
