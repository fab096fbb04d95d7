"""What can go wrong on the way to a TFLite file."""


class ExportError(ValueError):
    """A TFLite file could not be made, or did not pass its verification."""


class UnmappableError(ExportError):
    """A kernel's place in a TFLite file could not be determined beyond doubt."""
