"""Viewers; Scipion collects the classes found here. They need matplotlib alone.

`views_of(project, target)` opens them from a script.
"""

from .scripted import views_of
from .viewer_evaluation import FamlEvaluationViewer
from .viewer_faml import FamlAlignViewer, FamlClassifyViewer
from .viewer_group import FamlGroupViewer
from .viewer_objects import (
    FamlAveragesViewer,
    FamlClassesViewer,
    FamlFscViewer,
    FamlParticlesViewer,
)
from .viewer_picks import FamlPicksViewer, FamlTrainingViewer
from .viewer_validation import FamlNoiseControlViewer, FamlValidationViewer

__all__ = [
    "FamlAlignViewer",
    "FamlAveragesViewer",
    "FamlClassesViewer",
    "FamlClassifyViewer",
    "FamlEvaluationViewer",
    "FamlFscViewer",
    "FamlGroupViewer",
    "FamlNoiseControlViewer",
    "FamlParticlesViewer",
    "FamlPicksViewer",
    "FamlTrainingViewer",
    "FamlValidationViewer",
    "views_of",
]
