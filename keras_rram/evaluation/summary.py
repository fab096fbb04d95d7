"""The figures of a population: as a flat dict, and as five lines to read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from keras_rram.evaluation.statistics.intervals import Images

if TYPE_CHECKING:
    from keras_rram.evaluation.results import PopulationResult


def summary(
    result: "PopulationResult", confidence: float, images: Images | None, yield_at: Sequence[float]
) -> dict[str, Any]:
    """Returns the figures of `PopulationResult.summary`."""
    several, full = len(result.chips) > 1, result.folds == 1
    if result.stop_interval is not None:
        confidence = result.stop_interval.confidence
    interval = result.mean_interval(confidence, images=images) if result.has_interval else None
    names = ["name", "model", "data", "engine", "fault_model", "rate", "seed", "repair"]
    names += ["access_tier", "fault_free", "fault_free_repaired", "measure", "reason"]
    figures: dict[str, Any] = {name: getattr(result, name) for name in (*names, "interrupted")}
    bound = None
    if full:
        bound = result.single_chips(images or "new").quantile_bound(0.05, confidence)
        bound = bound if bound is None or result.higher_is_better else -bound
    figures |= {
        "chips": len(result.chips),
        "folds": result.folds,
        "mean": result.mean,
        "drop": result.drop,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "half_width": interval.half_width if interval else None,
        "confidence": confidence,
        "question": interval.question if interval else None,
        "method": interval.method if interval else None,
        "raw_sd": result.raw_sd if several else None,
        "sd": result.sd if several and min(chip.total for chip in result.chips) > 1 else None,
        "worst": result.worst.accuracy if full else None,
        "worst_chip": result.worst.index if full else None,
        "q05": result.quantile(0.05, images or "new") if full else None,
        "q05_bound": bound,
        "median": result.quantile(0.5, images or "new") if full else None,
    }
    for threshold in yield_at:
        good = None
        if full:
            good = result.yield_at(threshold, confidence, images or "new").interval
        figures[f"yield_{threshold:g}"] = good.estimate if good else None
        figures[f"yield_{threshold:g}_low"] = good.low if good else None
        figures[f"yield_{threshold:g}_high"] = good.high if good else None
    return figures


def text(result: "PopulationResult") -> str:
    """Returns a result as five lines: what, mean, loss, single chips, how it was done."""

    def shown(value: float) -> str:
        return f"{100 * value:.2f}%" if result.is_counted else f"{value:.4g}"

    images = result.chips[0].total
    part = f", {images:,} of the images each" if result.folds > 1 else f", {images:,} images"
    mean = f"{result.measure}: mean {shown(result.mean)}"
    if result.has_interval:
        found = result.mean_interval()
        mean += f", {100 * found.confidence:g}% interval {shown(found.low)} to {shown(found.high)}"
        mean += f" ({found.question})"
    lost = f"fault-free {shown(result.fault_free)}"
    if result.fault_free_repaired is not None:
        lost += f", repaired {shown(result.fault_free_repaired)}"
    points = f"{100 * result.drop:.2f} points" if result.is_counted else f"{result.drop:.4g}"
    single = "single chips: each answered a part of the images only"
    if result.folds == 1:
        worst = result.worst
        single = f"single chips: median {shown(result.quantile(0.5))}, "
        single += f"5th percentile {shown(result.quantile(0.05))}, "
        single += f"worst {shown(worst.accuracy)} (chip {worst.name or worst.index})"
    count = f"{len(result.chips):,} chip{'s' * (len(result.chips) > 1)}"
    return "\n".join(
        [
            f"{result.name or 'model'} on {count}: {result.fault_model}{part}",
            mean,
            f"{lost}; the faults cost {points}",
            single,
            f"engine {result.engine}, access tier {result.access_tier}, repair {result.repair}; "
            f"{result.reason or f'seed {result.seed}'}",
        ]
    )
