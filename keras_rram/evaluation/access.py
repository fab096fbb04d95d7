"""What a repair may know of a chip: its access tier, which results are compared within."""

from typing import Literal

Tier = Literal["A", "B", "C"]


def access_tier(repair: str) -> Tier | None:
    """Returns the access tier of a result from its `repair`.

    Args:
        repair: `PopulationResult.repair`.

    Returns:
        "A" where nothing was done to a chip: one model for all. "B" after
        `BatchNormRecalibration`, which needs unlabelled images on each chip. None for a repair of
        your own: only you know whether it used labels or the chip's map, which is "C".

    Example:
        >>> access_tier("none")
        'A'
    """
    if repair == "none":
        return "A"
    return "B" if repair.startswith("batch_norm/") else None
