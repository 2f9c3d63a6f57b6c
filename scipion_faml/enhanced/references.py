"""References of all folds and classes, ready to be compared with particles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from scipion_faml.dense import DensePlan, DenseReference, dense_plan, dense_reference
from scipion_faml.enhanced.workbench import reference_turnable
from scipion_faml.execution import Executor
from scipion_faml.measured import WorkingBox
from scipion_faml.types import ComplexArray, FloatArray

KEPT_FOLDS = 2  # where not all fit: blocks come fold by fold


@dataclass(frozen=True)
class Grid:
    """What defines a `dense_plan`: a few numbers stand for tables of many megabytes."""

    n: int
    radius: int
    bandwidth: int
    max_shift: float
    shift_step: float

    @property
    def plan(self) -> DensePlan:
        """The plan; the same object for the same numbers."""
        return dense_plan(self.n, self.radius, self.bandwidth, self.max_shift, self.shift_step)


@dataclass(frozen=True, eq=False)
class Prepared:
    """One reference: to be turned, and for all poses of a grid at once."""

    turnable: ComplexArray
    dense: DenseReference | None

    @property
    def n_bytes(self) -> int:
        """Memory it takes."""
        tables = [] if self.dense is None else [*self.dense.columns, *self.dense.power_columns]
        return self.turnable.nbytes + sum(table.nbytes for table in tables)


class References:
    """References (F, K, J) at the samples of a working box; F is 1 where all folds share one.

    They are prepared when a fold is first asked for. As they are sent to other processes they are
    small: samples, not what is prepared from them.
    """

    def __init__(
        self, values: ComplexArray, n_full: int, radius: int, noise: FloatArray, grid: Grid | None,
        mask: FloatArray | None,
    ) -> None:
        self.values, self.noise, self.grid, self.mask = values, noise, grid, mask
        self.n_full, self.radius = n_full, radius
        self._forget()

    def _forget(self) -> None:
        self._folds: dict[int, list[Prepared]] = {}
        self._most_kept = KEPT_FOLDS
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def prepare(self, executor: Executor, most_bytes: int) -> None:
        """Prepare all folds in parallel, if they fit `most_bytes`."""
        n_folds, n_classes = self.values.shape[:2]
        first = list(executor.map(lambda k: self._one(0, k), range(n_classes)))
        if sum(p.n_bytes for p in first) * n_folds > most_bytes:
            self._folds = {0: first}
            return
        items = [(f, k) for f in range(1, n_folds) for k in range(n_classes)]
        rest = iter(list(executor.map(lambda item: self._one(*item), items)))
        self._most_kept = n_folds
        self._folds = {0: first} | {
            f: [next(rest) for _ in range(n_classes)] for f in range(1, n_folds)}

    def of(self, fold: int) -> Sequence[Prepared]:
        """Return the references (K) of a fold."""
        fold = min(fold, len(self.values) - 1)
        known = self._folds.get(fold)
        if known is not None:
            return known
        with self._lock:  # others that wait for the same fold need not prepare it
            known = self._folds.get(fold)
            if known is None:
                known = [self._one(fold, k) for k in range(self.values.shape[1])]
                kept = dict(self._folds)
                while len(kept) >= self._most_kept:
                    kept.pop(next(iter(kept)))
                self._folds = kept | {fold: known}
            return known

    def _one(self, fold: int, k: int) -> Prepared:
        box = WorkingBox.of(self.n_full, self.radius)
        turnable = reference_turnable(self.values[fold, k], box, self.mask)
        if self.grid is None:
            return Prepared(turnable, None)
        plan = self.grid.plan
        noise = self.noise[: plan.sampling.n_shells]
        return Prepared(turnable, dense_reference(turnable, np.ascontiguousarray(noise), plan))
