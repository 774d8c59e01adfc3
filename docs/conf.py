"""The documentation site, see `make docs`.

Each text stands once, where its subject is. This file copies them to Sphinx's source folder, under
the names that they have on the site, and points the links between them to these.
"""

import json
import os
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "build/docs"

# Page of the site -> file of the repository.
PAGES = {
    "index": "docs/index.md",
    "tutorials/gauss3": "example.ipynb",
    "tutorials/credit": "examples/credit.ipynb",
    "tutorials/income": "examples/income.ipynb",
    "tutorials/newsgroups": "examples/newsgroups/newsgroups.ipynb",
    "how-to/own-data": "docs/own-data.md",
    "how-to/own-code": "docs/own-code.md",
    "how-to/own-program": "docs/your-own-program.md",
    "how-to/docker-and-aws": "docs/docker-and-aws.md",
    "how-to/deploy": "docs/deploy.md",
    "how-to/credit": "examples/credit.md",
    "how-to/newsgroups": "examples/newsgroups/README.md",
    "how-to/kubernetes": "deploy/kubernetes/README.md",
    "how-to/permissions": "deploy/iam/README.md",
    "how-to/troubleshooting": "docs/troubleshooting.md",
    "reference/gam_model": "docs/reference/gam_model.md",
    "reference/explainers": "docs/reference/explainers.md",
    "reference/program_toolkit": "docs/reference/program_toolkit.md",
    "reference/server": "container/server/README.md",
    "reference/contract": "docs/contract.md",
    "reference/local": "docs/local.md",
    "reference/changelog": "CHANGELOG.md",
    "explanation/gam": "gam_model/README.md",
    "explanation/mathematics": "docs/mathematics.md",
    "explanation/explainers": "explainers/README.md",
    "explanation/toolkit": "container/toolkit/README.md",
    "explanation/architecture": "docs/architecture.md",
    "explanation/security": "SECURITY.md",
    "explanation/contributing": "CONTRIBUTING.md",
}


def stage() -> None:
    """Copy the pages, with links that hold on the site."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    names = {file: page for page, file in PAGES.items()}
    for page, file in PAGES.items():
        path = ROOT / file
        target = SOURCE / (page + path.suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        executed = ROOT / "build" / path.name
        if path.suffix == ".ipynb":
            notebook = json.loads((executed if executed.exists() else path).read_text())
            for cell in notebook["cells"]:
                if cell["cell_type"] == "markdown":
                    cell["source"] = _relink("".join(cell["source"]), path, page, names)
            target.write_text(json.dumps(notebook))
        else:
            text = _relink(path.read_text(), path, page, names)
            target.write_text(text.replace("```mermaid", "```text"))  # GitHub alone draws it


def _relink(text: str, path: Path, page: str, names: dict[str, str]) -> str:
    """Point links to other pages, and to pictures, and take off those to other files."""

    def relink(match: re.Match) -> str:
        picture, words, link = match[1], match[2], match[3]
        if re.match(r"[a-z]+:|#|<", link):
            return match[0]
        link, _, anchor = link.partition("#")
        linked = Path(os.path.normpath(path.parent / link))
        if linked.is_dir():
            linked /= "README.md"
        if not linked.exists():
            raise FileNotFoundError(f"{path.relative_to(ROOT)} has a link to {link}")
        name = str(linked.relative_to(ROOT))
        if picture:
            shutil.copy(linked, SOURCE / Path(page).parent)
            return f"![{words}]({linked.name})"
        if name in names:
            to = os.path.relpath(names[name], Path(page).parent) + linked.suffix
            return f"[{words}]({to}{'#' + anchor if anchor else ''})"
        return words

    return re.sub(r"(!?)\[([^\]]+)\]\(([^)\s]+)\)", relink, text)


def setup(app) -> None:
    """Leave out scikit-learn's routing methods, whose docstrings point into its own site."""
    routing = re.compile("set_.*_request|get_metadata_routing")
    app.connect("autodoc-skip-member", lambda *args: True if routing.fullmatch(args[2]) else None)


stage()

project = "Explainable models in your own SageMaker container"
copyright = "the contributors"
html_title = "Explainable models"
html_theme = "furo"
extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
exclude_patterns = ["_site"]
nb_execution_mode = "off"  # `make docs` has executed them
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
numpydoc_show_class_members = False
autodoc_default_options = {"members": True, "inherited-members": False}
autodoc_typehints = "none"
