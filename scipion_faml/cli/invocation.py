"""One call of a verb: when it began, what it logged as a warning, whether it leaves a report."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

import click

KEY = "scipion_faml.invocation"  # of a click context's meta


@dataclass
class Invocation:
    """What is known about a call while it goes on."""

    warnings: list[str] = field(default_factory=list)
    is_report_wanted: bool = True
    started: float = field(default_factory=time.time)
    cpu_started: float = field(default_factory=time.process_time)

    def seconds(self) -> float:
        """Wall time so far."""
        return time.time() - self.started

    def cpu_seconds(self) -> float:
        """Processor time of this process so far, all threads together."""
        return time.process_time() - self.cpu_started


class _WarningCollector(logging.Handler):
    """Keeps the text of every warning that the package logs."""

    def __init__(self, invocation: Invocation) -> None:
        super().__init__(logging.WARNING)
        self._invocation = invocation

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message once."""
        message = record.getMessage()
        if message not in self._invocation.warnings:
            self._invocation.warnings.append(message)


def invocation_of(context: click.Context | None) -> Invocation:
    """Return the invocation of a verb; from the first call on, its warnings are collected."""
    if context is None:  # code that calls what is behind a verb
        return Invocation()
    if KEY not in context.meta:
        invocation = Invocation()
        collector = _WarningCollector(invocation)
        package = logging.getLogger("scipion_faml")
        package.addHandler(collector)
        context.call_on_close(lambda: package.removeHandler(collector))
        context.meta[KEY] = invocation
    known: Invocation = context.meta[KEY]
    return known
