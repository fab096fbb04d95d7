"""The console script `keras-rram`, which finds the tools without an import of `keras_rram`.

It stands beside the package: an import of anything within imports Keras, which a tool may do only
once its flags have said on what backend.
"""

import importlib
import importlib.util
import pathlib
import sys


def main() -> None:
    """Runs `tools/__main__.py`, wherever it is installed, as a package of its own."""
    found = importlib.util.find_spec("keras_rram")
    if found is None or found.origin is None:
        raise SystemExit("error: the package keras_rram is not installed.")
    package = pathlib.Path(found.origin).parent
    folder = package / "tools"  # a wheel's
    if not folder.is_dir():
        folder = package.parent / "tools"  # a clone's
    spec = importlib.util.spec_from_file_location(
        "keras_rram_tools", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise SystemExit(f"error: no tools in {folder}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules["keras_rram_tools"] = module
    spec.loader.exec_module(module)
    importlib.import_module("keras_rram_tools.__main__").main()


if __name__ == "__main__":
    main()
