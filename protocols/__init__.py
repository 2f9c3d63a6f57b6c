"""The forms of the plugin; Scipion collects the classes found here."""

from .protocol_evaluate import ProtFamlEvaluate
from .protocol_extract import ProtFamlExtractSubtomograms
from .protocol_faml import ProtFamlAlign, ProtFamlAverage, ProtFamlClassify
from .protocol_pick_dog import ProtFamlPickDog
from .protocol_simulate import ProtFamlSimulateSubtomograms, ProtFamlSimulateTomograms

__all__ = [
    "ProtFamlAlign",
    "ProtFamlAverage",
    "ProtFamlClassify",
    "ProtFamlEvaluate",
    "ProtFamlExtractSubtomograms",
    "ProtFamlPickDog",
    "ProtFamlSimulateSubtomograms",
    "ProtFamlSimulateTomograms",
]
