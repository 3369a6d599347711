"""What was measured: figures, the file that keeps them, and the tables and plots made of that file.

`bench.json` is the record, and knows of each section when, how and on what it was measured. `bench.md` and the plots
are made of it alone, so that one section can be measured anew without the others.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import curves

Verdict = Literal["met", "MISSED", "not measured", ""]
DIGITS = 6
LOG_SCALE_FROM = 50
"""Where the largest bar of a panel is that many times the smallest, which would be a hair otherwise."""
NOT_MEASURED: Verdict = "not measured"


@dataclass(frozen=True)
class Figure:
    """One thing measured in a section, one value a repetition."""

    section: str
    name: str
    unit: str
    values: tuple[float, ...]
    """None at all: not measured, and the note says why."""
    target: str | None = None
    """`>= 0.85` or `<= 2`, of the median."""
    note: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(float(f"{value:.{DIGITS}g}") for value in self.values))
        if not self.values and not self.note:
            raise ValueError(f"{self.name}: not measured, and nobody says why")
        if self.target is not None:
            _bound(self.target)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def verdict(self) -> Verdict:
        if not self.values:
            return NOT_MEASURED
        if self.target is None:
            return ""
        at_least, bound = _bound(self.target)
        return "met" if (self.median >= bound if at_least else self.median <= bound) else "MISSED"


def _bound(target: str) -> tuple[bool, float]:
    sign, _, number = target.partition(" ")
    if sign not in (">=", "<="):
        raise ValueError(f"a target is '>= NUMBER' or '<= NUMBER', not {target!r}")
    return sign == ">=", float(number)


class Book:
    """The figures of one section while it is being measured. Whatever it holds when the measuring ends is kept."""

    def __init__(self, section: str, *, quick: bool = False) -> None:
        self.section = section
        self.quick = quick
        """A look whether everything runs, with figures that mean little."""
        self.about: dict[str, str] = {}
        """What only this section was measured with: a peer's version, an option."""
        self._figures: dict[str, Figure] = {}

    @property
    def figures(self) -> list[Figure]:
        return list(self._figures.values())

    def value(self, name: str, unit: str, value: float, target: str | None = None, note: str = "") -> None:
        """One repetition of a figure."""
        before = self._figures.get(name)
        values = (*before.values, value) if before else (value,)
        self._figures[name] = Figure(self.section, name, unit, values, target, note)

    def missing(self, name: str, unit: str, why: str, target: str | None = None) -> None:
        self._figures.setdefault(name, Figure(self.section, name, unit, (), target, why))

    def note(self, name: str, note: str) -> None:
        """What is known of a figure only after its last repetition."""
        self._figures[name] = replace(self._figures[name], note=note)


def load(folder: Path) -> dict[str, Any]:
    file = folder / "bench.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def merge(folder: Path, figures: Iterable[Figure], about: Mapping[str, str]) -> None:
    """Replaces the sections of these figures. `about` says when, how and on what they were measured."""
    sections: dict[str, Any] = {}
    for figure in figures:
        section = sections.setdefault(figure.section, {"about": dict(about), "figures": []})
        section["figures"].append({key: value for key, value in asdict(figure).items() if key != "section"})
    folder.mkdir(parents=True, exist_ok=True)
    kept = json.dumps(load(folder) | sections, indent=1, ensure_ascii=False) + "\n"
    whole = folder / "bench.json.new"
    whole.write_text(kept, encoding="utf-8")
    whole.replace(folder / "bench.json")


def figures_of(folder: Path) -> dict[str, list[Figure]]:
    return {
        section: [Figure(section, **figure) for figure in found["figures"]] for section, found in load(folder).items()
    }


def render(folder: Path) -> None:
    """bench.md and a plot a section."""
    found = figures_of(folder)
    abouts = {section: kept["about"] for section, kept in load(folder).items()}
    (folder / "bench.md").write_text(markdown(found, abouts), encoding="utf-8")
    for section, figures in found.items():
        measured = [figure for figure in figures if figure.values]
        if by_size := curves.curves(measured):
            curves.plot(folder / f"{section}.png", by_size)
        else:
            plot(folder / f"{section}.png", measured)


def markdown(found: Mapping[str, list[Figure]], abouts: Mapping[str, Mapping[str, str]]) -> str:
    """A table a section. What holds for all sections is said once."""
    common = dict(set.intersection(*(set(about.items()) for about in abouts.values()))) if abouts else {}
    order = {key: None for about in abouts.values() for key in about}
    lines = ["# Benchmarks", "", "Median (min to max) of interleaved repetitions. Targets are of the median.", ""]
    lines += [f"- {key}: {common[key]}" for key in order if key in common]
    for section, figures in found.items():
        lines += ["", f"## {section}", ""]
        own = [f"- {key}: {value}" for key, value in abouts[section].items() if key not in common]
        lines += [*own, ""] if own else []
        lines += ["| what | unit | median (min to max) | target | | note |", "|---|---|---|---|---|---|"]
        lines += [_row(figure) for figure in figures]
    return "\n".join(lines) + "\n"


def _row(figure: Figure) -> str:
    verdict = f"**{figure.verdict}**" if figure.verdict == "MISSED" else figure.verdict
    cells = (figure.name, figure.unit, spread(figure), figure.target or "", verdict, figure.note)
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def spread(figure: Figure) -> str:
    if not figure.values:
        return ""
    if len(figure.values) == 1:
        return number(figure.values[0])
    return f"{number(figure.median)} ({number(min(figure.values))} to {number(max(figure.values))})"


def number(value: float) -> str:
    """Three digits, and no exponents."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:.12g}"


def plot(file: Path, figures: list[Figure]) -> None:
    """Medians as bars, min to max as whiskers, targets as strokes; a panel a unit."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    units = list(dict.fromkeys(figure.unit for figure in figures))
    if not units:
        file.unlink(missing_ok=True)
        return
    panels = [[figure for figure in figures if figure.unit == unit] for unit in units]
    heights = [len(panel) + 1.5 for panel in panels]
    drawing, axes = pyplot.subplots(
        len(panels), figsize=(10, 0.28 * sum(heights) + 0.5), squeeze=False, layout="constrained",
        gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    for axis, unit, panel in zip(axes[:, 0], units, panels, strict=True):
        for place, figure in enumerate(panel):
            colour = {"met": "#4a8f5c", "MISSED": "#c0504d"}.get(figure.verdict, "#7f8fa6")
            below, above = figure.median - min(figure.values), max(figure.values) - figure.median
            axis.barh(place, figure.median, color=colour, height=0.7, xerr=[[below], [above]], ecolor="#333333")
            if figure.target is not None:
                axis.plot([_bound(figure.target)[1]] * 2, [place - 0.45, place + 0.45], color="black", linewidth=2)
        axis.set_yticks(range(len(panel)), [figure.name for figure in panel], fontsize=8)
        axis.set_xlabel(unit, fontsize=8)
        axis.tick_params(axis="x", labelsize=8)
        axis.invert_yaxis()
        medians = [figure.median for figure in panel]
        if min(medians) > 0 and max(medians) > LOG_SCALE_FROM * min(medians):
            axis.set_xscale("log")
        else:
            axis.set_xlim(left=0)
    drawing.suptitle(f"{file.stem}: stroke = target, green = met, red = missed", fontsize=9)
    drawing.savefig(file, dpi=110)
    pyplot.close(drawing)
