"""The documentation site: every page is in its contents, and every link leads somewhere."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site():
    return runpy.run_path(str(ROOT / "docs/conf.py"))


def test_every_page_is_in_the_contents(site):
    contents = re.findall(r"^[a-z-]+/[\w-]+$", (ROOT / "docs/index.md").read_text(), re.MULTILINE)
    assert ["index", *contents] == list(site["PAGES"])


def test_links_between_pages_lead_to_pages(site):
    n_links = 0
    for page in site["SOURCE"].rglob("*.md"):
        for link in re.findall(r"\]\(([^)\s:]+)\)", page.read_text()):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.is_file(), f"{page}: {link}"
            if anchor:
                titles = re.findall(r"^#+ (.*)", target.read_text(), re.MULTILINE)
                anchors = {
                    re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles
                }
                assert anchor in anchors, f"{page}: {link}"
            n_links += 1
    assert n_links > 20


def test_every_documented_page_is_on_the_site(site):
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")}
    assert pages <= set(site["PAGES"].values())
