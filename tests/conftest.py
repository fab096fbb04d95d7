"""Settings of the whole suite."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from hypothesis import settings

# A deadline measures how busy the machine is, and examples of a seed make failures repeatable.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")
