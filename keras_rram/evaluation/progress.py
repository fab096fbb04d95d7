"""A progress bar with the accuracy so far, its half-width, and the time left."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from keras_rram.evaluation.chip_result import ChipResult
from keras_rram.evaluation.statistics.two_way import chip_interval


class Progress:
    """The bar of a run, one for each fault rate; a context manager.

    Args:
        show: whether there is a bar at all.
    """

    def __init__(self, show: bool):
        self._show = show
        self._bar: Any = None
        self._rate: float | None = None
        self._chips: dict[int, ChipResult] = {}

    def __enter__(self) -> "Progress":
        """Shows nothing yet."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Leaves the last bar as it is."""
        self._close()

    def start(self, rate: float, known: Iterable[ChipResult], more: int) -> None:
        """Begins a fault rate, or its next look.

        Args:
            rate: the fault rate.
            known: chips that are evaluated already.
            more: number of chips that will be.
        """
        if rate != self._rate:
            self._close()
            self._rate = rate
            self._chips = {chip.index: chip for chip in known}
            self._bar = tqdm(
                desc=f"{rate:.1%} faults",
                unit="chip",
                initial=len(self._chips),
                total=len(self._chips),
                dynamic_ncols=True,
                disable=not self._show,
            )
        self._bar.total = self._bar.n + more
        self._describe()

    def add(self, chip: ChipResult) -> None:
        """Counts a chip."""
        self._chips[chip.index] = chip
        if self._bar.update():
            self._describe()

    def _describe(self) -> None:
        if not self._chips or self._bar.disable:
            return
        chips = list(self._chips.values())
        if chips[0].score is not None:
            self._bar.set_postfix_str(f"score {np.mean([chip.accuracy for chip in chips]):.4g}")
            return
        correct, total = np.array([(chip.correct, chip.total) for chip in chips]).T
        text = f"accuracy {np.mean(correct / total):.2%}"
        if len(correct) > 1:
            interval = chip_interval(correct, total, images="test_set")
            text += f" +- {100 * interval.half_width:.2f}"
        self._bar.set_postfix_str(text)

    def _close(self) -> None:
        if self._bar is not None:
            self._describe()
            self._bar.close()
            self._bar = None
