"""The documents: links lead somewhere, generated pages are current, and checked commands succeed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from check_docs import DocsError, blocks, broken_links, documents, run_blocks  # noqa: E402
from write_docs import DOCUMENTS  # noqa: E402

PAGES = [path for path in documents() if "checked" in path.read_text("utf-8")]


@pytest.mark.parametrize("path", documents(), ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path: Path) -> None:
    assert list(broken_links(path)) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_generated_document_is_current(name: str) -> None:
    assert (ROOT / name).read_text("utf-8") == DOCUMENTS[name](), "run scripts/docs"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_checked_commands_of_a_page_succeed(path: Path) -> None:
    assert run_blocks(path) == len(list(blocks(path.read_text("utf-8"))))


def test_broken_links_are_reported(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# Some `heading`, here\n", "utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](missing.md) [c](other.md#some-heading-here) [d](other.md#none) [e](https://x.example/y)\n"
        "```sh\n[f](missing-in-code.md)\n```\n",
        "utf-8",
    )
    assert list(broken_links(page)) == [
        "missing.md: no such file",
        "other.md#none: no such heading",
    ]


def test_failing_command_is_reported_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("check_docs.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n\n```sh checked\necho one > f\n```\n\n```sh checked\ncat f\nfalse\necho two\n```\n",
        "utf-8",
    )
    with pytest.raises(DocsError, match=r"(?s)^page\.md:7: exit code 1\n.*one\n$"):
        run_blocks(page)


def test_unknown_mark_of_a_checked_block_is_refused() -> None:
    with pytest.raises(DocsError, match="only `sh checked"):
        list(blocks("```python checked\nprint()\n```\n"))


def test_readme_fits_on_one_page() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 130


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    missing = [p.name for p in (ROOT / "docs").glob("*.md") if f": {p.name}\n" not in navigation]
    assert missing == []
