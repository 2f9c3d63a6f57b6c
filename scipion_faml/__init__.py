"""FAML for Scipion: picking, averaging and classification of cryo-ET subtomograms.

The core imports no Scipion; `Plugin`, which Scipion asks for, is loaded when it is looked up.
"""

from __future__ import annotations

__version__ = "0.1.0"
_logo = "icon.png"
_references = ["Zhao2018", "Frazier2017", "Scheres2009"]


def __getattr__(name: str) -> object:
    if name == "Plugin":
        from scipion_faml._plugin import Plugin

        return Plugin
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
