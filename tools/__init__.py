"""Command line tools; `tools/<name>.py` runs as `python -m tools.<name>`."""
