"""sightlogd without the lock on the database, and without a look at who has it: its lock file alone keeps others out.

    python tests/unguarded_daemon.py run --data-dir …

The product's own code, wrapped from outside.
"""

from __future__ import annotations

import sys

from sightlog import filelocks, writer
from sightlogd.__main__ import main

if __name__ == "__main__":
    filelocks.take = lambda *_: True
    writer.find = lambda _: None
    sys.exit(main(sys.argv[1:]))
