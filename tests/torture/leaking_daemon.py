"""sightlogd that keeps ten descriptors and 4 MB of every batch: the control of the soak.

python tests/torture/leaking_daemon.py run --data-dir …
"""

from __future__ import annotations

import os
import sys
from typing import Any

from sightlogd.__main__ import main
from sightlogd.store.store import Store

kept: list[Any] = []
write = Store.write


def and_keep(*arguments: Any, **options: Any) -> Any:
    kept.append(([os.open("/dev/null", os.O_RDONLY) for _ in range(10)], os.urandom(4_000_000)))
    return write(*arguments, **options)


if __name__ == "__main__":
    Store.write = and_keep
    sys.exit(main(sys.argv[1:]))
