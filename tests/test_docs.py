"""What the documentation says is so: commands run, links lead somewhere, messages exist."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from scipion_faml.cli import VERBS, main

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
GENERATED = {"protocols", "verbs", "_build", "notes"}
PAGES = [path for path in sorted(DOCS.rglob("*.md"))
         if path.relative_to(DOCS).parts[0] not in GENERATED]

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="needs the repository")


def tool(name):
    """A module of tools/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


doc_commands = tool("doc_commands")
COMMANDS = sorted({
    (path.name, line)
    for path in [*PAGES, ROOT / "README.md"]
    for language in ("sh", "console", "")
    for line in re.findall(
        r"^ *(?:\$ )?(?:\.venv/bin/)?(scipion-faml [a-z][^\n#|]*)",
        "\n".join(doc_commands.blocks(path, language)).replace("\\\n", " "), re.MULTILINE)
})


# ------------------------------------------------------------------------------------- pages
@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda path: path.name)
def test_relative_links_lead_to_files(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda text: text[:60])
def test_a_command_in_a_page_has_options_that_exist(page, command):
    _, verb, *words = command.split()
    assert verb in VERBS or verb in {"VERB"}, f"{page}: {verb}"
    if verb == "VERB":
        return
    known = main.get_command(click.Context(main), verb)
    options = {o for p in known.params if isinstance(p, click.Option)
               for o in [*p.opts, *p.secondary_opts]} | {"--help"}
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in options, f"{page}: {verb} {word}"


def test_the_pages_commands_are_found():
    assert len(COMMANDS) > 10


# ---------------------------------------------------------------------------------- tutorial
@pytest.mark.slow
def test_the_tutorial_says_what_its_commands_print(tmp_path):
    page = DOCS / "tutorial.md"
    printed = "\n".join(doc_commands.run_all(page, tmp_path).values())
    for line in "".join(doc_commands.blocks(page, "text")).splitlines():
        key, value = line.split(maxsplit=1)
        found = [text.split(maxsplit=1)[1] for text in printed.splitlines()
                 if text.split(maxsplit=1)[0:1] == [key]]
        assert found, f"no command prints {key}"
        if re.fullmatch(r"[\d.]+", value):  # another machine may differ in the last digits
            numbers = [float(text) for text in found]
            assert any(n == pytest.approx(float(value), rel=0.1) for n in numbers), (line, found)
    for name in ("groel", "ribosome"):
        assert (tmp_path / f"{name}.mrc").is_file()


# ---------------------------------------------------------------------------------- messages
def messages_of_the_code():
    """Every text in the code, with NUL where a value is put in."""
    texts = []
    for folder in ("scipion_faml", "protocols", "viewers", "cython_ext"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    texts.append("".join(
                        str(v.value) if isinstance(v, ast.Constant) else "\0"
                        for v in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    texts.append((ROOT / "tools" / "bootstrap.sh").read_text())
    return [" ".join(text.split()) for text in texts]


FAQ = DOCS / "faq.md"
QUOTED = re.findall(r"^### `(.+)`$", FAQ.read_text(), re.MULTILINE) if FAQ.is_file() else []


def test_the_faq_quotes_messages():
    assert len(QUOTED) >= 25


def test_messages_that_the_faq_quotes_are_in_the_code():
    texts = messages_of_the_code()
    gone = []
    for message in QUOTED:
        # Values are written as … in the page; what lies between them must be in one text.
        pieces = [piece.strip() for piece in message.split("…") if piece.strip()]
        pattern = re.compile(".*".join(map(re.escape, pieces)), re.DOTALL)
        if not any(pattern.search(text) for text in texts):
            gone.append(message)
    assert not gone


# ------------------------------------------------------------------------------------ Python
def test_the_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(doc_commands.blocks(DOCS / "api" / "index.md", "python"))
    assert "scipion_faml" in code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "correlation" in done.stdout


def test_modules_of_the_reference_exist():
    names = [name for page in (DOCS / "api").glob("*.md")
             for name in re.findall(r"automodule:: (\S+)", page.read_text())]
    assert len(names) > 30
    assert not [name for name in names if importlib.util.find_spec(name) is None]


# ---------------------------------------------------------------------------------- facility
@pytest.mark.slow
def test_the_facilitys_script_runs(tmp_path):
    (script,) = doc_commands.blocks(DOCS / "facility.md", "bash")
    (tmp_path / "pipeline.sh").write_text(script)
    shell = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}

    def run(*words):
        return subprocess.run(words, cwd=tmp_path, env=shell, capture_output=True, text=True)

    made = run("scipion-faml", "simulate-tomogram", "--model", "ribosome", "--count", "12",
               "--shape", "112,112,48", "--voxel-size", "13.7", "--output", "in")
    assert made.returncode == 0, made.stderr
    for _ in range(2):  # the second time everything is there
        done = run("bash", "pipeline.sh", "in/tomogram.mrc", "out")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "classes" / "class_001.mrc").is_file()
    missing = run("bash", "pipeline.sh", "none.mrc", "other")
    assert missing.returncode == 2 and "none.mrc" in missing.stderr


# -------------------------------------------------------------------------------------- site
@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(DOCS), str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "protocols" / "ProtFamlClassify.html").is_file()
