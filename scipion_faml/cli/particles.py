"""Particles that verbs work on, without those that cannot be used: --skip-bad."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pandas as pd

from scipion_faml import checkpoint
from scipion_faml.cli.common import n_workers
from scipion_faml.cli.runs import Run
from scipion_faml.execution import executor_of
from scipion_faml.screening import (
    EXCLUDED,
    REASON_COLUMN,
    ROW_COLUMN,
    Screened,
    screen,
    write_excluded,
)
from scipion_faml.sources import DamagedParticleError, FileSource
from scipion_faml.tables import ParticleTable, read_particles

logger = logging.getLogger(__name__)

skip_bad_option = click.option(
    "--skip-bad", is_flag=True,
    help="Leave out particles that cannot be used (unreadable, NaN, constant, of another box, "
    "twice in the table) and list them with the reason in excluded.star.  [default: stop at the "
    "first]")


@dataclass(frozen=True, eq=False)
class Usable:
    """The particles of a table that can be used, and how many cannot."""

    screened: Screened
    table: ParticleTable
    run: Run

    @property
    def source(self) -> FileSource:
        """The subtomograms of `table`."""
        return self.screened.source

    def told(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return a verb's result with those left out; the report gets a table of them."""
        n_excluded = len(self.screened.reasons)
        result = {**result, "n_excluded": n_excluded}
        if not n_excluded:
            return result
        excluded = self.screened.excluded.rows
        self.run.report.add_table("Excluded", pd.DataFrame({
            "row": excluded[ROW_COLUMN], "why": excluded[REASON_COLUMN]}))
        warning = (f"{n_excluded} of {len(self.screened.whole)} particles could not be used: see "
                   f"{self.run.output / EXCLUDED}")
        return {**result, "excluded": self.run.output / EXCLUDED,
                "warnings": [*result.get("warnings", []), warning]}


@contextmanager
def usable_particles(
    path: Path, skip_bad: bool, run: Run, workers: int | None, with_poses: bool = False
) -> Iterator[Usable]:
    """Yield the particles of a STAR file that can be used.

    Raises
    ------
    ValueError
        If one cannot be used and is not to be skipped: the first is named, and how many there are.
        This is also said of one whose voxels turn out to be damaged while the block works.
    """
    whole = read_particles(path)
    map_ = executor_of(n_workers(workers)).map
    screened = screen(whole, with_poses, with_contents=skip_bad, map_=map_)
    if screened.reasons and not skip_bad:
        # Headers are wrong: count what is wrong with voxels, too.
        screened = screen(whole, with_poses, with_contents=True, map_=map_)
        raise ValueError(_first_and_count(screened))
    _list_excluded(screened, run)
    try:
        yield Usable(screened, screened.table, run)
    except DamagedParticleError as error:
        found = screen(whole, with_poses, with_contents=True, map_=map_)
        if not found.reasons or skip_bad:
            raise
        raise ValueError(_first_and_count(found)) from error


def _first_and_count(screened: Screened) -> str:
    """What is wrong with the first damaged particle, and how many there are."""
    n_bad, first = len(screened.reasons), next(iter(screened.reasons.values()))
    return (f"{first} ({n_bad} of {len(screened.whole)} particles cannot be used: correct them, or "
            "leave them out with --skip-bad)")


def _list_excluded(screened: Screened, run: Run) -> None:
    """Write excluded.star; refuse to go on with an unfinished run of other particles."""
    path = run.output / EXCLUDED
    rows = [row + 1 for row in screened.reasons]
    if checkpoint.newest(run.output) is not None:
        before = (read_particles(path).rows[ROW_COLUMN].tolist() if path.is_file() else [])
        if before != rows:
            raise ValueError(
                f"{run.output} was begun without {len(before)} particles, now {len(rows)} cannot "
                "be used: choose another --output or add --overwrite")
        return
    path.unlink(missing_ok=True)
    if rows:
        write_excluded(path, screened)
        logger.warning("%d of %d particles are left out: see %s", len(rows), len(screened.whole),
                       path)


