"""requirements/ holds every package that pyproject.toml names, with hashes, and the scripts install nothing else."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from update_lock import LEAVES, SETS, blocks, locked, pins  # noqa: E402

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
FILES = sorted((ROOT / "requirements").glob("*.txt"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
GROUPS = PROJECT["dependency-groups"]
# Requirements of pyproject.toml → the files of requirements/ that are installed for them.
INSTALLED = {
    "run": (PROJECT["project"]["dependencies"], ("build", "run")),
    "verify": (EXTRAS["verify"], ("build", "run", "verify", "torch")),
    "brotli": (EXTRAS["brotli"], ("build", "run", "verify", "dev")),
    "trial": (EXTRAS["trial"], ("build", "run", "verify")),
    "dev": (EXTRAS["dev"], ("build", "run", "verify", "dev")),
    "docs": (EXTRAS["docs"], ("build", "run", "verify", "dev", "docs")),
    "build": (GROUPS["build"], ("build",)),
    "tools": (GROUPS["tools"], ("tools",)),
    "clients": (GROUPS["clients"], ("clients",)),
    "editors": (GROUPS["editors"], ("editors",)),
}


@pytest.mark.parametrize("name", INSTALLED)
def test_locked_versions_satisfy_pyproject(name: str) -> None:
    required, files = INSTALLED[name]
    entries = locked(*files)
    for text in required:
        wanted = Requirement(text)
        found = entries.get(canonicalize_name(wanted.name), [])
        assert found, f"{wanted.name} is not in requirements/: run scripts/update_lock"
        for entry in found:
            (pin,) = Requirement(entry.partition("\\")[0].strip()).specifier
            assert pin.operator == "=="
            assert wanted.specifier.contains(pin.version), f"{text}: run scripts/update_lock"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_all_packages_except_torch_have_hashes(path: Path) -> None:
    entries = blocks(path.read_text("utf-8"))
    assert entries
    bare = [name for name in entries for entry in entries[name] if "--hash=sha256:" not in entry]
    assert bare == (["torch"] if path.name == "torch.txt" else [])


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_lock_names_no_host(path: Path) -> None:
    """Leave the choice of an index to the user."""
    assert not re.search(r"://|index-url|find-links", path.read_text("utf-8"))


@pytest.mark.parametrize("leaf", LEAVES)
def test_files_of_one_environment_share_no_package(leaf: str) -> None:
    files = (*(s for s in SETS if s not in LEAVES), leaf, "torch", "cuda")
    names = [name for file in files for name in locked(file)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "path",
    [p for p in (ROOT / "scripts").rglob("*") if p.is_file() and p.suffix in ("", ".sh")],
    ids=lambda p: p.name,
)
def test_scripts_install_with_hashes(path: Path) -> None:
    """Allow two exceptions: PyTorch, and this project, which has no dependencies to fetch with --no-deps."""
    text = path.read_text("utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line.startswith(("#", "pip_install() {")) or not re.search(r"pip[ _]install\b", line):
            continue
        ours = "--editable" in line or line.endswith(" .")
        torch_or_ours = "--no-deps" in line and ("torch.txt" in line or ours)
        assert "--require-hashes" in line or torch_or_ours, line


def test_entries_of_one_package_stay_together() -> None:
    text = (
        "# comment\n"
        "a==1 ; python_full_version < '3.11' \\\n    --hash=sha256:0 \\\n    --hash=sha256:1\n"
        "a==2 \\\n    --hash=sha256:2\n"
        "b-c[x]==3\n"
    )
    found = blocks(text)
    assert list(found) == ["a", "b-c"]
    assert len(found["a"]) == 2
    assert found["a"][0].endswith("--hash=sha256:1\n")
    assert pins(found) == "a==1 ; python_full_version < '3.11'\na==2\nb-c[x]==3\n"
