"""sightlogd that gets SIGTERM in the middle of writing the log line EVENT.

    python tests/interrupted_daemon.py EVENT run --data-dir …

The product's own code; standard error interrupts it.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from sightlogd.__main__ import main


class Interrupting:
    """Standard error, until the line comes."""

    def __init__(self, event: str) -> None:
        self._text = f'"event": "{event}"'

    def write(self, text: str) -> int:
        if self._text in text:
            os.kill(os.getpid(), signal.SIGTERM)
        return sys.__stderr__.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.__stderr__, name)


if __name__ == "__main__":
    sys.stderr = Interrupting(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
