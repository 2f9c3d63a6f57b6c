"""Pages of the documentation that are made from the code: one for each protocol and each verb.

    python tools/doc_pages.py docs        writes docs/protocols/*.md and docs/verbs/*.md

A protocol's page is its form: every row with its default, unit, level and condition. What a form
cannot say, how to read the result, is in docs/notes/CLASS.md. docs/conf.py calls `write`.
"""

from __future__ import annotations

import ast
import atexit
import functools
import inspect
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from scipion_faml import scipion_env
from scipion_faml.cli import VERBS, main

ROOT = Path(__file__).resolve().parents[1]
GENERAL = {"General"}  # Scipion's own section: name of the run, mode
OF_SCIPION = {"Parallelization", "Streaming"}
CLASS_ORDER = ["simulat", "pick", "train", "extract", "classif", "align", "average", "evaluat",
               "validat", "noise", "export", "import"]
UNIT = re.compile(r"\((Å|deg|voxels|µm|secs|s|MB|GB|kV|mm|%|1/Å|Å²|e/Å²)\)")
DEFAULT = re.compile(r"\s*\[default: ([^\]]*)\]")
CODE = re.compile(r"(`[^`]+`|--[a-z][\w-]*|\b(?:rln|faml)[A-Z]\w*\*?\w*"
                  r"|\b\S+\.(?:star|mrc|csv|json|html)\b)")
SHARED = {"as_json", "overwrite", "verbose", "workers", "seed"}  # rows of every verb, told last


@dataclass(frozen=True)
class Row:
    """One row of a form as the page shows it."""

    name: str
    label: str
    kind: str  # class of the parameter
    default: str
    unit: str
    is_advanced: bool
    condition: str  # in words
    help: str
    takes: str  # classes of objects, of a pointer
    choices: tuple[str, ...]
    section: str
    group: str
    is_optional: bool
    is_hidden: bool


# ---------------------------------------------------------------------------------- protocols
@functools.cache
def protocols() -> dict[str, type]:
    """Return the protocols of the plugin by class name, those that Scipion lists."""
    if "pyworkflow" not in sys.modules:  # it reads its environment when it is imported
        workspace = tempfile.mkdtemp(prefix="faml-docs-")
        atexit.register(shutil.rmtree, workspace, ignore_errors=True)
        scipion_env.set_up(workspace)
    import pyworkflow

    domain = pyworkflow.Config.getDomain()
    domain.getPlugins()
    found = {
        name: cls for name, cls in domain.getProtocols().items()
        if cls.__module__.startswith("scipion_faml.protocols") and cls._label
    }
    return dict(sorted(found.items(), key=lambda item: (_rank(item[1]._label), item[1]._label)))


def _rank(label: str) -> int:
    """Protocols in the order of the work."""
    ranks = [i for i, word in enumerate(CLASS_ORDER) if word in label]
    return min(ranks, default=len(CLASS_ORDER))


def rows_of(cls: type) -> list[Row]:
    """Return all rows of a protocol's form but Scipion's general ones."""
    from pyworkflow.protocol.params import ElementGroup, LabelParam

    protocol = cls()
    rows = []
    for section in protocol.iterDefinitionSections():
        label = section.getLabel()
        if label in GENERAL:
            continue
        for name, param in section.iterParams():
            members = param.iterParams() if isinstance(param, ElementGroup) else [(name, param)]
            group = param if isinstance(param, ElementGroup) else None
            rows += [_row(protocol, n, p, label, group) for n, p in members
                     if not isinstance(p, LabelParam)]
    return rows


def _row(protocol: Any, name: str, param: Any, section: str, group: Any) -> Row:
    label = (param.label.get() or "").strip()
    text = " ".join((param.help.get() or "").split())
    line = group is not None and type(group).__name__ == "Line"
    group_label = group.getLabel() if group is not None else ""
    if line:
        text = " ".join(filter(None, [text, " ".join((group.help.get() or "").split())]))
        measure = UNIT.search(group_label)
        label = f"{UNIT.sub('', group_label).strip()}: {label}{f' {measure[0]}' if measure else ''}"
    condition = param.condition.get() or (group.condition.get() if group is not None else "") or ""
    unit = UNIT.search(label) or UNIT.search(group_label)
    return Row(
        name, label, type(param).__name__, _default(param), unit[1] if unit else "",
        bool(param.expertLevel.get()) or bool(group is not None and group.expertLevel.get()),
        condition_in_words(condition, protocol), text,
        str(param.pointerClass.get() or "") if "Pointer" in type(param).__name__ else "",
        tuple(getattr(param, "choices", ()) or ()), section, "" if line else group_label,
        bool(getattr(param, "allowsNull", False)), condition == "False",
    )


def _default(param: Any) -> str:
    """The default as the form shows it."""
    value = param.default.get()
    kind = type(param).__name__
    if "Pointer" in kind:
        return ""
    if value is None or value == "":
        return "empty"
    if kind == "BooleanParam":
        return "yes" if str(value) in {"True", "1"} else "no"
    if kind == "EnumParam":
        return str(param.choices[int(value)])
    text = str(value)
    return text[:-2] if kind == "FloatParam" and text.endswith(".0") else text


def condition_in_words(condition: str, protocol: Any) -> str:
    """Return a form's condition as a person reads it: `mode==0` becomes *Mode* is enhanced."""
    if not condition or condition in {"True", "False"}:
        return ""
    try:
        tree = ast.parse(condition, mode="eval").body
    except SyntaxError:
        return f"`{condition}`"
    return _words(tree, protocol)


def _words(node: ast.expr, protocol: Any, is_true: bool = True) -> str:
    """A condition, or its contrary, in words."""
    if isinstance(node, ast.BoolOp):
        joint = " and " if isinstance(node.op, ast.And) == is_true else " or "
        return joint.join(_words(value, protocol, is_true) for value in node.values)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return _words(node.operand, protocol, not is_true)
    if isinstance(node, ast.Name):
        is_question = type(protocol.getParam(node.id)).__name__ == "BooleanParam"
        words = ("yes", "no") if is_question else ("given", "empty")
        return f"*{_label_of(node.id, protocol)}* is {words[0] if is_true else words[1]}"
    if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name) and len(node.ops) == 1:
        return _comparison(node, protocol, is_true)
    return f"{'' if is_true else 'not '}`{ast.unparse(node)}`"


RELATIONS = {ast.Eq: ("is", "is not"), ast.In: ("is", "is not"), ast.NotEq: ("is not", "is"),
             ast.NotIn: ("is not", "is"), ast.Gt: ("is above", "is at most"),
             ast.Lt: ("is below", "is at least"), ast.GtE: ("is at least", "is below"),
             ast.LtE: ("is at most", "is above")}


def _comparison(node: ast.Compare, protocol: Any, is_true: bool) -> str:
    name = node.left.id  # type: ignore[attr-defined]
    choices = getattr(protocol.getParam(name), "choices", None)
    value = ast.literal_eval(node.comparators[0])
    values = value if isinstance(value, (list, tuple)) else [value]
    shown = " or ".join(str(choices[v]) if choices else str(v) for v in values)
    return f"*{_label_of(name, protocol)}* {RELATIONS[type(node.ops[0])][not is_true]} {shown}"


def _label_of(name: str, protocol: Any) -> str:
    param = protocol.getParam(name)
    return (param.label.get() if param is not None else "") or name


def outputs_of(cls: type) -> dict[str, str]:
    """Return the names and types of a protocol's outputs."""
    possible = cls._possibleOutputs or {}
    if not isinstance(possible, dict):
        possible = {one.name: one.value for one in possible}
    return {name: (kind if isinstance(kind, type) else type(kind)).__name__
            for name, kind in possible.items()}


def verbs_of(cls: type) -> list[str]:
    """Return the verbs that a protocol runs: those that its class, or a base of it, names."""
    for base in cls.__mro__:
        if not base.__module__.startswith("scipion_faml.protocols"):
            continue
        text = re.sub(r"\(\s+", "(", inspect.getsource(base))
        named = set(re.findall(r'(?:runVerb\(|_verb\(|VERB = )"([a-z-]+)"', text))
        for helper in re.findall(r"self\.(_average\w+)\(", text):  # a step of a base
            found = re.search(r'runVerb\("([a-z-]+)"', re.sub(
                r"\(\s+", "(", inspect.getsource(getattr(cls, helper))))
            named |= {found[1]} if found else set()
        for prefix in re.findall(r'runVerb\(f"([a-z-]+)\{', text):
            named |= {verb for verb in VERBS if verb.startswith(prefix)
                      and f'"{verb.removeprefix(prefix)}"' in text}
        if named:
            return [verb for verb in VERBS if verb in named]
    return []


def tree_path(name: str) -> str:
    """Return where Scipion's tree of protocols lists a class: Particles > Picking."""
    text = (ROOT / "scipion_faml" / "protocols.conf").read_text()
    before = text.split(f'"{name}"')[0]
    if before == text:
        return ""
    path: list[str] = []
    for match in re.finditer(r'"text": "([^"]+)"[^\[\]{}]*"children": \[|(\])', before):
        if match[1]:
            path.append(match[1])
        elif path:
            path.pop()
    return " > ".join(path)


def protocol_page(name: str, cls: type, docs: Path) -> str:
    """Return the page of one protocol."""
    rows = [row for row in rows_of(cls) if not row.is_hidden]
    parts = [f"# {cls._label}\n", _paragraphs(inspect.getdoc(cls) or "")]
    parts.append(_facts(name, cls))
    picture = docs / "images" / f"shot_{name}_form.png"
    if picture.is_file():
        parts.append(f"![The form](../images/{picture.name})\n")
    inputs = [row for row in rows if row.takes]
    if inputs:
        parts.append("## Inputs\n\n" + _table(
            ("input", "takes", "meaning"),
            [(_name(row), _classes(row.takes) + ("<br>optional" if row.is_optional else ""),
              _meaning(row)) for row in inputs]))
    outputs = outputs_of(cls)
    if outputs:
        parts.append("## Outputs\n\n" + _table(
            ("output", "type"), [(f"`{n}`", f"`{kind}`") for n, kind in outputs.items()]))
    note = docs / "notes" / f"{name}.md"
    if note.is_file():
        parts.append("## How to read the result\n\n" + note.read_text().strip() + "\n")
    parts.append("## Parameters\n\n" + _parameters([row for row in rows if not row.takes]))
    pattern = f"shot_*Wizard_{name.removeprefix('ProtFaml')}.png"
    if wizards := sorted((docs / "images").glob(pattern)):
        parts.append("## Wizards\n\nThe magic wand beside a row opens one of these.\n")
        parts += [f"![{path.stem.split('_')[1]}](../images/{path.name})\n" for path in wizards]
    return "\n".join(parts)


def _parameters(rows: list[Row]) -> str:
    """The rows of the form under their sections; Scipion's own after those."""
    if not rows:
        return "None but Scipion's own.\n"
    text = []
    sections = list(dict.fromkeys((row.section, row.group) for row in rows))
    sections.sort(key=lambda pair: pair[0] in OF_SCIPION)  # stable: the form's order otherwise
    for section, group in sections:
        here = [row for row in rows if (row.section, row.group) == (section, group)]
        text.append(f"### {section}{': ' + group if group else ''}\n\n" + _table(
            ("parameter", "default", "meaning"),
            [(_name(row), " ".join(filter(None, [_cell(row.default), _unit_of(row)])),
              _meaning(row)) for row in here]))
    return "\n".join(text)


def _unit_of(row: Row) -> str:
    return "" if row.default == "empty" else row.unit


def _name(row: Row) -> str:
    level = "<br>*advanced*" if row.is_advanced else ""
    return f"**{_cell(row.label)}**<br>`{row.name}`{level}"


def _meaning(row: Row) -> str:
    parts = [_cell(row.help)]
    if row.choices:
        parts.append("Choices: " + "; ".join(_cell(c) for c in row.choices) + ".")
    if row.condition:
        parts.append(f"Shown if {row.condition}.")
    return "<br>".join(filter(None, parts))


def _facts(name: str, cls: type) -> str:
    verbs = ", ".join(f"[`{v}`](../verbs/{v}.md)" for v in verbs_of(cls))
    lines = []
    if path := tree_path(name):
        lines.append(f"- In Scipion's tree: *{path}*")
    if verbs:
        lines.append(f"- Runs: {verbs}")
    lines.append(f"- In scripts and workflow files: `{name}`")
    return "\n".join(lines) + "\n"


def _classes(text: str) -> str:
    return "<br>".join(f"`{word.strip()}`" for word in text.split(","))


def _paragraphs(text: str) -> str:
    """A docstring as Markdown; [Key2018] of the bibliography loses its brackets."""
    return re.sub(r"\s*\[(\w+\d{4}\w?)\]", "", inspect.cleandoc(text)) + "\n"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text that a cell of a table may hold."""
    return re.sub(r"([|<>*_`$\[\]])", r"\\\1", " ".join(text.split()))


# -------------------------------------------------------------------------------------- verbs
def command_of(verb: str) -> click.Command:
    """Return the click command of a verb."""
    command = main.get_command(click.Context(main), verb)
    assert command is not None
    return command


def verb_page(verb: str, users: dict[str, str]) -> str:
    """Return the page of one verb; `users` are protocols that run it, class name to label."""
    command = command_of(verb)
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    usage = " ".join([f"scipion-faml {verb}", *map(_metavar, arguments), "[OPTIONS]"])
    parts = [f"# {verb}\n", f"    {usage}\n", *(_plain(p) + "\n" for p in _help_of(command))]
    if users:
        links = ", ".join(f"[{label}](../protocols/{name}.md)" for name, label in users.items())
        parts.append(f"In Scipion: {links}.\n")
    shared = [o for o in options if o.name in SHARED]
    own = [o for o in options if o.name not in SHARED]
    own.sort(key=lambda option: not option.required)
    parts.append("## Options\n\n" + _option_table(own))
    parts.append("### Of all verbs\n\n" + _option_table(shared))
    return "\n".join(parts)


def _help_of(command: click.Command) -> list[str]:
    """The paragraphs of a command's help."""
    text = inspect.cleandoc((command.help or "").split("\f")[0]).replace("\b\n", "")
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


def _metavar(param: click.Parameter) -> str:
    name = (param.metavar or param.name or "").upper()
    return f"{name}..." if param.nargs < 0 else name


def _option_table(options: list[click.Option]) -> str:
    return _table(("option", "default", "meaning"), [
        (_flags(o), _cell(_option_default(o)), _option_help(o)) for o in options])


def _flags(option: click.Option) -> str:
    kind = "" if option.is_flag else f" *{_kind(option)}*"
    return "<br>".join(f"`{o}`" for o in [*option.opts, *option.secondary_opts]) + kind


def _kind(option: click.Option) -> str:
    """What an option takes, in a word."""
    if option.metavar:
        return _cell(option.metavar)
    if isinstance(option.type, click.Choice):
        return "name"
    words = {"integer range": "whole number", "integer": "whole number", "float": "number",
             "float range": "number", "path": "path", "file": "file", "directory": "folder",
             "text": "text"}
    return words.get(option.type.name, option.type.name)


def _option_default(option: click.Option) -> str:
    """The default of an option; what its help says about it where that is more."""
    if option.required:
        return "required"
    if found := DEFAULT.search(option.help or ""):
        return found[1]
    if isinstance(option.show_default, str):
        return option.show_default
    value = option.get_default(click.Context(main))
    if option.is_flag:
        return (option.opts if value is True else option.secondary_opts or ["no"])[0]
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if isinstance(value, (str, int, Path)) else ""


def _option_help(option: click.Option) -> str:
    parts = [_plain(DEFAULT.sub("", option.help or ""))]
    if isinstance(option.type, click.Choice):
        parts.append("One of " + ", ".join(f"`{c}`" for c in option.type.choices) + ".")
    limits = option.type._describe_range() if hasattr(option.type, "_describe_range") else ""
    if limits:
        parts.append(f"Limits: `{limits}`.")
    if option.multiple:
        parts.append("May be repeated.")
    return "<br>".join(filter(None, parts))


def _plain(text: str) -> str:
    """Text of a help with the names of options, columns and files as code."""
    parts = CODE.split(text)
    return " ".join("".join(
        f"`{part.strip('`')}`" if i % 2 else re.sub(r"([|<>*_`$\[\]])", r"\\\1", part)
        for i, part in enumerate(parts)).split())


def summary_of(verb: str) -> str:
    """Return the first paragraph of a verb's help."""
    return _plain(_help_of(command_of(verb))[0])


# --------------------------------------------------------------------------------------- all
def pages(docs: Path) -> Iterator[tuple[Path, str]]:
    """Yield every generated page: path and text."""
    classes = protocols()
    users: dict[str, dict[str, str]] = {verb: {} for verb in VERBS}
    for name, cls in classes.items():
        yield docs / "protocols" / f"{name}.md", protocol_page(name, cls, docs)
        for verb in verbs_of(cls):
            users[verb][name] = cls._label
    yield docs / "protocols" / "list.md", _protocol_list(classes)
    for verb in VERBS:
        yield docs / "verbs" / f"{verb}.md", verb_page(verb, users[verb])
    yield docs / "verbs" / "list.md", _verb_list()


def _protocol_list(classes: dict[str, type]) -> str:
    rows = [(f"[{cls._label}]({name}.md)", _first_sentence(inspect.getdoc(cls) or ""),
             "<br>".join(outputs_of(cls))) for name, cls in classes.items()]
    return ("# All protocols\n\n" + _table(("protocol", "does", "outputs"), rows)
            + _toctree(list(classes)))


def _verb_list() -> str:
    rows = [(f"[`{verb}`]({verb}.md)", summary_of(verb)) for verb in VERBS]
    return "# All verbs\n\n" + _table(("verb", "does"), rows) + _toctree(list(VERBS))


def _toctree(names: list[str]) -> str:
    return "\n```{toctree}\n:hidden:\n\n" + "\n".join(names) + "\n```\n"


def _first_sentence(text: str) -> str:
    first = " ".join(inspect.cleandoc(text).split("\n\n")[0].split())
    return _cell(re.split(r"(?<=\.)\s", first)[0])


def write(docs: Path) -> None:
    """Write all generated pages under `docs`; remove those of what no longer exists."""
    folder = os.getcwd()
    made = dict(pages(docs))
    os.chdir(folder)
    for path, text in made.items():
        path.parent.mkdir(exist_ok=True)
        if not path.is_file() or path.read_text() != text:  # else Sphinx would read it again
            path.write_text(text)
    for sub in ("protocols", "verbs"):
        for path in (docs / sub).glob("*.md"):
            if path not in made:
                path.unlink()


if __name__ == "__main__":
    write(Path(sys.argv[1]).resolve())
