"""The study, panel by panel: run, judged, and written down beside what it reports."""

from keras_rram.study.findings import FINDINGS, Finding, Verdict, judge
from keras_rram.study.page import publish
from keras_rram.study.run import POPULATIONS, Run, fluctuation, run_panel

__all__ = [
    "FINDINGS",
    "POPULATIONS",
    "Finding",
    "Run",
    "Verdict",
    "fluctuation",
    "judge",
    "publish",
    "run_panel",
]
