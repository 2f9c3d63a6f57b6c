"""STAR files, strictly: what cannot be read as it was meant is an error with its line number.

A block is a table (`loop_`) or a list of names with a value each. A row lies on one line, values
are parted by blanks, and one that holds blanks is quoted. Columns of numbers become numbers, all
others stay text; so do names that look like numbers (a tomogram "01" is not tomogram 1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from scipion_faml.types import FloatArray

Block: TypeAlias = "pd.DataFrame | dict[str, Any]"
# A value in quotes ends with a quote before a blank; one without quotes ends with a blank.
_VALUE = re.compile(r"""[ \t\r\f\v]*(?:"(.*?)"(?=[ \t\r\f\v]|$)|'(.*?)'(?=[ \t\r\f\v]|$)|"""
                    r"""([^ \t\r\f\v]+))""")
_NEEDS_QUOTES = re.compile(r"""^["'#_;]|^(data|loop|global|save|stop)_|\s|^$""", re.IGNORECASE)
_TEXT_COLUMN = re.compile(r"(Name|Image|Model|Reason|Verdict|Frames)$")
_NO_NUMBER = re.compile(r"^[+-]?0\d|^$|_|[^\x00-\x7f]")  # 01 and 1_0 are names
MISSING = ["nan", "NaN", "<NA>"]  # where a number is expected
SMALL, LARGE = 1e-2, 1e9  # numbers between are written with six decimals


class _Damaged(ValueError):
    """What is wrong with a file, without its name."""


@dataclass
class _Table:
    """A block as it is read."""

    names: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    items: dict[str, Any] = field(default_factory=dict)
    is_loop: bool = False
    is_header: bool = False  # between loop_ and the first row

    def add(self, words: list[str], is_quoted: bool) -> None:
        """Take up a line; `is_quoted` says that its first word is a value in any case."""
        first = words[0]
        if first == "loop_" and len(words) == 1 and not is_quoted:
            self._begin_loop()
        elif first.startswith("_") and not is_quoted and (self.is_header or not self.is_loop):
            self._name(first[1:], words[1:])
        else:
            self._row(words)

    def _begin_loop(self) -> None:
        if self.is_loop or self.items:
            raise _Damaged("a second table in one block")
        self.is_loop = self.is_header = True

    def _name(self, name: str, values: list[str]) -> None:
        if name in self.names or name in self.items:
            raise _Damaged(f"a second {name}")
        if self.is_header:
            self.names.append(name)
        elif len(values) != 1:
            raise _Damaged(f"{len(values)} values of {name}, one is needed")
        else:
            self.items[name] = _column(name, values).tolist()[0]

    def _row(self, words: list[str]) -> None:
        if not self.names:
            raise _Damaged("values that belong to no column")
        if len(words) != len(self.names):
            raise _Damaged(f"{len(words)} values in a table of {len(self.names)} columns")
        self.is_header = False
        self.rows.append(words)

    def finished(self) -> Block:
        """The block as a table, or as a dictionary."""
        if not self.is_loop:
            return self.items
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.names)
        return pd.DataFrame({
            name: _column(name, list(values))
            for name, values in zip(self.names, columns, strict=True)})


# ------------------------------------------------------------------------------------ reading
def read(path: Path | str) -> dict[str, Block]:
    """Return the blocks of a STAR file by their names, without `data_`.

    Raises
    ------
    OSError, ValueError
        If the file is missing or not a STAR file; the line is named.
    """
    path = Path(path)
    try:
        if not path.is_file():
            is_folder = path.is_dir()
            raise FileNotFoundError(
                f"{path} is a folder: name a file in it" if is_folder else f"{path} does not exist")
        return parse(_decoded(path.read_bytes()))
    except PermissionError as error:
        raise PermissionError(f"{path} may not be read: check its permissions") from error
    except ValueError as error:
        raise ValueError(f"{path} is not a readable STAR file ({error}): correct it") from error


def _decoded(content: bytes) -> str:
    if b"\0" in content:
        raise _Damaged("it holds NUL characters")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _Damaged(f"line {line} is not UTF-8 text") from error


def parse(text: str) -> dict[str, Block]:
    """Return the blocks of a STAR file's text.

    Raises
    ------
    ValueError
        If a line cannot be understood; it is named.
    """
    tables: dict[str, _Table] = {}
    table: _Table | None = None
    for number, line in enumerate(text.split("\n"), 1):
        words, is_quoted = _words(line)
        if not words:
            continue
        try:
            if words[0].startswith("data_") and len(words) == 1 and not is_quoted:
                table = _new_block(tables, words[0][5:])
            elif table is None:
                raise _Damaged("text before any data_ block")
            else:
                table.add(words, is_quoted)
        except _Damaged as error:
            raise _Damaged(f"line {number}: {error}") from None
    return {name: found.finished() for name, found in tables.items()}


def _new_block(tables: dict[str, _Table], name: str) -> _Table:
    if name in tables:
        raise _Damaged(f"a second block data_{name}")
    return tables.setdefault(name, _Table())


def _words(line: str) -> tuple[list[str], bool]:
    """The values on a line, without comments, and whether the first is quoted."""
    if '"' not in line and "'" not in line and "#" not in line and line.isascii():
        return line.split(), False
    words: list[str] = []
    is_quoted = False
    for match in _VALUE.finditer(line.rstrip()):
        double, single, plain = match.groups()
        if plain is not None and plain.startswith("#"):
            break
        is_quoted = is_quoted or (not words and plain is None)
        words.append(next(part for part in (double, single, plain) if part is not None))
    return words, is_quoted


def _column(name: str, values: list[str]) -> pd.Series:
    """Values as whole numbers, as numbers, or as they are."""
    if _TEXT_COLUMN.search(name) or any(map(_NO_NUMBER.search, values)):
        return pd.Series(values, dtype="str")
    for kind, dtype in ((int, np.int64), (_float, np.float64)):
        try:
            return pd.Series(np.array([kind(value) for value in values], dtype=dtype))
        except (ValueError, OverflowError):
            continue
    return pd.Series(values, dtype="str")


def _float(value: str) -> float:
    return float("nan") if value in MISSING else float(value)


def to_numbers(values: Iterable[Any]) -> FloatArray:
    """Return values (N,) as numbers, NaN for what is none.

    Python reads what is text: `pandas.to_numeric` was seen to misread an exponent (1.26E-05).
    """
    if isinstance(values, pd.Series) and values.dtype.kind in "iuf":
        return np.asarray(values, dtype=np.float64)
    return np.array([_number(value) for value in values], dtype=np.float64)


def _number(value: Any) -> float:
    try:
        return float("nan") if isinstance(value, str) and "_" in value else float(value)
    except (ValueError, TypeError, OverflowError):
        return float("nan")


# ------------------------------------------------------------------------------------ writing
def write(path: Path | str, blocks: Mapping[str, Block], comment: str = "") -> None:
    """Write blocks; the bytes depend on them and the comment alone.

    Raises
    ------
    ValueError
        If a value cannot be written: it holds a line break or is no text.
    """
    try:
        content = text_of(blocks, comment).encode("utf-8")
    except UnicodeEncodeError as error:
        value = error.object[max(0, error.start - 20): error.end + 20]
        raise ValueError(f"{value!r} cannot be written as UTF-8 text: rename it") from error
    Path(path).write_bytes(content)


def text_of(blocks: Mapping[str, Block], comment: str = "") -> str:
    """Return the text of a STAR file of these blocks."""
    lines = [f"# {comment}", ""] if comment else []
    for name, block in blocks.items():
        lines += ["", f"data_{name}", ""]
        if isinstance(block, pd.DataFrame):
            lines += ["loop_", *(f"_{c} #{i}" for i, c in enumerate(block.columns, 1))]
            lines += ["\t".join(row) for row in _rows(block)]
        else:
            lines += [f"_{key}\t{_written(value)}" for key, value in block.items()]
        lines.append("")
    return "\n".join(lines) + "\n"


def _rows(table: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """The rows of a table as they are written."""
    columns = [table.iloc[:, i] for i in range(table.shape[1])]
    return zip(*([_written(v) for v in column.tolist()] for column in columns), strict=True)


def _written(value: Any) -> str:
    """A value in a STAR file."""
    if isinstance(value, str):
        return _quoted(value)
    if value is None or value is pd.NA:
        return MISSING[-1]
    if isinstance(value, (float, np.floating)):
        return _decimal(float(value))
    return _quoted(str(value))


def _decimal(value: float) -> str:
    if value == 0.0 or SMALL <= abs(value) < LARGE:
        return f"{value:.6f}"
    return f"{value:.9g}"


def _quoted(text: str) -> str:
    if not _NEEDS_QUOTES.search(text):
        return text
    for quote in ('"', "'"):
        whole = f"{quote}{text}{quote}"
        if not set(text) & set("\n\r\0") and _words(whole) == ([text], True):
            return whole
    raise ValueError(f"{text!r:.200} cannot be written into a STAR file: rename it")
