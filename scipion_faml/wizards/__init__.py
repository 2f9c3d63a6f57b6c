"""Helpers of the forms; Scipion collects the classes found here.

`numbers` computes values from what the form has, `lists` lets one be chosen, `windows` opens
previews: `drawing` decides what is drawn, `dialogs` are the windows, `sources` and `searches` say
where volumes and picks come from. The arithmetic is in `scipion_faml.previews`.
"""

from .lists import FamlStructuresWizard, FamlSymmetryWizard, FamlTiltSchemeWizard
from .numbers import (
    FamlDiametersWizard,
    FamlDistancesWizard,
    FamlExtractBoxWizard,
    FamlHeldOutWizard,
    FamlPickBoxWizard,
    FamlRadiusWizard,
    FamlSimulatedBoxWizard,
    FamlTiltRangeWizard,
)
from .windows import (
    FamlBandWizard,
    FamlDogPreviewWizard,
    FamlMaskWizard,
    FamlShiftWizard,
    FamlThresholdWizard,
)

__all__ = [
    "FamlBandWizard",
    "FamlDiametersWizard",
    "FamlDistancesWizard",
    "FamlDogPreviewWizard",
    "FamlExtractBoxWizard",
    "FamlHeldOutWizard",
    "FamlMaskWizard",
    "FamlPickBoxWizard",
    "FamlRadiusWizard",
    "FamlShiftWizard",
    "FamlSimulatedBoxWizard",
    "FamlStructuresWizard",
    "FamlSymmetryWizard",
    "FamlThresholdWizard",
    "FamlTiltRangeWizard",
    "FamlTiltSchemeWizard",
]
