"""Imports go down only, and the core runs where Scipion is not installed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from scipion_faml.cli import VERBS

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "scipion_faml"
LAYER = {
    0: ["cython_ext"],
    1: ["types", "texts", "geometry", "volume", "fourier", "wedge", "harmonics", "symmetry",
        "shells", "so3"],
    2: ["whitening", "regularise", "measured", "align", "voronoi", "model", "refine", "dense",
        "phase", "folds", "em", "impose", "picking", "extraction", "grouping", "simulation",
        "evaluation", "plots", "previews"],
    3: ["faml", "estep", "enhanced", "memory", "cluster", "checkpoint", "io", "tables", "sources",
        "mrc", "star", "screening", "paths", "disk", "execution",
        "structures", "datasets", "report", "status", "joining",
        "detector", "template_matching", "exchange",
        "noise_control", "structure_check"],
    4: ["convert", "cli", "__main__"],
    5: ["protocols", "viewers", "wizards", "_plugin", "scipion_env", "demo", "bibtex",
        "objects"],
}
LAYER_OF = {name: layer for layer, names in LAYER.items() for name in names}
# The engine's modules in layer 2, each of which may use those before it.
ENGINE = LAYER[2][: LAYER[2].index("em") + 1]
SIBLINGS = {(upper, lower) for i, upper in enumerate(ENGINE) for lower in ENGINE[:i]}
SCIPION = {"pyworkflow", "pwem", "tomo"}
FILES = {"mrcfile", "pathlib", "starfile"}


def module_files():
    mapped = [(ROOT / name, name) for name in ("protocols", "viewers")]
    for folder, prefix in ((CORE, ""), *mapped):
        for path in sorted(folder.rglob("*.py")):
            top = prefix or path.relative_to(folder).parts[0].removesuffix(".py")
            if top != "__init__":
                yield path, top


def imports(path):
    """Every module imported anywhere in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module == "scipion_faml":
                yield from (f"scipion_faml.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize(("path", "top"), list(module_files()), ids=lambda v: getattr(v, "stem", v))
def test_imports_go_down_only(path, top):
    layer = LAYER_OF[top]
    for name in imports(path):
        if not name.startswith("scipion_faml."):
            continue
        target = name.split(".")[1]
        if target not in LAYER_OF or target == top:
            continue  # a name such as __version__, or a neighbour in the same package
        lower = LAYER_OF[target] < layer
        # Layers 3 to 5 are made of files that work together; 1 too.
        beside = LAYER_OF[target] == layer and (layer != 2 or (top, target) in SIBLINGS)
        # The command line starts the demo, which lives above it, when it is asked for.
        is_demo = path.name == "demo.py" and top == "cli" and target in {"demo", "scipion_env"}
        assert lower or beside or is_demo, f"{path}: layer {layer} imports {name}"


@pytest.mark.parametrize(("path", "top"), list(module_files()), ids=lambda v: getattr(v, "stem", v))
def test_algorithms_touch_no_files_and_the_core_no_scipion(path, top):
    for name in imports(path):
        root = name.split(".")[0]
        if LAYER_OF[top] <= 2:
            assert root not in FILES, f"{path} imports {name}"
        if LAYER_OF[top] <= 3 or top == "cli":
            assert root not in SCIPION, f"{path} imports {name}"


def test_the_core_and_the_command_line_import_without_scipion_and_torch():
    blocked = sorted(SCIPION | {"torch", "dask", "distributed"})
    modules = [
        f"scipion_faml.{top}" for _, top in module_files()
        if LAYER_OF[top] <= 3 and top != "__main__"
    ]
    verbs = sorted(set(VERBS.values()) - {"demo"})
    code = (
        "import sys, importlib\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        f"for name in {sorted(set(modules))!r}: importlib.import_module(name)\n"
        f"for name in {verbs!r}: importlib.import_module('scipion_faml.cli.' + name)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT.parent)
    assert done.returncode == 0, done.stderr
