"""The forms of the plugin; Scipion collects the classes found here."""

from .protocol_align import ProtFamlAlign, ProtFamlAverage
from .protocol_classify import ProtFamlClassify
from .protocol_evaluate import ProtFamlEvaluate
from .protocol_exchange import ProtFamlExportParticles, ProtFamlImportParticles
from .protocol_extract import ProtFamlExtractSubtomograms
from .protocol_group import ProtFamlGroup
from .protocol_noise_control import ProtFamlNoiseControl
from .protocol_pick_detector import ProtFamlPickDetector
from .protocol_pick_dog import ProtFamlPickDog
from .protocol_pick_template import ProtFamlPickTemplate
from .protocol_simulate import ProtFamlSimulateSubtomograms, ProtFamlSimulateTomograms
from .protocol_train_detector import ProtFamlTrainDetector
from .protocol_validate import ProtFamlValidate

__all__ = [
    "ProtFamlAlign",
    "ProtFamlAverage",
    "ProtFamlClassify",
    "ProtFamlEvaluate",
    "ProtFamlExportParticles",
    "ProtFamlExtractSubtomograms",
    "ProtFamlGroup",
    "ProtFamlImportParticles",
    "ProtFamlNoiseControl",
    "ProtFamlPickDetector",
    "ProtFamlPickDog",
    "ProtFamlPickTemplate",
    "ProtFamlSimulateSubtomograms",
    "ProtFamlSimulateTomograms",
    "ProtFamlTrainDetector",
    "ProtFamlValidate",
]
