"""How the site is built: `make docs`. Pages of protocols and verbs are made from the code first."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tools"))

import doc_pages  # noqa: E402

from scipion_faml import __version__  # noqa: E402

doc_pages.write(HERE)

project = "scipion-em-faml"
author = "the authors of scipion-em-faml"
copyright = "the authors of scipion-em-faml, GPL-3.0-or-later"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "notes", "README.md"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {
    name: name for name in ("FloatArray", "IntArray", "BoolArray", "ComplexArray", "ArrayLike")}
add_module_names = False
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 90
napoleon_numpy_docstring = True
napoleon_google_docstring = False
napoleon_use_param = False  # else every word of a type, as in (n, n, n), looks for its link
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"scipion-em-faml {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False


def _escaped(line: str) -> str:
    """Prose of a docstring as reStructuredText: `x` is code, and *, | and _ are themselves."""
    parts = re.split(r"(`+[^`]+`+)", line)
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = "``" + part.strip("`") + "``"
        else:
            parts[i] = re.sub(r"([*|])", r"\\\1", re.sub(r"_(?=\W|$)", r"\\_", part))
    return "".join(parts)


def _plain_docstring(_app: Any, _what: str, _name: str, _obj: Any, _options: Any,
                     lines: list[str]) -> None:
    """Show a docstring as it is meant; indented lines before its sections are code or formulas."""
    out: list[str] = []
    literal = in_sections = in_item = False
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        in_sections |= bool(re.fullmatch(r"-{3,}", following))
        is_indented = line.startswith((" ", "\t")) and not in_sections
        if line.strip() and not is_indented:
            in_item = bool(re.match(r"([-*]|\d+\.) ", line))
        if is_indented and not literal and not in_item:
            out += ["", "::", ""]
            literal = True
        elif literal and line.strip() and not is_indented:
            out.append("")
            literal = False
        out.append(line if literal else _escaped(line))
    lines[:] = out


def setup(app: Any) -> None:
    """Hook in before napoleon, which reads the sections of numpy's style."""
    app.connect("autodoc-process-docstring", _plain_docstring, priority=100)
