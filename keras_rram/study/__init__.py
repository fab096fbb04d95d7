"""The study, panel by panel: run, judged, and written down beside what it reports."""

from keras_rram.study.findings import FINDINGS, Finding
from keras_rram.study.judgement import Verdict, judge
from keras_rram.study.methods import METHODS, Method
from keras_rram.study.page import publish
from keras_rram.study.run import POPULATIONS, Run, fluctuation, run_panel

__all__ = [
    "FINDINGS",
    "METHODS",
    "POPULATIONS",
    "Finding",
    "Method",
    "Run",
    "Verdict",
    "fluctuation",
    "judge",
    "publish",
    "run_panel",
]
