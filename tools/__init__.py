"""Command line tools: `keras-rram NAME`, or in a clone `python -m tools.MODULE`."""

COMMANDS = {
    "demo": "demo",
    "train": "train",
    "evaluate": "evaluate",
    "report": "report_page",
    "explain": "explain",
    "program-chips": "program_chips",
    "compare": "compare",
    "merge": "merge",
    "variance": "variance",
    "export": "export_tflite",
    "inspect": "inspect_tflite",
    "export-micro": "export_micro",
    "export-models": "export_models",
    "faults": "compare_faults",
    "repairs": "compare_repairs",
    "sensitivity": "sensitivity",
    "place": "place",
    "networks": "search_networks",
    "channels": "channel_shifts",
    "levels": "levels",
    "quantize": "quantize",
    "reproduce": "reproduce",
    "benchmark": "benchmark",
}
"""Name of the command -> module here."""
