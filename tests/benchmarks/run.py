"""Measures sections and renders what was found: python tests/benchmarks/run.py [--quick] [--results DIR] [SECTION…]

A section is a module of this folder with `measure(book)`. It replaces its figures in bench.json; the other sections
keep theirs. Ctrl-C ends the run; what was measured so far is kept.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

import bench
import results

SECTIONS = ("ingest", "latency", "cost", "costs", "growth", "pi", "peers", "queries", "files", "metrics")
RESULTS = Path(__file__).parent / "results"


def measure(section: str, *, quick: bool, folder: Path) -> None:
    book = results.Book(section, quick=quick)
    began, load = time.monotonic(), os.getloadavg()[0]
    bench.say(f"{section} …")
    ended = "not to its end"
    try:
        importlib.import_module(section).measure(book)
        ended = "to its end"
    finally:
        command = f"run.py {'--quick ' if quick else ''}{section}"
        took = time.monotonic() - began
        about = bench.about() | book.about
        about |= {"measured with": f"{command}, {ended}, {took:.0f} s", "load average before it": f"{load:.1f}"}
        results.merge(folder, book.figures, about)
        bench.say(f"{section}: {len(book.figures)} figures in {took:.0f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)} (all)")
    parser.add_argument("--quick", action="store_true", help="everything small: does it run? not: how fast")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where bench.json is")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}")
    failed = []
    try:
        for section in options.sections or SECTIONS:
            try:
                measure(section, quick=options.quick, folder=options.results)
            except Exception as error:  # noqa: BLE001 - the other sections are still worth measuring
                failed.append(section)
                bench.say(f"{section} FAILED: {type(error).__name__}: {error}")
    except KeyboardInterrupt:
        failed.append("interrupted")
    results.render(options.results)
    bench.say(f"{options.results}/bench.md" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
