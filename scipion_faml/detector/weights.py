"""The file that holds a detector: settings and weights, readable without running code."""

from __future__ import annotations

import os
import pickle  # nosec B403
import warnings
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scipion_faml.detector.networks import fast_layout
from scipion_faml.detector.points import PointsDetector
from scipion_faml.detector.second_look import SecondLook
from scipion_faml.detector.settings import DetectorSettings
from scipion_faml.detector.yolo import YoloDetector
from scipion_faml.disk import replacing

FORMAT = "scipion-faml detector"
VERSION = 1
PRETRAINED = "pretrained.pt"

Detector = PointsDetector | YoloDetector


def build(settings: DetectorSettings) -> Detector:
    """Return a detector with fresh weights."""
    detector: Detector = (
        PointsDetector(settings) if settings.architecture == "points" else YoloDetector(settings))
    fast_layout(detector)
    return detector


def save_durably(path: Path, content: Mapping[str, Any]) -> None:
    """Write with torch under another name, flush, and rename."""
    with replacing(path) as temporary, open(temporary, "wb") as handle:
        torch.save(dict(content), handle)
        handle.flush()
        os.fsync(handle.fileno())


def save(path: Path, detector: Detector, half: bool = False) -> None:
    """Write a detector; with `half`, its weights in 16 bits."""
    content = {
        "format": FORMAT, "version": VERSION, "settings": detector.settings.as_dict(),
        "weights": _state_of(detector.network, half),
    }
    if detector.second is not None:
        content["second_look"] = _state_of(detector.second.network, half)
    save_durably(path, content)


def _state_of(network: nn.Module, half: bool) -> dict[str, torch.Tensor]:
    """The weights of a network on the CPU."""
    return {
        key: value.detach().cpu().half() if half and value.is_floating_point()
        else value.detach().cpu() for key, value in network.state_dict().items()
    }


def _set_state(network: nn.Module, stored: Mapping[str, torch.Tensor]) -> None:
    """Give a network its weights, in 32 bits."""
    network.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in stored.items()})


def load(path: Path) -> Detector:
    """Return a detector from its file, ready to pick.

    Raises
    ------
    ValueError, OSError
        If the file is missing, damaged, or not a detector's.
    """
    content = read_checked(path, FORMAT)
    if content.get("version") != VERSION:
        raise ValueError(
            f"{path} has format version {content.get('version')}, this program reads {VERSION}: "
            "update scipion-em-faml, or train again")
    try:
        detector = build(DetectorSettings.from_dict(content["settings"]))
        _set_state(detector.network, content["weights"])
        if isinstance(detector, PointsDetector) and "second_look" in content:
            detector.second = SecondLook(detector.settings)
            _set_state(detector.second.network, content["second_look"])
            fast_layout(detector.second)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        first = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} is damaged ({first}): copy it again, or train again") from error
    detector.eval()
    return detector


def read_checked(path: Path, file_format: str) -> dict[str, Any]:
    """Return the content of one of our files."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with a file is said in one line
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError,
            AttributeError, ImportError, IndexError) as error:
        raise ValueError(
            f"{path} is not a file of this detector, or damaged: give the weights.pt of "
            "train-detector") from error
    if not isinstance(content, dict) or content.get("format") != file_format:
        raise ValueError(
            f"{path} is not a file of this detector: give the weights.pt of train-detector")
    return content


def pretrained() -> Path:
    """Return the shipped detector of any globular particle.

    Raises
    ------
    FileNotFoundError
        If it was not installed.
    """
    path = Path(str(resources.files("scipion_faml.detector").joinpath(PRETRAINED)))
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: install the package again, or give --weights FILE")
    return path


def folded(network: nn.Module) -> nn.Module:
    """Return a copy for inference with batch normalisations folded into the convolutions."""
    import copy

    from torch.nn.utils.fusion import fuse_conv_bn_eval

    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        children = list(module.named_children())
        for (name, conv), (after, norm) in zip(children, children[1:], strict=False):
            if isinstance(conv, nn.Conv3d) and isinstance(norm, nn.BatchNorm3d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, after, nn.Identity())
    fast_layout(network)
    return network
