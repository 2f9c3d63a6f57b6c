"""What the verbs of the detector share: PyTorch, imported when they run, and its device."""

from __future__ import annotations

import importlib
from types import ModuleType

import click

from scipion_faml.cli.common import n_workers
from scipion_faml.detector import NEEDS_TORCH

device_option = click.option(
    "--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]),
    help="auto: a GPU where there is one.")


def torch_module(name: str, workers: int | None) -> ModuleType:
    """Return a module of the detector that needs PyTorch, which then uses so many threads."""
    try:
        import torch
    except ImportError as error:
        raise ValueError(NEEDS_TORCH) from error
    torch.set_num_threads(n_workers(workers))
    return importlib.import_module(f"scipion_faml.detector.{name}")
