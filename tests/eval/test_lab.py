"""The research log: every page is in the index, and every link leads somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAB = ROOT / "lab"
PAGES = sorted(path.name for path in LAB.glob("[0-9]*.md"))


def test_the_index_has_each_page_once_with_its_question_newest_first():
    index = (LAB / "README.md").read_text()
    rows = re.findall(r"^\| \[([^]]+)\]\((\d\d-[a-z-]+\.md)\) \|", index, re.MULTILINE)
    assert [name for _, name in rows] == PAGES[::-1]
    for question, name in rows:
        assert (LAB / name).read_text().startswith(f"# {question}\n")


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *LAB.rglob("*.md")], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)[^)]*\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_cards_and_docs_name_pages_that_are_there():
    for page in (*ROOT.glob("docs/*.md"), *ROOT.glob("hrnn_opt/pretrained/*.md")):
        for target in re.findall(r"`(lab/[^`]+)`", page.read_text()):
            assert (ROOT / target).exists(), f"{page.name}: {target}"
