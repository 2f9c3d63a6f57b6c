"""What an iteration sends, keeps and takes, and what follows for many particles and cores.

    python benchmarks/scaling.py                        messages, times and predictions
    python benchmarks/scaling.py --processes            one and two processes on this machine, too
    python benchmarks/scaling.py --memory-at 1250 --memory-at 5000   peak memory of whole runs

Messages are measured by pickling what is sent. Times are CPU seconds of one core. The predictions
add them up (docs/scaling.md): nothing in them is fitted.
"""

from __future__ import annotations

import os

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import logging  # noqa: E402
import pickle  # noqa: E402  # nosec B403
import resource  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from dataclasses import dataclass, replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import click  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from iteration import machine, particles  # noqa: E402

from scipion_faml import cluster, enhanced  # noqa: E402
from scipion_faml.enhanced import EnhancedState, PeakTable, Workbench  # noqa: E402
from scipion_faml.enhanced.estep import EStep, sum_blocks  # noqa: E402
from scipion_faml.enhanced.mstep import next_state  # noqa: E402
from scipion_faml.enhanced.run import prepared_step  # noqa: E402
from scipion_faml.enhanced.store import ParticleStore  # noqa: E402
from scipion_faml.enhanced.workbench import OpenedStep  # noqa: E402
from scipion_faml.execution import SerialExecutor, block_size  # noqa: E402
from scipion_faml.io import write_volume  # noqa: E402
from scipion_faml.memory import needed_bytes  # noqa: E402
from scipion_faml.model import FamlConfig  # noqa: E402
from scipion_faml.simulation.phantom import blobs  # noqa: E402
from scipion_faml.sources import FileSource  # noqa: E402
from scipion_faml.tables import ParticleTable, optics_table, write_particles  # noqa: E402
from scipion_faml.wedge import MissingWedge  # noqa: E402

WEDGE = MissingWedge(-60.0, 60.0)
VOXEL_ANGST = 10.0
NETWORK = 1.2e9  # bytes a second between machines: 10 Gbit/s
DISK = 2e9  # bytes a second of shared storage, all readers together
CORES_PER_MACHINE = 32
CACHE_PER_PROCESS = 1.8e9  # of 4 GB: what `cluster` gives to particles
HEAD_BYTES = 2000.0  # of the head, per particle: the growth of whole runs (--memory-at)
ITERATIONS = {"start": 8, "broad": 4, "local": 20}  # of a run


# ------------------------------------------------------------------------------------ measuring
@dataclass(frozen=True)
class Measured:
    """One kind of iteration: bytes and CPU seconds."""

    kind: str
    radius: int
    recipe: int  # bytes, sent once to every process
    block: float  # bytes to a worker, per particle
    found: float  # bytes back, per particle
    sums: int  # bytes of a block's or group's sums
    particle_seconds: float  # compared and added up, at hand
    read_seconds: float  # read and brought to working resolution
    kept: float  # bytes per particle at hand
    prepare_seconds: float  # references of one fold, all classes
    head_seconds: float  # M-step


@dataclass(frozen=True)
class Overhead:
    """What Dask takes."""

    task_seconds: float  # of the scheduler's and the head's CPU, for a task
    process_bytes: int  # of a worker that has done nothing


def a_state(bench: Workbench, maps: np.ndarray, poses: Any, kind: str) -> EnhancedState:
    """A state before an iteration of this kind."""
    state = enhanced.state_from_references(bench, maps)
    n_particles = len(bench.source)
    if kind == "start":
        return state
    if kind == "broad":
        radius = bench.config.dense_radius(bench.config.dense_bandwidth)
        return replace(state, radius=min(radius, bench.max_radius))
    rows = np.arange(n_particles)
    peaks = PeakTable(rows, np.zeros(n_particles, dtype=np.intp), poses)
    return replace(state, radius=bench.max_radius, phase="local", peaks=peaks, n_effective=1.0,
                   zeta=2.0)


def measure(n: int, n_classes: int, kind: str, n_particles: int = 16) -> Measured:
    """Measure one kind of iteration."""
    source, poses = particles(blobs(n, 0), n_particles, 0.05)
    config = FamlConfig(mode="enhanced", n_classes=n_classes, n_folds=10)
    bench = Workbench(source, config, SerialExecutor())
    maps = np.stack([blobs(n, k) for k in range(n_classes)])
    state = a_state(bench, maps, poses, kind)
    step = prepared_step(bench, state)
    nothing_kept = ParticleStore(bench.source, bench.max_radius, 0)
    box = nothing_kept.box(state.radius)
    nothing_kept.measured(0, box)  # tables
    started = time.process_time()
    for i in range(1, n_particles):
        nothing_kept.measured(i, box)
    read = (time.process_time() - started) / (n_particles - 1)
    prepare = prepare_seconds(step)
    recipe = len(pickle.dumps(OpenedStep(step, bench.store).recipe, protocol=5))
    on_disk = FileSource(
        [f"/data/project/Runs/000123_ProtFamlExtract/extra/subtomograms/particle_{i:07d}.mrc"
         for i in range(n_particles)], [WEDGE] * n_particles, n, VOXEL_ANGST)
    blocks = bench.blocks()
    if state.peaks is not None:
        blocks = [replace(b, peaks=state.peaks.part(b.indices)) for b in blocks]
    sent = sum(len(pickle.dumps((b, on_disk.rows(b.indices)), protocol=5)) for b in blocks)
    parts = [step.work(block, bench.store) for block in blocks]  # coefficients are at hand now
    found = sum(len(pickle.dumps(p.found, protocol=5)) for p in parts) / n_particles
    sums = max(len(pickle.dumps(replace(p, found=[]), protocol=5)) for p in parts)
    started = time.process_time()
    totals, table, _ = sum_blocks(bench, state, step)
    compared = (time.process_time() - started) / n_particles
    started = time.process_time()
    next_state(bench, totals, state, bench.box)
    head = time.process_time() - started
    shelves = bench.store._level
    kept = (shelves.measured.n_bytes + shelves.dense.n_bytes) / n_particles
    return Measured(kind, state.radius, recipe, sent / n_particles, found, sums, compared, read,
                    kept, prepare, head)


def prepare_seconds(step: EStep) -> float:
    """CPU seconds of a fold's references, tables that never change at hand."""
    references = pickle.loads(pickle.dumps(step.references))  # nosec B301
    started = time.process_time()
    references.of(0)
    return time.process_time() - started


def measure_overhead() -> Overhead:
    """Time of empty tasks through one worker, and memory of a process."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from dask_jobs import NumberJob, number_groups

    with cluster.local_cluster(1) as executor:
        list(executor.sums(NumberJob(), number_groups([100]), lambda block: None))
        count = 2000
        started = time.process_time()  # scheduler and head are in this process
        list(executor.sums(NumberJob(), number_groups([32] * (count // 32)), lambda block: None))
        task = (time.process_time() - started) / count
        process = next(iter(executor.client.run(_resident).values()))
    return Overhead(task, process)


def _resident() -> int:
    """Memory of this process."""
    import psutil

    import scipion_faml.cluster  # noqa: F401
    import scipion_faml.enhanced  # noqa: F401

    return int(psutil.Process().memory_info().rss)


# ----------------------------------------------------------------------------------- predicting
@dataclass(frozen=True)
class Prediction:
    """Seconds of one iteration by what they are spent on."""

    parts: dict[str, float]
    memory_worker: float
    memory_head: float

    @property
    def seconds(self) -> float:
        """Of the iteration. Workers, their messages and the head's overlap but for the M-step."""
        busy = max(self.parts["compare"] + self.parts["references"] + self.parts["read"],
                   self.parts["tasks"], self.parts["to the head"], self.parts["between workers"])
        return busy + self.parts["M-step"] + self.parts["send"]

    @property
    def bottleneck(self) -> str:
        """What takes longest."""
        return max(self.parts, key=lambda name: self.parts[name])


def predict(
    m: Measured, o: Overhead, n_particles: int, n_cores: int, n_folds: int, n: int,
    n_classes: int,
) -> Prediction:
    """Predict one iteration."""
    size = block_size(n_particles, 16)
    n_blocks = n_folds * -(-(n_particles // n_folds) // size)
    n_groups = n_folds * -(-(n_blocks // n_folds) // 32)
    rounds = -(-n_blocks // n_cores)  # of blocks, one after another on each core
    mine = rounds * size
    at_hand = min(1.0, CACHE_PER_PROCESS / max(m.kept * n_particles / n_cores, 1.0))
    folds_here = min(n_folds, 1 + n_folds * -(-n_blocks // n_cores) // n_blocks)
    machines = max(1, n_cores // CORES_PER_MACHINE)
    file_bytes = 4.0 * n**3
    read = (1 - at_hand) * (mine * m.read_seconds + n_particles * file_bytes / DISK)
    parts = {
        "compare": mine * m.particle_seconds,
        "read": read,
        "references": folds_here * m.prepare_seconds,
        "send": m.recipe / NETWORK * (1 + np.log2(machines)) + m.recipe / NETWORK
        * min(n_cores, CORES_PER_MACHINE),
        "tasks": (n_blocks + n_groups) * o.task_seconds + n_particles * m.block / NETWORK,
        "between workers": n_blocks * m.sums / (NETWORK * machines),
        "to the head": (n_groups * m.sums + n_particles * m.found) / NETWORK,
        "M-step": m.head_seconds,
    }
    config = FamlConfig(mode="enhanced", n_classes=n_classes, n_folds=n_folds)
    worker = needed_bytes(config, n, VOXEL_ANGST, 1) + min(
        CACHE_PER_PROCESS, m.kept * n_particles / n_cores)
    head = o.process_bytes + n_particles * (HEAD_BYTES + m.block) + 6 * m.recipe + 40 * m.sums
    return Prediction(parts, worker, head)


# ------------------------------------------------------------------------------- one and two here
def time_processes(n: int, n_particles: int) -> list[tuple[str, float, float, float]]:
    """Wall and CPU seconds of the same iterations in threads and processes of this machine."""
    source, _ = particles(blobs(n, 0), n_particles, 0.05)
    config = FamlConfig(mode="enhanced", n_iterations=2, split_merge=False)
    rows = []

    def timed(name: str, executor: Any, workers: int) -> None:
        bench = Workbench(source, config, executor)
        state = enhanced.initial_state(bench)
        for _ in range(1):  # particles come to hand
            enhanced.iterate(bench, state, logged=False)
        cpu, wall = _cpu(executor), time.perf_counter()
        enhanced.iterate(bench, state, logged=False)
        rows.append((name, time.perf_counter() - wall, _cpu(executor) - cpu, workers))

    timed("1 thread", SerialExecutor(), 1)
    for count in (1, 2):
        with cluster.local_cluster(count) as executor:
            timed(f"{count} process{'es' if count > 1 else ''}", executor, count)
    return rows


def _cpu(executor: Any) -> float:
    """CPU seconds of this process and of an executor's workers."""
    others = 0.0
    if isinstance(executor, cluster.DaskExecutor):
        others = sum(executor.client.run(time.process_time).values())
    return time.process_time() + others


# -------------------------------------------------------------------------- memory of whole runs
def memory_of_run(n: int, count: int, gigabytes: float, folder: Path, mode: str) -> float:
    """Peak memory (MB) of `classify` with `count` particles of `n`^3 in files."""
    star = folder / f"set_{n}" / f"first_{count}.star"
    if not star.exists():
        write_set(star, n, count)
    script = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, done.returncode)\n")
    output = folder / f"out_{mode}_{n}_{count}"
    command = [sys.executable, "-m", "scipion_faml", "classify", str(star), "--output",
               str(output), "--overwrite", "--no-report", "--mode", mode, "--iterations", "2",
               "--workers", "1", "--memory", str(gigabytes), "--max-shift", "2"]
    command += ["--dense-bandwidth", "12", "--start-shells", "4"] if mode == "enhanced" else [
        "--max-candidates", "5", "--bandwidth", "8"]
    said = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True,
                          check=True)
    peak, status = said.stdout.split()
    if status != "0":
        raise RuntimeError(said.stderr)
    return int(peak) / 1024


def write_set(star: Path, n: int, count: int) -> None:
    """Write particles of one phantom, 500 at a time; a set that is there is made longer."""
    star.parent.mkdir(parents=True, exist_ok=True)
    names = [str(star.parent / f"p{i:05d}.mrc") for i in range(count)]
    missing = [i for i in range(count) if not Path(names[i]).exists()]
    for start in range(0, len(missing), 500):
        some = missing[start : start + 500]
        source, _ = particles(blobs(n, 0), len(some), 0.2, some[0] + 1)
        for i, volume in zip(some, source.volumes, strict=True):
            write_volume(names[i], volume, VOXEL_ANGST)
    rows = pd.DataFrame({"rlnImageName": names, "rlnOpticsGroup": 1})
    write_particles(star, ParticleTable(rows, optics_table(VOXEL_ANGST, n, [WEDGE])))


# --------------------------------------------------------------------------------------- tables
def print_measured(rows: list[Measured], o: Overhead, n: int, n_classes: int) -> None:
    """Print what was measured."""
    click.echo(f"\n{n}^3, {n_classes} classes, 10 folds\n")
    click.echo("| | " + " | ".join(f"{m.kind}, {m.radius} shells" for m in rows) + " |")
    click.echo("|---|" + "---|" * len(rows))
    for label, name, unit, digits in (
        ("sent to every process (references of all folds)", "recipe", 1e6, "MB"),
        ("sent with a particle (files, wedge, peaks)", "block", 1e3, "kB"),
        ("back with a particle (pose, peaks, evidence)", "found", 1e3, "kB"),
        ("sums of a block or group", "sums", 1e6, "MB"),
        ("CPU of a particle", "particle_seconds", 1e-3, "ms"),
        ("CPU to read a particle", "read_seconds", 1e-3, "ms"),
        ("kept of a particle", "kept", 1e6, "MB"),
        ("CPU of a fold's references, on each process", "prepare_seconds", 1e-3, "ms"),
        ("CPU of the M-step, on the head", "head_seconds", 1.0, "s"),
    ):
        values = " | ".join(f"{getattr(m, name) / unit:.3g} {digits}" for m in rows)
        click.echo(f"| {label} | {values} |")
    click.echo(f"\nA task: {o.task_seconds * 1e3:.2f} ms of scheduler and head; a process: "
               f"{o.process_bytes / 1e6:.0f} MB")


def print_predictions(rows: list[Measured], o: Overhead, n: int, n_classes: int) -> None:
    """Print times, memory and bottlenecks."""
    kinds = " | ".join(f"{m.kind} iteration" for m in rows)
    click.echo(f"\n| particles | cores | {kinds} | run | speed-up | worker | head | longest |")
    click.echo("|---|---|---|---|---|---|---|---|---|---|")
    for n_particles in (10**4, 10**5, 10**6):
        alone = None
        for n_cores in (1, 10, 100, 1000):
            both = {m.kind: predict(m, o, n_particles, n_cores, 10, n, n_classes) for m in rows}
            run = sum(ITERATIONS[kind] * p.seconds for kind, p in both.items())
            alone = alone or run
            worker = max(p.memory_worker for p in both.values())
            head = max(p.memory_head for p in both.values())
            names = ", ".join(dict.fromkeys(p.bottleneck for p in both.values()))
            click.echo(
                f"| {n_particles:.0e} | {n_cores} | " + " | ".join(
                    _time(p.seconds) for p in both.values())
                + f" | {_time(run)} | {alone / run:.0f} | {worker / 1e9:.1f} GB | "
                f"{head / 1e9:.1f} GB | {names} |")


def _time(seconds: float) -> str:
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 86_400:.3g} d"


@click.command()
@click.option("--box", default=64, show_default=True)
@click.option("--classes", "n_classes", default=3, show_default=True)
@click.option("--processes", is_flag=True, help="One and two processes on this machine, too.")
@click.option("--memory-at", multiple=True, type=int, help="Peak memory of runs of so many.")
@click.option("--memory-box", default=24, show_default=True)
@click.option("--memory", "gigabytes", default=0.5, show_default=True, help="Of those runs, GB.")
@click.option("--mode", type=click.Choice(["enhanced", "paper"]), default="enhanced")
@click.option("--folder", type=click.Path(path_type=Path), default=None,
              help="Where those runs lie.")
def main(
    box: int, n_classes: int, processes: bool, memory_at: tuple[int, ...], memory_box: int,
    gigabytes: float, mode: str, folder: Path | None,
) -> None:
    """Print the tables."""
    logging.disable(logging.WARNING)
    click.echo(machine())
    if memory_at:
        with tempfile.TemporaryDirectory() as scratch:
            for count in memory_at:
                started = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
                peak = memory_of_run(
                    memory_box, count, gigabytes, folder or Path(scratch), mode)
                spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - started
                click.echo(f"| {count} of {memory_box}^3 | {mode} | {gigabytes:g} GB | "
                           f"{peak:.0f} MB | {spent:.0f} s |")
        return
    rows = [measure(box, n_classes, kind) for kind in ITERATIONS]
    overhead = measure_overhead()
    print_measured(rows, overhead, box, n_classes)
    print_predictions(rows, overhead, box, n_classes)
    if processes:
        click.echo("\n| one iteration, 32^3 | wall | CPU |\n|---|---|---|")
        for name, wall, cpu, _ in time_processes(32, 96):
            click.echo(f"| {name} | {wall:.1f} s | {cpu:.1f} s |")


if __name__ == "__main__":
    main()
