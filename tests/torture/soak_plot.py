"""The picture of a soak: what was measured over its time, with kills and purges, and the slopes that were judged."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from PIL import Image
from soak_verdict import Growth

COLOURS = {"daemon": "#c0392b", "sensor": "#e67e22", "purge": "#2471a3"}
LINES = ("#1b4f72", "#b9770e", "#1e8449", "#7d3c98")


def plot(summary: dict[str, Any], found: Sequence[Growth], path: Path) -> None:
    samples = summary["samples"]
    minutes = [sample["at"] / 60 for sample in samples]

    def values(role: str, key: str | None = None) -> list[float | None]:
        return [sample[role] if key is None else (sample[role] or {}).get(key) for sample in samples]

    figure, axes = plt.subplots(7, 1, figsize=(11, 15.5), sharex=True, layout="constrained")
    memory, files, cpu, wal, spool, store, latency = axes
    curves: tuple[tuple[Axes, str, Sequence[tuple[str, list[float | None]]]], ...] = (
        (memory, "memory\nPSS, MB", (("daemon", values("daemon", "memory")), ("sensor", values("sensor", "memory")),
                                    ("reader", values("reader", "memory")), ("decoder", values("decoder")))),
        (files, "descriptors,\nthreads", (("daemon's descriptors", values("daemon", "descriptors")),
                                         ("sensor's descriptors", values("sensor", "descriptors")),
                                         ("reader's descriptors", values("reader", "descriptors")),
                                         ("daemon's threads", values("daemon", "threads")))),
        (cpu, "processor\n% of a core", (("daemon and decoder", values("cpu", "daemon")),
                                        ("all sensors", values("cpu", "sensors")))),
        (wal, "WAL\nMB", (("WAL", values("store", "wal")),)),
        (spool, "spools\nMB", (("all spools", values("store", "spool")),)),
        (store, "store\nMB", (("database", values("store", "database")),
                             ("whole data directory", values("store", "all")))),
        (latency, "publish to ack\nms", (("median", values("latency", "median")), ("95 %", values("latency", "p95")),
                                        ("longest", values("latency", "max")))),
    )  # fmt: skip
    for axis, label, lines in curves:
        for (name, points), colour in zip(lines, LINES, strict=False):
            there = [(at, value) for at, value in zip(minutes, points, strict=True) if value is not None]
            axis.plot(*zip(*there, strict=True) if there else ((), ()), label=name, color=colour, linewidth=1.1)
        axis.set_ylabel(label)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    store.axhline(summary["budget_mb"], color="black", linestyle=":", linewidth=1, label="budget")
    for axis in (memory, files, cpu, wal, spool, store):
        axis.set_ylim(bottom=0)
    latency.set_yscale("log")
    latency.yaxis.set_major_formatter("{x:,.0f}")
    latency.yaxis.set_minor_formatter("")
    latency.set_ylim(10, 10_000)
    for axis in axes:
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
        for mark in summary["marks"]:
            kinds = {"daemon" if victim == "daemon" else "sensor" for victim in mark["victims"]} or {"purge"}
            for kind in kinds:
                axis.axvline(mark["at"] / 60, color=COLOURS[kind], linewidth=0.8, alpha=0.6, zorder=0)
    if found:
        for axis in axes[:5]:
            axis.axvspan(found[0].from_ / 60, found[0].to / 60, color="#27ae60", alpha=0.07, zorder=0)
    axes[-1].set_xlabel("minutes")
    axes[-1].set_xlim(0, max(minutes, default=1))
    handles = [
        Line2D([], [], color=COLOURS["daemon"], label="daemon killed"),
        Line2D([], [], color=COLOURS["sensor"], label="sensor killed"),
        Line2D([], [], color=COLOURS["purge"], label="purge"),
        Line2D([], [], color="#27ae60", alpha=0.25, linewidth=8, label="judged for growth"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    verdict = (
        "FAILED: " + summary["failures"][0][:90]
        if summary["failures"]
        else "nothing lost, all growth within its bounds"
    )
    minutes_long = f"{summary['seconds'] / 60:.1f} min at {summary['rate']:.0f} events/s"
    figure.suptitle(
        f"Soak of {minutes_long}: {summary['published']:,} events, {summary['kills']} kills, "
        f"{summary['purges']} purges, {summary['days_removed']} days removed, seed {summary['seed']}\n{verdict}"
    )
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=90)
    plt.close(figure)
    Image.open(drawn).convert("RGB").quantize(256, kmeans=4, dither=Image.Dither.NONE).save(path, optimize=True)
