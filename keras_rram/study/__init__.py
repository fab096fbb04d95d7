"""The study, panel by panel: run, judged, and written down beside what it reports."""

from keras_rram.study.benchmark import TASKS, Task, population_sha256, score
from keras_rram.study.benchmark_page import publish_benchmark
from keras_rram.study.findings import FINDINGS, Finding
from keras_rram.study.judgement import Verdict, judge
from keras_rram.study.methods import METHODS, Method
from keras_rram.study.page import publish
from keras_rram.study.run import POPULATIONS, Run, fluctuation, run_panel

__all__ = [
    "FINDINGS",
    "METHODS",
    "POPULATIONS",
    "TASKS",
    "Finding",
    "Method",
    "Run",
    "Task",
    "Verdict",
    "fluctuation",
    "judge",
    "population_sha256",
    "publish",
    "publish_benchmark",
    "run_panel",
    "score",
]
