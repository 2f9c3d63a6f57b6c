"""New objects of Scipion, and copies of those it has."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from pwem.objects import FSC, Transform
from pyworkflow.object import Pointer
from tomo.objects import AverageSubTomogram, SetOfTomograms, SubTomogram, TomoAcquisition, Tomogram

from scipion_faml.convert.poses import IDENTITY
from scipion_faml.types import FloatArray


def new_acquisition(tilt_min_deg: float, tilt_max_deg: float, tilt_step_deg: float,
                    voltage_kv: float = 300.0, spherical_aberration_mm: float = 2.7,
                    amplitude_contrast: float = 0.1) -> TomoAcquisition:
    """Return the acquisition of simulated data (tilt axis along y)."""
    return TomoAcquisition(
        angleMin=tilt_min_deg, angleMax=tilt_max_deg, step=tilt_step_deg, accumDose=0.0,
        tiltAxisAngle=0.0, voltage=voltage_kv, sphericalAberration=spherical_aberration_mm,
        amplitudeContrast=amplitude_contrast, dosePerFrame=0.0,
        # Sets ask for a magnification before they believe that they have an acquisition.
        magnification=50000.0,
    )


def new_tomogram(path: str, ts_id: str, voxel_size_angst: float,
                 acquisition: TomoAcquisition) -> Tomogram:
    """Return a tomogram object of an MRC file, with the default origin (its centre)."""
    tomogram = Tomogram(tsId=ts_id)
    tomogram.setLocation(path)
    tomogram.setSamplingRate(voxel_size_angst)
    tomogram.setAcquisition(acquisition.clone())  # an object has one parent only
    tomogram.setOrigin()
    return tomogram


def new_subtomogram(path: str, voxel_size_angst: float, acquisition: TomoAcquisition | None,
                    matrix: FloatArray = IDENTITY) -> SubTomogram:
    """Return a subtomogram object of an MRC file."""
    subtomogram = SubTomogram()
    subtomogram.setLocation(path)
    subtomogram.setSamplingRate(voxel_size_angst)
    if acquisition is not None:
        subtomogram.setAcquisition(acquisition.clone())
    subtomogram.setTransform(Transform(np.array(matrix, dtype=float)))
    subtomogram.setOrigin()
    return subtomogram


def new_average(path: str, voxel_size_angst: float,
                halves: tuple[str, str] | None = None) -> AverageSubTomogram:
    """Return an average object of an MRC file, with its half maps if given."""
    average = AverageSubTomogram()
    average.setFileName(path)
    average.setSamplingRate(voxel_size_angst)
    if halves is not None:
        average.setHalfMaps(list(halves))
    return average


def new_fsc(label: str, frequency_per_angst: Iterable[float], values: Iterable[float]) -> FSC:
    """Return an FSC curve object (the frequency 0 has no resolution and is left out)."""
    points = zip(frequency_per_angst, values, strict=True)
    pairs = [(float(f), float(v)) for f, v in points if f > 0]
    curve = FSC(objLabel=label)
    curve.setData([f for f, _ in pairs], [v for _, v in pairs])
    return curve


def read_fscs(path: Path | str) -> list[FSC]:
    """Return the curves of an `fsc.csv`: frequency_per_angst, then a column for each curve."""
    table = pd.read_csv(path)
    frequency = table.pop("frequency_per_angst")
    return [new_fsc(str(name), frequency, values) for name, values in table.items()]


def copy_of(pointer: Pointer) -> Pointer:
    """Return a pointer to the same: an object, pointers too, has one parent only."""
    copied = Pointer()
    copied.copy(pointer, copyId=False)
    return copied


def clones(images: SetOfTomograms) -> list[Tomogram]:
    """Return copies of a set's items: Scipion's iterators reuse one object."""
    return [item.clone() for item in images.iterItems()]
