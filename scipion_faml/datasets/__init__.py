"""Shipped bead models: structures to simulate that need no download (README.md lists them)."""

from __future__ import annotations

from importlib import resources

import numpy as np

from scipion_faml.simulation.density import BeadModel


def bead_model_names() -> list[str]:
    """Return the names of the shipped bead models, sorted."""
    files = resources.files(__name__).iterdir()
    return sorted(f.name.removesuffix(".npz") for f in files if f.name.endswith(".npz"))


def load_bead_model(name: str) -> BeadModel:
    """Return a shipped bead model, its centre of weight at the origin.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in bead_model_names():
        raise ValueError(
            f"no bead model is called {name!r}: choose one of {', '.join(bead_model_names())}"
        )
    with (
        resources.files(__name__).joinpath(f"{name}.npz").open("rb") as handle,
        np.load(handle) as stored,
    ):
        return BeadModel(
            position_angst=stored["position_tenth_angst"] * 0.1,
            width_angst=stored["width_hundredth_angst"] * 0.01,
            weight=stored["weight"].astype(np.float64),
            name=name,
            pdb_id=str(stored["pdb_id"]),
        )
