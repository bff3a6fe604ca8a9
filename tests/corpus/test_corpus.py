"""Bundled code: every excerpt has a source and a licence, the two parts share no text, prefixes mix languages."""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from pathlib import Path

import pytest

import turbopilot.corpus
from turbopilot.corpus import LANGUAGES, Excerpt, calibration_text, evaluation_text, excerpts
from turbopilot.verify.texts import code_samples

FOLDER = Path(turbopilot.corpus.__file__).parent
ROOT = Path(__file__).parents[2]
ALLOWED = {
    "MIT", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "ISC", "PSF-2.0", "Zlib", "Unlicense", "CC0-1.0", "BSL-1.0",
}  # fmt: skip
ROW = re.compile(
    r"\| (?P<language>\w+) \| (?P<project>\S+) \| (?P<version>\S+) \| `(?P<path>[^`]+)` \| (?P<lines>\d+-\d+) "
    r"\| (?P<licence>\S+) \| (?P<holder>.+) \|"
)
# Private keys, AWS, GitHub, Slack and OpenAI tokens, JWTs, hashes and long base64.
SECRET = re.compile(
    r"-----BEGIN|AKIA[0-9A-Z]{12}|gh[pousr]_\w{20}|xox[bap]-\w{8}|\bsk-\w{20}|\beyJ[\w-]{20}"
    r"|\b[0-9a-f]{40}\b|[A-Za-z0-9+/]{64}"
)
MAIL = re.compile(r"[\w.+-]+@[\w-]+\.[a-z]{2,}", re.IGNORECASE)

CALIBRATION = excerpts("calibration")
HELD_OUT = excerpts("held_out")
BOTH = (*CALIBRATION, *HELD_OUT)


def name(e: Excerpt) -> str:
    return f"{e.language} {e.project} {e.path} {e.lines}"


def rows(title: str) -> list[dict[str, str]]:
    sections = (FOLDER / "SOURCES.md").read_text("utf-8").split("\n## ")
    section = next(s for s in sections if s.startswith(title))
    return [m.groupdict() for line in section.split("\n") if (m := ROW.fullmatch(line))]


@pytest.mark.parametrize(
    ("title", "found"), [("Calibration text", CALIBRATION), ("Held-out text", HELD_OUT)]
)
def test_sources_list_every_excerpt(title: str, found: tuple[Excerpt, ...]) -> None:
    listed = [f"{r['language']} {r['project']} {r['path']} {r['lines']}" for r in rows(title)]
    assert sorted(listed) == sorted(map(name, found))
    assert max(Counter(listed).values()) == 1


def test_licences_are_permissive_with_notices() -> None:
    licences = (FOLDER / "LICENSES.md").read_text("utf-8")
    for row in rows("Calibration text") + rows("Held-out text"):
        assert row["licence"] in ALLOWED, row
        assert row["holder"].strip(), row
        assert f"**{row['project']}** {row['version']}: " in licences, row
        if row["licence"] != "Apache-2.0":  # the other licences require the notice in the file
            assert all(h in licences for h in row["holder"].split("; ")), row
    for text in (
        "Permission is hereby granted, free of charge", "Redistributions in binary form must reproduce",
        "END OF TERMS AND CONDITIONS", "Permission to use, copy, modify, and distribute",
        "PYTHON SOFTWARE FOUNDATION LICENSE", "altered source versions must be plainly marked",
    ):  # fmt: skip
        assert text.lower() in licences.lower()


def test_no_project_is_in_both_parts() -> None:
    assert not {e.project for e in CALIBRATION} & {e.project for e in HELD_OUT}


def runs(text: str, length: int) -> set[tuple[str, ...]]:
    """Return all runs of significant lines, without short lines such as a closing brace or `else:`."""
    lines = [line.strip() for line in text.split("\n")]
    telling = [line for line in lines if len(line) > 8]
    return {tuple(telling[i : i + length]) for i in range(len(telling) - length + 1)}


def test_calibration_and_evaluation_texts_share_no_eight_lines() -> None:
    assert not runs(calibration_text(), 8) & runs(evaluation_text(), 8)


def test_no_excerpt_is_in_the_verify_texts() -> None:
    ours = runs(calibration_text(), 5) | runs(evaluation_text(), 5)
    assert len(code_samples()) > 10
    for sample, text in code_samples().items():
        assert not runs(text, 5) & ours, sample


def test_text_and_excerpt_sizes() -> None:
    assert 500_000 <= len(calibration_text().encode()) <= 700_000
    assert 90_000 <= len(evaluation_text().encode()) <= 130_000
    for e in BOTH:
        assert 500 <= len(e.text.encode()) <= 8_192, name(e)


def test_common_languages_have_most_text() -> None:
    size = Counter[str]()
    for e in CALIBRATION:
        size[e.language] += len(e.text)
    common = {"python", "javascript", "typescript", "java", "c", "cpp", "go", "rust"}
    assert set(LANGUAGES) == set(size)
    assert {language for language, _ in size.most_common(8)} == common
    assert len({e.language for e in HELD_OUT}) >= 0.9 * len(LANGUAGES)
    assert {e.language for e in HELD_OUT} <= set(LANGUAGES)


def test_each_common_language_has_several_projects() -> None:
    for language in ("python", "javascript", "typescript", "java", "c", "cpp", "go", "rust"):
        assert len({e.project for e in CALIBRATION if e.language == language}) >= 8


def test_texts_are_deterministic() -> None:
    assert calibration_text() == calibration_text()
    assert evaluation_text() == evaluation_text()
    for text, found in ((calibration_text(), CALIBRATION), (evaluation_text(), HELD_OUT)):
        assert sorted(text) == sorted("\n".join(e.text for e in found))


@pytest.mark.parametrize("kilobytes", [150, 200, 300, 450])
def test_prefix_of_the_calibration_text_has_every_language(kilobytes: int) -> None:
    beginning = calibration_text()[: kilobytes * 1000]
    share = Counter[str]()
    for e in CALIBRATION:
        if e.text in beginning:
            share[e.language] += len(e.text)
    assert len(share) >= 0.8 * len(LANGUAGES)
    whole = sum(len(e.text) for e in CALIBRATION)
    python = sum(len(e.text) for e in CALIBRATION if e.language == "python")
    assert share["python"] / sum(share.values()) == pytest.approx(python / whole, abs=0.05)


@pytest.mark.parametrize("language", LANGUAGES)
def test_excerpts_are_clean(language: str) -> None:
    for e in (e for e in BOTH if e.language == language):
        lines = e.text.split("\n")
        assert lines[0].strip(), name(e)
        assert lines[-2].strip(), name(e)
        assert e.text.endswith("\n"), name(e)
        assert not re.search(r"[^\t\n -~\u00a0-\U0010ffff]", e.text), name(e)
        assert max(map(len, lines)) <= 400, name(e)
        assert not [line for line in lines if line != line.rstrip()], name(e)
        assert not SECRET.search(e.text), name(e)
        assert not MAIL.search(e.text), name(e)
        assert "<fim" not in e.text.lower(), name(e)
        assert not re.search(r"General Public License|SPDX-License|Licensed under", e.text), name(e)


def test_files_have_lf_line_ends() -> None:
    files = sorted(FOLDER.glob("*/*.txt"))
    assert len(files) > len(LANGUAGES)
    for f in files:
        data = f.read_bytes()
        assert b"\r" not in data
        assert data.startswith(b"\f ")
        data.decode("utf-8")
    assert "turbopilot/corpus/*/*.txt -text" in (ROOT / ".gitattributes").read_text()


def test_package_data_lists_every_file() -> None:
    settings = (ROOT / "pyproject.toml").read_text("utf-8")
    line = next(line for line in settings.split("\n") if line.startswith('"turbopilot.corpus" ='))
    globs = re.findall(r'"([^"]+)"', line.split("=")[1])
    for f in FOLDER.rglob("*"):
        if f.is_file() and f.suffix in (".txt", ".md"):
            path = f.relative_to(FOLDER).as_posix()
            assert any(fnmatch.fnmatch(path, g) for g in globs), path
