"""Protocols that work on a set while it grows: each piece is worked on as it arrives.

The step that makes steps waits for work; when some has come it inserts a step for each piece and
another of its own kind behind them, so that one thread is enough and more work at once. The output
grows with every piece and is closed when no more can come.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime
from pathlib import Path

from pyworkflow.object import Set
from pyworkflow.protocol import STEPS_PARALLEL, ProtStreamingBase
from pyworkflow.utils.retry_streaming import retry_on_sqlite_lock

from .protocol_base import ProtFamlBase

logger = logging.getLogger(__name__)


class ProtFamlStreaming(ProtFamlBase, ProtStreamingBase):
    """Base of these; it has no label, so Scipion does not list it.

    A protocol names its output, says what new work there is, makes a step of it, and makes the
    output when the first piece is done.
    """

    stepsExecutionMode = STEPS_PARALLEL
    OUTPUT = ""  # name of the set that grows

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._workSteps = []

    # ----------------------------------------------------------------------------- a protocol
    def streamSettings(self):
        """Return a hash of what decides what comes out of a piece of work."""
        raise NotImplementedError

    def newWork(self, settings):
        """Return the pieces of work that have arrived since it was asked last, and whether more
        may come."""
        raise NotImplementedError

    def insertWork(self, piece, settings):
        """Insert the step of a piece of work and return its id."""
        raise NotImplementedError

    def newOutput(self):
        """Return the output, empty, and the pointers that it comes from."""
        raise NotImplementedError

    def outputStamp(self, settings):
        """Return what an output must have been made with, to be continued."""
        return settings

    # --------------------------------------------------------------------------------- steps
    def stepsGeneratorStep(self):
        """Insert steps for the work that has arrived; wait for the first if there is none.

        Scipion calls it in a step of its own.
        """
        settings = self.streamSettings()
        while True:
            pieces, is_open = self.newWork(settings)
            self._workSteps += [self.insertWork(piece, settings) for piece in pieces]
            if not is_open:
                self._insertFunctionStep(self.closeOutputStep, settings,
                                         prerequisites=self._workSteps, needsGPU=False)
                return
            if pieces:
                self._insertFunctionStep(self.resumableStepGeneratorStep, str(datetime.now()),
                                         prerequisites=[], needsGPU=False)
                return
            self._rest()

    def _rest(self):
        """Wait a while; the status of the run says that it lives."""
        until = time.monotonic() + max(1, self._getStreamingSleepOnWait())
        while time.monotonic() < until:
            self.count()
            time.sleep(min(5.0, max(0.0, until - time.monotonic())))

    def closeOutputStep(self, settings):
        """Say that nothing more will come."""
        # Of a run before, with other settings, nothing may stay when nothing was found now.
        if self.outputMadeWith(settings) is None and hasattr(self, self.OUTPUT):
            self.deleteOutput(getattr(self, self.OUTPUT))
        found = getattr(self, self.OUTPUT, None)
        self.raiseIfAllFailed(0 if found is None else found.getSize())
        self._closeOutputSet()

    # -------------------------------------------------------------------------------- output
    def openOutput(self, settings):
        """Return the output to append to: a new one, also when the settings changed.

        The caller holds the lock.
        """
        found = self.outputMadeWith(settings)
        if found is not None:
            found.enableAppend()
            found.setStreamState(Set.STREAM_OPEN)
            return found
        made, sources = self.newOutput()
        made.setStreamState(Set.STREAM_OPEN)
        self._defineOutputs(**{self.OUTPUT: made})
        for source in sources:
            self._defineSourceRelation(source, made)
        self._stampFile().write_text(self.outputStamp(settings))
        return made

    def outputMadeWith(self, settings):
        """Return the output if it was made with these settings, or None."""
        stamp = self._stampFile()
        same = stamp.is_file() and stamp.read_text() == self.outputStamp(settings)
        return getattr(self, self.OUTPUT, None) if same else None

    def forgetOutput(self):
        """Let the next piece of work begin a new output."""
        self._stampFile().unlink(missing_ok=True)

    @retry_on_sqlite_lock(log=logger)
    def writeOutput(self, output):
        """Commit what was appended, so that others see it."""
        output.write()
        self._store(output)

    def _stampFile(self):
        return Path(self._getExtraPath(".output"))

    @staticmethod
    def refreshed(growing):
        """Return whether more may come to a set that grows, which is read anew.

        Asked before its items are read, or the last ones would be missed.
        """
        growing.close()  # what it holds in memory may be old
        growing.loadAllProperties()
        return growing.isStreamOpen()
