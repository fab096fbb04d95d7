"""Names the packages: no search of pyproject.toml finds the tools, which lie beside the package."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["keras_rram*"]),
        "keras_rram.tools",
        *(f"keras_rram.tools.{name}" for name in find_packages("tools")),
    ],
    package_dir={"keras_rram.tools": "tools"},
    package_data={"keras_rram": ["py.typed"], "keras_rram.plots.report": ["page.css", "page.js"]},
)
