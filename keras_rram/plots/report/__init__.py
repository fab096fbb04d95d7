"""The report of a run: one HTML file to open in a browser and to pass around."""

from keras_rram.plots.report.page import ReportRun, write_report

__all__ = ["ReportRun", "write_report"]
