"""Reports: one HTML file that holds its pictures and tables and opens without a network.

    report = Report("FAML classification")
    report.add_figure(plots.class_gallery(averages), "Class averages")
    report.add_table("Settings", {"classes": 2, "seed": 0})
    report.write("report.html")
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd

from scipion_faml import __version__
from scipion_faml.io import replacing
from scipion_faml.plots import png_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table: TypeAlias = "Mapping[str, Any] | pd.DataFrame"
MAX_ROWS = 200
DPI = 130

CITATION = (
    "Zhao Y, Zeng X, Guo Q, Xu M (2018) An integration of fast alignment and maximum-likelihood "
    "methods for electron subtomogram averaging and classification. "
    "Bioinformatics 34(13): i227-i236."
)
DOI = "10.1093/bioinformatics/bty267"

_STYLE = """
:root { color-scheme: light; --ink: #1c2733; --soft: #5f6b7a; --line: #dde3ea; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f6f8; color: var(--ink);
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
header { background: #14293d; color: white; padding: 1.6rem 0; }
header h1 { margin: 0; font-size: 1.6rem; font-weight: 600; }
header p { margin: .2rem 0 0; color: #b9c7d6; font-size: .85rem; }
.page { max-width: 70rem; margin: 0 auto; padding: 0 1.5rem; }
section { background: white; border: 1px solid var(--line); border-radius: 8px;
          padding: 1.1rem 1.4rem; margin: 1.2rem 0; }
h2 { font-size: 1.1rem; margin: 0 0 .7rem; font-weight: 600; }
p { margin: .4rem 0; max-width: 60rem; }
figure { margin: 0; }
figure img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .6rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .28rem .9rem .28rem 0; border-bottom: 1px solid var(--line);
         vertical-align: top; overflow-wrap: anywhere; }
table.grid th, table.grid td { overflow-wrap: normal; white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; }
td.number { text-align: right; }
th.number { text-align: right; }
tbody th { font-weight: 500; color: var(--soft); white-space: nowrap; }
.warning { border-left: 5px solid #d55e00; background: #fff6ef; }
.warning p { margin: 0; }
footer { color: var(--soft); font-size: .85rem; padding: .4rem 0 2.5rem; }
a { color: var(--accent); }
@media print { body { background: white; } section { break-inside: avoid; } }
"""


class Report:
    """Sections in the order they were added; `write` makes the file."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._sections: list[str] = []

    def add_text(self, text: str, heading: str = "") -> Report:
        """Add paragraphs of plain text (blank lines part them)."""
        paragraphs = "".join(f"<p>{html.escape(p)}</p>" for p in text.split("\n\n") if p.strip())
        return self._add(heading, paragraphs)

    def add_warning(self, text: str) -> Report:
        """Add a line that must not be overlooked."""
        return self._add("", f"<p><strong>Warning:</strong> {html.escape(text)}</p>", "warning")

    def add_figure(self, figure: Figure, caption: str = "", heading: str = "") -> Report:
        """Add a figure of matplotlib, embedded as PNG."""
        return self.add_png(png_bytes(figure, DPI), caption, heading)

    def add_png(self, png: bytes, caption: str = "", heading: str = "") -> Report:
        """Add a picture that is a PNG already."""
        data = base64.b64encode(png).decode("ascii")
        text = html.escape(caption)
        width = _png_width(png) * 100 // DPI  # shown at 100 dots per inch: sharp on fine screens
        return self._add(
            heading,
            f'<figure><img width="{width}" src="data:image/png;base64,{data}" alt="{text}">'
            f"<figcaption>{text}</figcaption></figure>",
        )

    def add_table(self, heading: str, table: Table) -> Report:
        """Add a table: a mapping as names and values, a data frame with its columns."""
        body = _frame_html(table) if isinstance(table, pd.DataFrame) else _mapping_html(table)
        return self._add(heading, f'<div class="scroll">{body}</div>')

    def _add(self, heading: str, body: str, kind: str = "") -> Report:
        """Append one section."""
        top = f"<h2>{html.escape(heading)}</h2>" if heading else ""
        attribute = f' class="{kind}"' if kind else ""
        self._sections.append(f"<section{attribute}>{top}{body}</section>")
        return self

    def to_html(self) -> str:
        """Return the whole page."""
        title = html.escape(self.title)
        made = f"{datetime.now():%Y-%m-%d %H:%M}, scipion-em-faml {__version__}"
        link = f'<a href="https://doi.org/{DOI}">doi:{DOI}</a>'
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{title}</title><style>{_STYLE}</style></head><body>"
            f'<header><div class="page"><h1>{title}</h1><p>{made}</p></div></header>'
            f'<main class="page">{"".join(self._sections)}</main>'
            '<footer><div class="page"><p>If this helps your work, please cite: '
            f"{html.escape(CITATION)} {link}</p></div></footer></body></html>\n"
        )

    def write(self, path: Path | str) -> Path:
        """Write the page; a reader never meets half of it."""
        with replacing(path) as temporary:
            temporary.write_text(self.to_html(), encoding="utf-8")
        return Path(path)


def write_report(
    path: Path | str, title: str, sections: Iterable[tuple[str, str | Table | Figure]]
) -> Path:
    """Write a report of (heading, content); content is text, a table or a figure."""
    report = Report(title)
    for heading, content in sections:
        if isinstance(content, str):
            report.add_text(content, heading)
        elif isinstance(content, (Mapping, pd.DataFrame)):
            report.add_table(heading, content)
        else:
            report.add_figure(content, heading=heading)
    return report.write(path)


def _png_width(png: bytes) -> int:
    """Width in pixels, from the header of a PNG."""
    return int.from_bytes(png[16:20], "big")


def _text(value: Any) -> str:
    """One value as a reader wants to see it, escaped."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float) and value != value):
        return "&ndash;"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, Mapping):
        return "<br>".join(f"{html.escape(str(k))}: {_text(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(v) for v in value)
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return _text(value.tolist())
    return html.escape(str(value))


def _mapping_html(table: Mapping[str, Any]) -> str:
    """Names and values, a row each."""
    rows = "".join(
        f"<tr><th>{html.escape(str(name))}</th><td>{_text(value)}</td></tr>"
        for name, value in table.items()
    )
    return f"<table><tbody>{rows}</tbody></table>"


def _frame_html(table: pd.DataFrame) -> str:
    """A data frame; of a long one the first rows, and how many there are."""
    shown = table.head(MAX_ROWS)
    is_number = [pd.api.types.is_numeric_dtype(table[name]) for name in table]
    kind = ['<{} class="number">' if number else "<{}>" for number in is_number]
    head = "".join(
        f"{k.format('th')}{html.escape(str(name))}</th>"
        for k, name in zip(kind, shown.columns, strict=True)
    )
    rows = "".join(
        "<tr>"
        + "".join(f"{k.format('td')}{_text(v)}</td>" for k, v in zip(kind, row, strict=True))
        + "</tr>"
        for row in shown.itertuples(index=False, name=None)
    )
    more = f"<p>The first {MAX_ROWS} of {len(table)} rows.</p>" if len(table) > MAX_ROWS else ""
    return (
        f'<table class="grid"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}'
    )
