"""`scipion-faml VERB`: every capability from file to file, without Scipion (docs/CLI.md).

A verb is a function in one of the modules below; it parses arguments, calls the core and writes
files. What all verbs share (errors, JSON, finished runs, progress) is in `common`.
"""

from __future__ import annotations

import importlib

import click

from scipion_faml import __version__
from scipion_faml.cli.errors import report_errors

# verb -> module. Modules are imported when their verb is called: --help stays fast.
VERBS = {
    "simulate-subtomograms": "simulate",
    "simulate-tomogram": "simulate_tomogram",
    "reconstruct-particles": "reconstruct",
    "pick-dog": "pick_dog",
    "pick-template": "pick_template",
    "train-detector": "train_detector",
    "pick-detector": "pick_detector",
    "extract": "extract",
    "join-particles": "join",
    "group": "group",
    "classify": "classify",
    "align": "align",
    "average": "align",
    "evaluate-poses": "evaluate_particles",
    "evaluate-classes": "evaluate_particles",
    "evaluate-average": "evaluate_maps",
    "evaluate-picks": "evaluate_picks",
    "fsc": "fsc",
    "estimate-snr": "estimate_snr",
    "find-symmetry": "find_symmetry",
    "evaluate-orientations": "evaluate_orientations",
    "compare-runs": "compare_runs",
    "noise-control": "noise_control",
    "export-particles": "exchange",
    "import-particles": "exchange",
    "reports": "reports",
    "demo": "demo",
}


class _LazyGroup(click.Group):
    """A group whose verbs are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module = importlib.import_module(f"scipion_faml.cli.{VERBS[name]}")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="scipion-faml")
def main() -> None:
    """Picking, averaging and classification of cryo-ET subtomograms (FAML)."""


def run(arguments: list[str]) -> int:
    """Run one verb; return the exit status: 0 done, 2 bad usage or input, 1 anything else."""
    return report_errors(main, arguments)


