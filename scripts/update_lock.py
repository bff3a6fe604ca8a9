"""Resolve pyproject.toml with uv and write requirements/*.txt. Run by scripts/update_lock."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "requirements"
OLDEST = re.compile(r'^requires-python = ">=([\d.]+)"$', re.MULTILINE)
NAME = re.compile(r"^([a-z0-9][a-z0-9-]*)(?=[=\[])")
HEAD = "# Written by scripts/update_lock from pyproject.toml; do not edit.\n"

# File → (comment, uv options whose packages it holds beyond those of the files before it).
SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "build": ("The installer, and what builds llama.cpp and TurboPilot.", ("--group", "build")),
    "run": ("TurboPilot without extras.", ("pyproject.toml",)),
    "verify": ("The extra `verify`, without PyTorch.", ("--extra", "verify", "pyproject.toml")),
    "dev": ("The extra `dev`.", ("--extra", "dev", "pyproject.toml")),
    "docs": ("The extra `docs`.", ("--extra", "docs", "pyproject.toml")),
    "cluster": ("The extra `cluster`.", ("--extra", "cluster", "pyproject.toml")),
}
# Sets that are not installed together: each has all packages beyond those of the files before them.
LEAVES = ("docs", "cluster")
CUDA = re.compile(r"(cuda|nvidia)-|triton$")
CUDA_COMMENT = (
    "CUDA for PyTorch's GPU build; installed only if the installed build of PyTorch requires it."
)
TORCH_COMMENT = """\
# PyTorch has a version but no hash: one version has many builds (CUDA, CPU, ROCm, a distribution's own), each with
# other hashes, and PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS select among them. With a hash of one build, pip would ignore
# the index that the user named and download that build. What PyTorch requires is hashed, in verify.txt and cuda.txt.
"""

Blocks = dict[str, list[str]]  # package → its entries: one for each range of Python versions


def blocks(text: str) -> Blocks:
    """Split a requirements file into the entries of each package, with their hashes."""
    found: Blocks = {}
    for line in text.splitlines(keepends=True):
        match = NAME.match(line)
        if match:
            name = match[1]
            found.setdefault(name, []).append(line)
        elif line.startswith("    --hash"):
            found[name][-1] += line
    return found


def pins(entries: Blocks) -> str:
    """Return the entries without their hashes."""
    lines = (entry.partition(" \\\n")[0].strip() for name in entries for entry in entries[name])
    return "".join(f"{line}\n" for line in lines)


class Resolver:
    """Runs `uv pip compile` for all platforms."""

    def __init__(self, uv: str, folder: Path) -> None:
        (oldest,) = OLDEST.findall((ROOT / "pyproject.toml").read_text("utf-8"))
        self.command = [uv, "pip", "compile", "--quiet", "--universal", "--no-header"]
        self.command += ["--no-annotate", "--python-version", oldest]
        self.folder = folder

    def __call__(self, preferred: Blocks, *options: str) -> Blocks:
        """Resolve; versions in `preferred` are kept unless the options exclude them."""
        output = self.folder / "output.txt"
        output.write_text(pins(preferred), "utf-8")
        subprocess.run([*self.command, "--output-file", output, *options], cwd=ROOT, check=True)
        return blocks(output.read_text("utf-8"))


def write(name: str, comment: str, entries: Blocks) -> None:
    text = "".join(entry for package in sorted(entries) for entry in entries[package])
    (FOLDER / f"{name}.txt").write_text(f"{HEAD}{comment}{text}", "utf-8")


def locked(*names: str) -> Blocks:
    """Return the entries of existing files of requirements/."""
    files = [FOLDER / f"{name}.txt" for name in names]
    return blocks("".join(file.read_text("utf-8") for file in files if file.is_file()))


def update(resolve: Resolver, options: list[str]) -> None:
    # One resolution for all sets that share an environment, so that they agree on every version.
    known = locked(*SETS, "torch", "cuda")
    everything = (*SETS["build"][1], "--all-extras", "pyproject.toml")
    full = resolve(known, *everything, "--generate-hashes", *options)
    written: set[str] = set()
    for name, (comment, sources) in SETS.items():
        names = set(
            resolve(full, *sources, "--offline")
        )  # from uv's cache: all of it was just fetched
        special = {package for package in names if package == "torch" or CUDA.match(package)}
        own = names - written - special
        write(name, f"# {comment}\n", {package: full[package] for package in own})
        if name not in LEAVES:
            written |= own
    cuda = {package: full[package] for package in full if CUDA.match(package)}
    write("cuda", f"# {CUDA_COMMENT}\n", cuda)
    write(
        "torch", TORCH_COMMENT, {"torch": pins({"torch": full["torch"]}).splitlines(keepends=True)}
    )
    for name, comment, sources in (
        ("tools", "Scripts that have an environment of their own.", ("--group", "tools")),
        ("clients", "PyPI clients of scripts/test_clients.", ("--group", "clients")),
        ("editors", "Neovim of scripts/test_editors.", ("--group", "editors")),
        ("page", "Playwright of scripts/test_page.", ("--group", "page")),
    ):
        write(
            name, f"# {comment}\n", resolve(locked(name), *sources, "--generate-hashes", *options)
        )


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        update(Resolver(sys.argv[1], Path(folder)), sys.argv[2:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
