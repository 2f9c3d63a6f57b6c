"""What tests that start processes share."""

from __future__ import annotations

import signal


def heed_signals() -> None:
    """In a new process: signals are not ignored, as they are in what nohup or `&` started."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
