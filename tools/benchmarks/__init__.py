"""The suites of `tools/benchmark.py`: each has `run(quick)`, which yields names and values."""
