"""Jobs in the processes of a Dask cluster, on this machine or on others (extra `dask`).

A job is sent once in each iteration, without particles: a few megabytes of references. Each block
of particles is a task that names their files; the worker reads them, and keeps as many as its
memory allows for the next iteration. The sums of a group of blocks are added up on a worker, in
order, and fetched. Which worker does what, and how often one dies, changes no bit: what is lost is
done again.

Its modules, each of which uses those before it only: `errors`, `versions`, `worker` (there),
`executor` (here), `start`. Dask is imported where it is needed: everything else works without.
"""

from scipion_faml.cluster.executor import DaskExecutor
from scipion_faml.cluster.start import local_cluster, queue_cluster, scheduler

__all__ = ["DaskExecutor", "local_cluster", "queue_cluster", "scheduler"]
