"""Reports: one HTML file that holds its pictures and tables and opens without a network.

    report = Report("FAML classification")
    report.in_short(["Two classes of 30 and 34 particles."], "finished")
    report.add_figure(plots.class_gallery(averages), "Class averages.", "Averages")
    report.add_table("Settings", {"classes": 2, "seed": 0})
    report.write("report.html")

A heading starts a section; what comes without one goes into the section before it. The verbs of
the command line do not write a `Report` themselves: theirs, which also says what was run, is in
`scipion_faml.cli.reporting`.
"""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

import pandas as pd

from scipion_faml import __version__
from scipion_faml.disk import replacing
from scipion_faml.plots import png_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table: TypeAlias = "Mapping[str, Any] | pd.DataFrame"
MAX_ROWS = 200
MAX_TEXT = 400  # letters of one value in a table
DPI = 130
SHOWN_DPI = 94  # a picture has more dots than it is shown with: sharp on fine screens
# A picture of noise is several times smaller as JPEG, and looks the same; lines stay PNG.
MAX_PNG_BYTES = 150_000
JPEG_QUALITY = 88
COLLECTION = "Reports of"  # how the first line begins of a page that collects others
MAX_COLLECTED = 4_000_000  # letters of pictures on a page that collects reports

# The badge of the first section: what a reader must know before anything else.
STATES = {
    "finished": "Finished",
    "doubt": "Finished, with warnings",
    "nothing": "Nothing came out",
    "running": "Still running",
}

CITATIONS = {
    "Zhao2018": (
        "Zhao Y, Zeng X, Guo Q, Xu M (2018) An integration of fast alignment and "
        "maximum-likelihood methods for electron subtomogram averaging and classification. "
        "Bioinformatics 34(13): i227-i236.", "10.1093/bioinformatics/bty267"),
    "Frazier2017": (
        "Frazier Z, Xu M, Alber F (2017) Tomominer and TomominerCloud: a software platform for "
        "large-scale subtomogram structural analysis. Structure 25(6): 951-961.",
        "10.1016/j.str.2017.04.016"),
    "Scheres2009": (
        "Scheres SHW, Melero R, Valle M, Carazo JM (2009) Averaging of electron subtomograms and "
        "random conical tilt reconstructions through likelihood optimization. Structure 17(12): "
        "1563-1572.", "10.1016/j.str.2009.10.009"),
    "Voss2009": (
        "Voss NR, Yoshioka CK, Radermacher M, Potter CS, Carragher B (2009) DoG Picker and "
        "TiltPicker: software tools to facilitate particle selection in single particle electron "
        "microscopy. Journal of Structural Biology 166(2): 205-213.",
        "10.1016/j.jsb.2009.01.004"),
}
OWN_CITATION = "Zhao2018"

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #566270; --line: #dde3ea;
        --accent: #00629b; --page: #f3f5f8; --card: #ffffff; --code: #f1f4f7;
        --good: #00704f; --doubt: #a84300; --doubt-back: #fff4ea; --top: #14293d; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ee; --soft: #a9b4c0; --line: #38434f; --accent: #6cb8ea; --page: #12181f;
          --card: #1b232c; --code: #141b22; --good: #4fd0a5; --doubt: #ffab66;
          --doubt-back: #33261a; --top: #0c1219; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--page); color: var(--ink);
       font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
             sans-serif; }
header { background: var(--top); color: white; padding: 1.5rem 0 1.3rem; }
header h1 { margin: 0; font-size: 1.55rem; font-weight: 600; line-height: 1.25; }
header p { margin: .25rem 0 0; color: #c3cfdb; font-size: .86rem; overflow-wrap: anywhere; }
nav { margin-top: .8rem; font-size: .86rem; }
nav a { color: #a9d4f2; margin-right: 1.1rem; text-decoration: none; white-space: nowrap; }
nav a:hover, nav a:focus { text-decoration: underline; }
.page { max-width: 74rem; margin: 0 auto; padding: 0 1.5rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
          padding: 1.1rem 1.4rem 1.2rem; margin: 1.1rem 0; }
h2 { font-size: 1.12rem; margin: 0 0 .6rem; font-weight: 600; }
h3 { font-size: .95rem; margin: 1rem 0 .4rem; font-weight: 600; }
p { margin: .4rem 0; max-width: 62rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 1.6rem; align-items: flex-start;
           margin: .6rem 0; }
figure { margin: 0; min-width: 0; max-width: 100%; }
figure img { max-width: 100%; height: auto; display: block; background: white;
             border-radius: 4px; }
figcaption { color: var(--soft); font-size: .86rem; margin-top: .45rem; max-width: 62rem;
             contain: inline-size; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .28rem 1rem .28rem 0; border-bottom: 1px solid var(--line);
         vertical-align: top; overflow-wrap: anywhere; }
table.grid th, table.grid td { overflow-wrap: normal; white-space: nowrap; }
table.grid thead th { white-space: normal; vertical-align: bottom; }
table.grid td.long { white-space: normal; min-width: 11rem; overflow-wrap: anywhere; }
thead th { color: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; }
tbody th { font-weight: 500; color: var(--soft); white-space: nowrap; }
pre { background: var(--code); border: 1px solid var(--line); border-radius: 6px; margin: .4rem 0;
      padding: .7rem .9rem; font-size: .84rem; line-height: 1.45; white-space: pre-wrap;
      overflow-wrap: anywhere; }
.short { border-left: 5px solid var(--good); }
.short.doubt, .short.nothing { border-left-color: var(--doubt); }
.short.running { border-left-color: var(--accent); }
.short .lines { font-size: 1.05rem; }
.badge { display: inline-block; border: 1px solid currentColor; border-radius: 99px;
         padding: .05rem .7rem; font-size: .82rem; font-weight: 600; color: var(--good);
         margin-left: .6rem; vertical-align: middle; }
.doubt .badge, .nothing .badge { color: var(--doubt); }
.running .badge { color: var(--accent); }
.warning { border-left: 5px solid var(--doubt); background: var(--doubt-back); }
.warning ul { margin: 0; padding-left: 1.2rem; }
footer { color: var(--soft); font-size: .85rem; padding: .2rem 0 2.2rem; }
a { color: var(--accent); }
@media print {
  :root { --ink: #000; --soft: #444; --line: #bbb; --page: #fff; --card: #fff; --code: #f6f6f6;
          --good: #00704f; --doubt: #a84300; --doubt-back: #fff; --accent: #00629b; }
  body { font-size: 10.5pt; } nav { display: none; }
  header { background: white; color: black; padding: 0; } header p { color: #444; }
  section { border: 0; border-radius: 0; padding: 0; margin: .9rem 0; }
  .short, .warning { padding-left: .8rem; }
  .scroll { overflow: visible; } table { font-size: 8pt; } th, td { padding-right: .6rem; }
  table.grid th, table.grid td, tbody th { white-space: normal; }
  table.grid td.long { min-width: 0; } .page { padding: 0; max-width: none; }
  @page { margin: 14mm; }
  figure, tr, pre { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""


class Report:
    """Sections in the order they were added; `write` makes the file."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self.short = ""  # the first section
        self._sections: list[_Section] = []
        self._warnings: list[str] = []

    # ------------------------------------------------------------------------------- contents
    def in_short(
        self, lines: Sequence[str], state: str = "finished",
        figures: Sequence[tuple[Figure, str]] = (),
    ) -> Report:
        """Say in two to four lines whether it worked, with (figure, caption); the page begins so.

        `state` is one of `STATES`.
        """
        pictures = [self._figure_html(png_bytes(figure, DPI), caption)
                    for figure, caption in figures]
        self.short = _short_html(lines, state, "".join(pictures))
        return self

    def add_text(self, text: str, heading: str = "") -> Report:
        """Add paragraphs of plain text (blank lines part them)."""
        paragraphs = "".join(f"<p>{html.escape(p)}</p>" for p in text.split("\n\n") if p.strip())
        return self._add(heading, paragraphs)

    def add_code(self, text: str, heading: str = "") -> Report:
        """Add text that is to be copied as it is."""
        return self._add(heading, f"<pre><code>{html.escape(text)}</code></pre>")

    def add_warning(self, text: str) -> Report:
        """Add a line that must not be overlooked; all of them come after the first section."""
        if text not in self._warnings:
            self._warnings.append(text)
        return self

    def add_figure(
        self, figure: Figure, caption: str = "", heading: str = "", alt: str = ""
    ) -> Report:
        """Add a figure of matplotlib, embedded. `alt` is what a blind reader hears of it."""
        return self.add_png(png_bytes(figure, DPI), caption, heading, alt)

    def add_png(self, png: bytes, caption: str = "", heading: str = "", alt: str = "") -> Report:
        """Add a picture that is a PNG already. Pictures in a row stand side by side."""
        return self._add(heading, self._figure_html(png, caption, alt), is_figure=True)

    def add_table(self, heading: str, table: Table) -> Report:
        """Add a table: a mapping as names and values, a data frame with its columns."""
        body = _frame_html(table) if isinstance(table, pd.DataFrame) else _mapping_html(table)
        return self._add(heading, f'<div class="scroll">{body}</div>')

    def add_citations(self, keys: Iterable[str], heading: str = "How to cite") -> Report:
        """Add references, of `CITATIONS`."""
        items = "".join(f"<li>{_citation_html(key)}</li>" for key in keys)
        return self._add(heading, f"<ul>{items}</ul>")

    def restart(self) -> Report:
        """Forget all sections: the page is made anew."""
        self.short, self._sections, self._warnings = "", [], []
        return self

    @property
    def warnings(self) -> list[str]:
        """The warnings so far."""
        return list(self._warnings)

    def _add(self, heading: str, body: str, is_figure: bool = False) -> Report:
        """Append to the last section, or to a new one."""
        if heading or not self._sections:
            self._sections.append(_Section(heading))
        self._sections[-1].add(body, is_figure)
        return self

    def _figure_html(self, png: bytes, caption: str, alt: str = "") -> str:
        """A picture with its caption; the first sentence of it is heard where nothing is seen."""
        width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
        spoken = alt or re.split(r"(?<=[.:])\s", caption, maxsplit=1)[0] or "figure"
        below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
        return (
            f'<figure><img width="{width * SHOWN_DPI // DPI}" height="{height * SHOWN_DPI // DPI}"'
            f' src="{_data_uri(png)}" alt="{html.escape(spoken)}">{below}</figure>')

    # ----------------------------------------------------------------------------------- page
    def to_html(self) -> str:
        """Return the whole page."""
        title = html.escape(self.title)
        made = f"{datetime.now():%Y-%m-%d %H:%M}, scipion-em-faml {__version__}"
        lines = [html.escape(text) for text in (self.subtitle, made) if text]
        sections = [*([_warnings_section(self._warnings)] if self._warnings else []),
                    *self._sections]
        body = self.short + "".join(
            section.to_html(f"s{number}") for number, section in enumerate(sections, 1))
        has_citations = any(section.heading == "How to cite" for section in sections)
        footer = "" if has_citations else (
            f"If this helps your work, please cite: {_citation_html(OWN_CITATION)}")
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            # Without an icon of its own a browser asks the server for one.
            '<link rel="icon" href="data:,">'
            f"<title>{title}</title><style>{_STYLE}</style></head><body>"
            f'<header><div class="page"><h1>{title}</h1>'
            f"{''.join(f'<p>{line}</p>' for line in lines)}{_contents(sections)}</div></header>"
            f'<main class="page">{body}</main>'
            f'<footer><div class="page"><p>{footer}</p></div></footer></body></html>\n'
        )

    def write(self, path: Path | str) -> Path:
        """Write the page; a reader never meets half of it."""
        with replacing(path) as temporary:
            temporary.write_text(self.to_html(), encoding="utf-8")
        return Path(path)


class _Section:
    """A heading and what comes under it; pictures in a row share a line."""

    def __init__(self, heading: str, kind: str = "") -> None:
        self.heading = heading
        self._kind = kind
        self._parts: list[tuple[bool, str]] = []

    def add(self, body: str, is_figure: bool) -> None:
        """Append a part."""
        if is_figure and self._parts and self._parts[-1][0]:
            self._parts[-1] = True, self._parts[-1][1] + body
        else:
            self._parts.append((is_figure, body))

    def to_html(self, name: str) -> str:
        """Return the section, with a name to jump to."""
        top = f"<h2>{html.escape(self.heading)}</h2>" if self.heading else ""
        body = "".join(
            f'<div class="figures">{part}</div>' if is_figure else part
            for is_figure, part in self._parts)
        kind = f' class="{self._kind}"' if self._kind else ""
        return f'<section id="{name}"{kind}>{top}{body}</section>'


def _warnings_section(warnings: Sequence[str]) -> _Section:
    """All warnings in one."""
    section = _Section("Warnings", "warning")
    items = "".join(f"<li><strong>Warning:</strong> {html.escape(text)}</li>" for text in warnings)
    section.add(f"<ul>{items}</ul>", False)
    return section


def _short_html(lines: Sequence[str], state: str, picture: str) -> str:
    """The first section: the badge is words, not a colour alone."""
    badge = f'<span class="badge">{STATES[state]}</span>'
    said = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    shown = f'<div class="figures">{picture}</div>' if picture else ""
    return (f'<section id="s0" class="short {state}"><h2>In short {badge}</h2>'
            f'<div class="lines">{said}</div>{shown}</section>')


def _contents(sections: Sequence[_Section]) -> str:
    """Links to the sections of a long page."""
    links = [f'<a href="#s{number}">{html.escape(section.heading)}</a>'
             for number, section in enumerate(sections, 1) if section.heading]
    return f'<nav aria-label="Contents">{" ".join(links)}</nav>' if len(links) > 2 else ""


def _citation_html(key: str) -> str:
    """One reference with its link: the only thing on the page that needs a network."""
    text, doi = CITATIONS[key]
    return f'{html.escape(text)} <a href="https://doi.org/{doi}">doi:{doi}</a>'


def _data_uri(png: bytes) -> str:
    """A picture inside the page, in the format that keeps the page small."""
    kind, data = "png", png
    if len(png) > MAX_PNG_BYTES:
        from PIL import Image

        buffer = BytesIO()
        with Image.open(BytesIO(png)) as image:
            # Full colour resolution: circles and letters on grey would fray.
            image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        if buffer.tell() < len(png):
            kind, data = "jpeg", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


# --------------------------------------------------------------------------------- collections
class CollectedReports(Report):
    """The first sections of several reports."""

    states: dict[str, int]  # how many runs are in each of `STATES`

    @property
    def n_reports(self) -> int:
        """How many reports were found."""
        return sum(self.states.values())


def collected(paths: Sequence[Path], title: str, folder: Path) -> CollectedReports:
    """Return one page with the first sections of several reports, and links to them.

    Other pages and pages that collect are passed over. Pictures are left out once they fill a
    page. Links are relative to `folder`.
    """
    report, n_letters, states = CollectedReports(title), 0, []
    for path in paths:
        page = path.read_text(encoding="utf-8")
        short = re.search(r'<section id="s0" class="short (\w+)">.*?</section>', page, re.DOTALL)
        if short is None or COLLECTION in page:
            continue
        body = re.sub(r"<h2>In short.*?</h2>", "", short[0]).removesuffix("</section>")
        body = re.sub(r"^<section[^>]*>", "", body)
        if n_letters + len(body) > MAX_COLLECTED:
            body = re.sub(r'<div class="figures">.*', "", body, flags=re.DOTALL)
        n_letters += len(body)
        states.append(short[1])
        link = quote(os.path.relpath(path, folder))
        name = _name_in(path, folder)
        report._add(f"{name}: {STATES[short[1]].lower()}",
                    f'{body}<p><a href="{link}">The whole report</a></p>')
    report.states = {state: states.count(state) for state in STATES if state in states}
    counts = [f"{count} {STATES[state].lower()}" for state, count in report.states.items()]
    report.in_short([f"{COLLECTION} {len(states)} runs: {'; '.join(counts)}."], _worst(states))
    return report


def _name_in(path: Path, folder: Path) -> str:
    """A short name of a report: the folders and the file that tell it from the others."""
    parts = Path(os.path.relpath(path, folder)).parts
    stem = parts[-1].removesuffix(".html").removesuffix(".report")
    return " / ".join([*parts[:-1], *([] if stem == "report" and parts[:-1] else [stem])])


def _worst(states: Sequence[str]) -> str:
    """The state of several runs: that of the one which needs to be looked at first."""
    for state in ("running", "doubt", "nothing"):
        if state in states:
            return "doubt" if state == "nothing" else state
    return "finished"


# ------------------------------------------------------------------------------------- tables
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
    text = str(value)
    return html.escape(text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "...")


def _mapping_html(table: Mapping[str, Any]) -> str:
    """Names and values, a row each."""
    rows = "".join(
        f'<tr><th scope="row">{html.escape(str(name))}</th><td>{_text(value)}</td></tr>'
        for name, value in table.items()
    )
    return f"<table><tbody>{rows}</tbody></table>"


def _frame_html(table: pd.DataFrame) -> str:
    """A data frame; of a long one the first rows, and how many there are."""
    shown = table.head(MAX_ROWS)
    kinds = [_kind_of(table[name]) for name in table]
    head = "".join(
        f'<th scope="col"{kind if "number" in kind else ""}>{_breakable(name)}</th>'
        for kind, name in zip(kinds, shown.columns, strict=True))
    rows = "".join(
        "<tr>" + "".join(
            f"<td{kind}>{_text(v)}</td>" for kind, v in zip(kinds, row, strict=True)) + "</tr>"
        for row in shown.itertuples(index=False, name=None))
    more = f"<p>The first {MAX_ROWS} of {len(table)} rows.</p>" if len(table) > MAX_ROWS else ""
    return (
        f'<table class="grid"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}')


def _breakable(name: Any) -> str:
    """A long name of a column, which may be broken between its words."""
    return html.escape(str(name)).replace("_", "_<wbr>")


def _kind_of(column: pd.Series) -> str:
    """The class of a column's cells: numbers to the right, long texts in several lines."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return ' class="number"'
    return ' class="long"' if max((len(str(v)) for v in column), default=0) > 40 else ""
