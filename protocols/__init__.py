"""The forms of the plugin; Scipion collects the classes found here."""

from .protocol_faml import ProtFamlAlign, ProtFamlClassify
from .protocol_simulate import ProtFamlSimulateSubtomograms, ProtFamlSimulateTomograms

__all__ = [
    "ProtFamlAlign",
    "ProtFamlClassify",
    "ProtFamlSimulateSubtomograms",
    "ProtFamlSimulateTomograms",
]
