"""Rows of forms that say who does the work: this machine, a Dask cluster, jobs of a queue.

The command of the step starts and ends the cluster; Scipion's own process never talks to it.
"""

from __future__ import annotations

import shlex

from pyworkflow.protocol import params

# In the order of the choices in the form; saved projects store the position.
EXECUTORS = ["threads", "dask", "scheduler", "slurm", "pbs"]
CHOICES = ["threads", "processes of this machine (Dask)", "a Dask scheduler that runs already",
           "jobs of a Slurm queue (Dask)", "jobs of a PBS queue (Dask)"]
CLUSTER_ROWS = {
    "clusterExecutor", "schedulerAddress", "clusterOptions", "clusterMemory", "workerTimeout"}


def add_cluster(form):
    """Rows of the group Cluster: they change no result."""
    group = form.addGroup("Cluster", expertLevel=params.LEVEL_ADVANCED)
    expert = {"expertLevel": params.LEVEL_ADVANCED}
    group.addParam(
        "clusterExecutor", params.EnumParam, default=0, choices=CHOICES, label="Work is done by",
        help="The result is the same bits wherever it is done. Processes and jobs need the "
             "package's extra [dask]; other machines need the same versions and the particles "
             "under the same path.", **expert)
    group.addParam(
        "schedulerAddress", params.StringParam, default="", condition="clusterExecutor==2",
        label="Scheduler", help="Its address, for example tcp://node1:8786 (printed by `dask "
        "scheduler` when it starts).", **expert)
    group.addParam(
        "clusterOptions", params.StringParam, default="", condition="clusterExecutor in (1, 3, 4)",
        label="Cluster options",
        help="KEY=VALUE, separated by spaces; quote values with spaces. Queues: queue=long "
             "cores=8 memory=32GB walltime=24:00:00 jobs=10 account=..., as dask-jobqueue names "
             "them; jobs says how many.", **expert)
    group.addParam(
        "workerTimeout", params.FloatParam, default=300.0, validators=[params.GE(1)],
        condition="clusterExecutor>0", label="Wait for workers (s)",
        help="How long to wait while there is none; a queue may need hours. The run can be "
             "continued.", **expert)
    group.addParam(
        "clusterMemory", params.FloatParam, allowsNull=True, label="Memory (GB)",
        help="Bounds what is kept of particles between iterations. Processes: of all together; "
             "jobs: of each. Empty: up to 3.8 GB are kept.", **expert)


def cluster_options(protocol):
    """Return the options of a command that say who does the work."""
    kind = EXECUTORS[protocol.clusterExecutor.get()]
    options = {"memory": protocol.clusterMemory.get()}
    if kind == "threads":
        return {**options, "workers": protocol.programThreads()}
    options["worker_timeout"] = protocol.workerTimeout.get()
    if kind == "scheduler":
        return {"scheduler": protocol.schedulerAddress.get().strip(),
                "worker_timeout": protocol.workerTimeout.get()}
    return {**options, "executor": kind, "cluster_option": _words(protocol),
            "workers": protocol.programThreads() if kind == "dask" else None}


def check_cluster(protocol, errors):
    """Add to `errors` what is wrong with the rows."""
    kind = EXECUTORS[protocol.clusterExecutor.get()]
    if kind == "scheduler" and not (protocol.schedulerAddress.get() or "").strip():
        errors.append("Give the address of the Dask scheduler, for example tcp://node1:8786.")
    memory = protocol.clusterMemory.get()
    if memory is not None and memory <= 0:
        errors.append(f"The memory is {memory:g} GB: give a positive number, or none.")
    if kind in ("dask", "slurm", "pbs"):
        try:
            wrong = [word for word in _words(protocol) if not _is_option(word)]
        except ValueError as error:
            errors.append(f"The cluster options cannot be read ({error}): close the quotes.")
            return
        errors += [f"'{word}' is no cluster option: write KEY=VALUE." for word in wrong]


def _words(protocol):
    return shlex.split(protocol.clusterOptions.get() or "")


def _is_option(word):
    key, equals, value = word.partition("=")
    return bool(equals and value and key.isidentifier())
