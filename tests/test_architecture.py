"""The arrows of docs/architecture.md: who imports whom, and that there is no circle."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    "gam_model": ROOT / "gam_model/src/gam_model",
    "explainers": ROOT / "explainers/src/explainers",
    "program_toolkit": ROOT / "container/toolkit/src/program_toolkit",
    "model_server": ROOT / "container/server/src/model_server",
    "code": ROOT / "code",
    "local_mode": ROOT / "local_mode",
}
MAY_KNOW = {
    "gam_model": set(),
    "explainers": set(),
    "program_toolkit": set(),
    "model_server": set(),
    "code": {"gam_model", "explainers", "program_toolkit"},
    # For the page in front of an endpoint, and for a row of a file to send to one.
    "local_mode": {"gam_model", "program_toolkit"},
}
PROGRAMS = {path.stem for path in (ROOT / "code").glob("*.py")}
CLOUD = {"boto3", "botocore", "sagemaker", "sagemaker_training", "s3fs"}


def imports(path: Path, at_start: bool = False) -> Iterator[str]:
    """Yield the modules that a file imports, those for types left out; or at its start alone."""

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if for_types or (at_start and isinstance(node, ast.FunctionDef)):
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    return visit(ast.parse(path.read_text()))


def files(name: str) -> list[Path]:
    found = sorted(SOURCES[name].glob("*.py"))
    assert found, name
    return found


def name_of(name: str, path: Path) -> str:
    """Return by which name a file is imported."""
    if name == "code":
        return path.stem
    return name if path.stem == "__init__" else f"{name}.{path.stem}"


OURS = {name_of(name, path): name for name in SOURCES for path in files(name)}


@pytest.mark.parametrize("name", SOURCES)
def test_nobody_knows_more_than_it_may(name):
    for path in files(name):
        known = {OURS[module] for module in imports(path) if module in OURS} - {name}
        assert known <= MAY_KNOW[name], path


@pytest.mark.parametrize("name", SOURCES)
def test_imports_make_no_circle(name):
    graph = {
        name_of(name, path): {m for m in imports(path, at_start=True) if OURS.get(m) == name}
        - {name, name_of(name, path)}
        for path in files(name)
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", ["gam_model", "explainers"])
def test_models_know_nothing_of_the_cloud(name):
    for path in files(name):
        roots = {module.partition(".")[0] for module in imports(path)}
        assert not roots & CLOUD, path


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_programs_do_not_know_each_other(program):
    assert not set(imports(ROOT / "code" / f"{program}.py")) & (PROGRAMS - {program})


def test_the_page_names_what_there_is():
    """A file by its package, or by its name alone where the line has named the package."""
    named, package = 0, ""
    for line in (ROOT / "docs/architecture.md").read_text().splitlines():
        for folder, file in re.findall(r"`(?:(\w+)/)?([a-z0-9_]+\.py)`", line):
            package = folder or package
            assert (SOURCES.get(package, ROOT / package) / file).exists(), line
            named += 1
    assert named > 15


def test_what_the_page_names_in_a_file_is_there():
    text = (ROOT / "docs/architecture.md").read_text()
    questions = text.partition("## Where would I")[2].splitlines()
    assert sum(line.startswith(("| find", "| add", "| have")) for line in questions) >= 15
    package, checked = "", 0
    for folder, file, symbol in re.findall(
        r"`(?:(\w+)/)?([a-z0-9_]+\.py)`(?:, `([\w.]+)`)?", "\n".join(questions)
    ):
        package = folder or package
        source = (SOURCES.get(package, ROOT / package) / file).read_text()
        for name in filter(None, symbol.split(".")):
            assert re.search(rf"(class|def) {name}\b|\bself\.{name}\b", source), (file, symbol)
            checked += 1
    assert checked > 8
