"""Jobs and processes of a Dask cluster for tests; workers import this module too."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from scipion_faml.io import write_volume
from scipion_faml.tables import ParticleTable, optics_table, write_particles
from scipion_faml.wedge import MissingWedge


@dataclass(frozen=True, eq=False)
class Numbers:
    """A source without particles."""

    def emptied(self):
        return self

    def rows(self, indices):
        return {}


@dataclass(frozen=True, eq=False)
class NumberBlock:
    """One number."""

    indices: tuple


@dataclass(frozen=True, eq=False)
class Total:
    """A sum in which the order counts."""

    order: list

    def absorb(self, other):
        return Total(self.order + other.order)


@dataclass(frozen=True, eq=False)
class NumberJob:
    """Lists its numbers; `n_bytes` of memory are used for a while at each."""

    n_bytes: int = 0
    fails_at: int = -1
    source: Numbers = field(default_factory=Numbers)

    @property
    def recipe(self):
        return self

    def open(self, desk):
        return self

    def learn(self, rows):
        pass

    def forget(self, indices):
        pass

    def work(self, block):
        if self.n_bytes:
            used = np.ones(self.n_bytes // 8)
            time.sleep(5.0)
            del used
        if self.fails_at in block.indices:
            raise ValueError(f"number {self.fails_at} is damaged")
        return Total(list(block.indices))


def number_groups(sizes):
    """Groups of blocks of one number each: 0, 1, 2, ..."""
    numbers = iter(range(sum(sizes)))
    return [[NumberBlock((next(numbers),)) for _ in range(size)] for size in sizes]


def write_set(star, source):
    """Write the particles of a source in memory as a STAR file and its volumes."""
    for i, volume in enumerate(source.volumes):
        write_volume(star.parent / f"p{i}.mrc", volume, 10.0)
    rows = pd.DataFrame({
        "rlnImageName": [str(star.parent / f"p{i}.mrc") for i in range(len(source))],
        "rlnOpticsGroup": 1})
    wedge = MissingWedge(-60, 60)
    write_particles(star, ParticleTable(rows, optics_table(10.0, source.n, [wedge])))


# ------------------------------------------------------------------------------------ processes
def process_id():
    """The process of a worker."""
    return os.getpid()


def worker_processes(client):
    """Processes of the workers that answer."""
    return [pid for pid in client.run(process_id, on_error="return").values()
            if isinstance(pid, int)]


def is_running(pid):
    """Whether a process is alive, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children_of(pid):
    """Processes that descend from one, by their ids."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, new = [], [pid]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        found += new
    return found


def wait_until(condition, seconds=60.0):
    """Wait for a condition; return whether it came."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


@contextmanager
def outside_cluster(folder, n_workers=1, wrapper=()):
    """A scheduler and workers started from outside, as on a cluster; yield address and processes.

    `wrapper` are words before the workers' command.
    """
    file = Path(folder) / "scheduler.json"
    file.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent),
                   "FAML_READ_PATIENCE": "1"}
    processes = []

    def start(*words, before=()):
        processes.append(subprocess.Popen(
            [*before, sys.executable, "-m", *words], env=environment, cwd=folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True))

    try:
        start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
              "--no-dashboard", "--scheduler-file", str(file))
        assert wait_until(lambda: file.is_file() and file.stat().st_size > 0)
        time.sleep(0.2)
        address = json.loads(file.read_text())["address"]
        for _ in range(n_workers):
            start("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard",
                  "--host", "127.0.0.1", before=wrapper)
        yield address, processes
    finally:
        for process in processes:
            for pid in (*children_of(process.pid), process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
