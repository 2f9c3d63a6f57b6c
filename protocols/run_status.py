"""extra/status.json of a run: what its present command does, and how far the run is as a whole.

A command writes the file while it works (`scipion_faml.status`); the run itself writes it when it
begins, when it has something to count, and when it ends. Nothing is written by a thread here:
Scipion's process would wait for it for ever.
"""

from __future__ import annotations

import os
import platform
import re
import threading
import time
from pathlib import Path

from scipion_faml import __version__
from scipion_faml.status import (
    FAILED,
    FINISHED,
    OF_THE_CALLER,
    RUNNING,
    SCHEMA,
    STOPPED,
    moment,
    read_json,
    write_json,
)

STATUS_NAME = "status.json"
ANSI = re.compile(r"\x1b\[\d*m")


class RunStatus:
    """The status file of one run of a protocol."""

    def __init__(self, protocol):
        self._protocol = protocol
        self._lock = threading.Lock()  # steps run side by side
        self.path = Path(protocol._getExtraPath(STATUS_NAME)).resolve()
        self._run = {
            "protocol": protocol.getClassName(), "id": protocol.getObjId(),
            "label": protocol.getRunName(), "project": protocol.getProject().getShortName(),
            "pid": os.getpid(), "host": platform.node(), "started": moment(time.time()),
            "ended": None, "counts": {},
        }

    def begin(self):
        """Say that the run has begun; what an earlier one of it said goes."""
        now = self._run["started"]
        with self._lock:
            self._tell({"schema": SCHEMA, "state": RUNNING, "step": "start", "verb": None,
                        "verb_state": None, "message": None, "pid": os.getpid(),
                        "host": platform.node(), "version": __version__, "started": now,
                        "updated": now, "ended": None})

    def command(self, verb):
        """Say which command begins; most write the status themselves from then on."""
        with self._lock:
            self._tell({**read_json(self.path), "verb": verb, "verb_state": RUNNING,
                        "step": "start", "done": None, "total": None,
                        "updated": moment(time.time())})

    def count(self, **counts):
        """Say how many there are of what, for example tomograms=3; also that the run lives."""
        with self._lock:
            self._run["counts"].update(counts)
            self._tell({**read_json(self.path), "updated": moment(time.time())})

    def end(self):
        """Write how the run ended."""
        protocol, now = self._protocol, moment(time.time())
        state = FINISHED if protocol.isFinished() else FAILED if protocol.isFailed() else STOPPED
        message = None
        if state == FAILED:
            said = ANSI.sub("", protocol.getErrorMessage() or "it failed")
            message = " ".join(said.removeprefix("Protocol failed: ").split())
        with self._lock:
            self._run["ended"] = now
            last = {"step": "end", "done": None, "total": None} if state == FINISHED else {}
            self._tell({**read_json(self.path), **last, "state": state, "message": message,
                        "eta_seconds": 0.0 if state == FINISHED else None, "updated": now,
                        "ended": now})

    def _tell(self, content):
        """Write both what commands take over and the file itself; a full disk ends no run."""
        try:
            write_json(self.path.with_name(OF_THE_CALLER), self._run)
            write_json(self.path, {**content, "run": self._run})
        except OSError as error:
            self._protocol.info(f"status not written: {error}")


def note_stop(protocol):
    """Say in the status of a run that it was stopped from outside, if it was running."""
    project = protocol.getProject()
    folder = Path(project.path) if project is not None else Path()
    path = folder / protocol._getExtraPath(STATUS_NAME)
    status = read_json(path)
    if status.get("state") != RUNNING:
        return
    now = moment(time.time())
    ended = {"state": STOPPED, "message": "stopped in Scipion", "eta_seconds": None,
             "updated": now, "ended": now}
    try:
        write_json(path, {**status, **ended, "run": {**status.get("run", {}), "ended": now}})
    except OSError as error:
        protocol.info(f"status not written: {error}")
