"""The traps of the literal folders (docs/decisions/0001): what would hide or lose a subpackage."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import scipion_faml

ROOT = Path(__file__).resolve().parents[1]
MAPPED = ("protocols", "viewers", "cython_ext")

pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").is_file(), reason="needs the repository, not an installed package"
)


def setup_arguments() -> dict[str, ast.expr]:
    """The keyword arguments of the setup() call, unevaluated."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup":
            return {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    raise AssertionError("setup.py has no setup() call")


def kernel_names() -> list[str]:
    tree = ast.parse((ROOT / "setup.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "KERNELS":
            return list(ast.literal_eval(node.value))
    raise AssertionError("setup.py has no KERNELS")


@pytest.mark.parametrize("name", MAPPED)
def test_no_folder_inside_the_package_hides_a_mapped_one(name):
    # Python would import scipion_faml/protocols and never look at the mapping.
    inside = Path(scipion_faml.__file__).parent / name
    if inside.resolve() == (ROOT / "scipion_faml" / name).resolve():
        assert not inside.exists()


@pytest.mark.parametrize("name", MAPPED)
def test_mapped_packages_are_found_in_the_folders_of_the_repository(name):
    spec = importlib.util.find_spec(f"scipion_faml.{name}")
    assert spec is not None and spec.origin is not None
    is_editable = Path(scipion_faml.__file__).resolve().is_relative_to(ROOT)
    if is_editable:
        assert Path(spec.origin).resolve().parent == ROOT / name


def test_every_package_folder_is_listed_in_setup_py():
    packages = set(ast.literal_eval(setup_arguments()["packages"]))
    inner = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "scipion_faml").rglob("__init__.py")
    }
    assert packages == inner | {f"scipion_faml.{name}" for name in MAPPED}


def test_setup_py_maps_the_three_folders_and_nothing_else_on_top():
    mapping = ast.literal_eval(setup_arguments()["package_dir"])
    assert mapping == {
        "scipion_faml": "scipion_faml", **{f"scipion_faml.{name}": name for name in MAPPED}
    }
    # top_level.txt is what pip's RECORD and Scipion's uninstaller go by.
    assert {package.split(".")[0] for package in mapping} == {"scipion_faml"}


def test_every_kernel_source_is_built_and_in_the_source_distribution():
    sources = {path.stem for path in (ROOT / "cython_ext").glob("*.pyx")}
    assert sources == set(kernel_names())
    # Sources of bare Extensions go into the sdist; cythonize() would put the .c there instead.
    calls = [n for n in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
             if isinstance(n, ast.Call)]
    assert "cythonize" not in {getattr(call.func, "id", "") for call in calls}


def test_tests_are_no_package():
    # With an __init__.py they would be imported as tests.*, and the mapped folders be shadowed.
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_files_that_scipion_looks_up_by_name_are_package_data():
    text = (ROOT / "pyproject.toml").read_text()
    package = ROOT / "scipion_faml"
    assert (package / "protocols.conf").is_file() and '"protocols.conf"' in text
    assert (package / scipion_faml._logo).is_file() and '"*.png"' in text


def test_importing_the_package_does_not_import_scipion():
    code = (
        "import sys, scipion_faml, scipion_faml.cli, scipion_faml.scipion_env; "
        "sys.exit(bool({'pwem', 'pyworkflow', 'tomo'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
