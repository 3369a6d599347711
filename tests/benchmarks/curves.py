"""Plots of figures named `WHAT, at N events`: medians over N, both axes logarithmic, a panel a unit."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from results import Figure

Curve = list[tuple[int, "Figure"]]
DECADE = 10.0
"""Of the vertical axis, at least."""
_at = re.compile(r"(.+), at ([\d,]+) events").fullmatch


def curves(figures: Sequence[Figure]) -> dict[str, Curve]:
    """By what was measured; nothing unless all figures are of some size."""
    found: dict[str, Curve] = {}
    for figure in figures:
        match = _at(figure.name)
        if match is None:
            return {}
        found.setdefault(match[1], []).append((int(match[2].replace(",", "")), figure))
    return found


def plot(file: Path, found: dict[str, Curve]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    units = list(dict.fromkeys(curve[0][1].unit for curve in found.values()))
    drawing, axes = pyplot.subplots(
        len(units), figsize=(10, 2.6 * len(units)), squeeze=False, sharex=True, layout="constrained"
    )
    for axis, unit in zip(axes[:, 0], units, strict=True):
        for what, curve in found.items():
            if curve[0][1].unit != unit:
                continue
            medians = [figure.median for _, figure in curve]
            below = [figure.median - min(figure.values) for _, figure in curve]
            above = [max(figure.values) - figure.median for _, figure in curve]
            axis.errorbar(
                [size for size, _ in curve], medians, yerr=[below, above], marker="o", markersize=4, capsize=3,
                linewidth=1.2, label=what,
            )  # fmt: skip
        axis.set_xscale("log")
        axis.set_yscale("log")
        low, high = axis.get_ylim()
        if high < DECADE * low:  # noise would look like a mountain
            middle = math.sqrt(low * high)
            axis.set_ylim(middle / math.sqrt(DECADE), middle * math.sqrt(DECADE))
        axis.set_ylabel(unit, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    axes[-1, 0].set_xlabel("events in the database", fontsize=8)
    drawing.savefig(file, dpi=110)
    pyplot.close(drawing)
