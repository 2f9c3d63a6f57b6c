"""Viewers; Scipion collects the classes found here. They need matplotlib alone."""

from .viewer_evaluation import FamlEvaluationViewer
from .viewer_faml import (
    FamlAlignViewer,
    FamlAveragesViewer,
    FamlClassesViewer,
    FamlClassifyViewer,
    FamlParticlesViewer,
)
from .viewer_picks import FamlPicksViewer, FamlTrainingViewer

__all__ = [
    "FamlAlignViewer",
    "FamlAveragesViewer",
    "FamlClassesViewer",
    "FamlClassifyViewer",
    "FamlEvaluationViewer",
    "FamlParticlesViewer",
    "FamlPicksViewer",
    "FamlTrainingViewer",
]
