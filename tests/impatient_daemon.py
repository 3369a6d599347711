"""sightlogd whose decoder may take SECONDS for a picture, and is COMMAND; what failed is tried again after 0.5 s.

    python tests/impatient_daemon.py SECONDS COMMAND run --data-dir …

The product's own code, set up from outside. COMMAND has its words separated by blanks; empty is the product's own.
"""

from __future__ import annotations

import sys
from functools import partialmethod

from sightlogd.__main__ import main
from sightlogd.thumbnails import pipeline

if __name__ == "__main__":
    Thumbnails = pipeline.Thumbnails
    Thumbnails.__init__ = partialmethod(
        Thumbnails.__init__, image_seconds=float(sys.argv[1]), command=sys.argv[2].split()
    )
    pipeline.RETRY_SECONDS = 0.5
    sys.exit(main(sys.argv[3:]))
