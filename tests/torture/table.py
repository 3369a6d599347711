"""The rows that a run of the lab left, as the Markdown table of README.md: python tests/torture/table.py RESULTS"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    """Returns 1 when an attack got through, or a control was not caught."""
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: (row["promise"], row["test"], row["control"]))
    print("| promise | attack | runs | failures | s | test |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print("|", " | ".join(map(str, cells(row))), "|")
    bad = [row for row in rows if not row["passed"]]
    return 1 if bad else 0


def cells(row: dict[str, Any]) -> list[object]:
    what = f"*control, without it:* {row['what']}" if row["control"] else row["what"]
    if row["note"]:
        what += f" ({row['note']})"
    outcome = f"caught {row['caught']:,}" if row["control"] else ("0" if row["passed"] else "**yes**")
    if row["control"] and not row["passed"]:
        outcome = "**not caught**"
    return [row["promise"], what, f"{row['runs']:,} {row['unit']}", outcome, round(row["seconds"]), f"`{row['test']}`"]


if __name__ == "__main__":
    sys.exit(main())
