"""Check the documents: links between them, and the commands in fenced blocks that are marked as checked.

    scripts/check_docs                 # README.md, docs/ and the other documents
    scripts/check_docs docs/serve.md   # the commands of this page

Bash runs a block ```` ```sh checked ```` after the other checked blocks of its page, in one folder that is empty
at first, with `turbopilot` on the PATH. It runs a block ```` ```sh checked server ```` while `turbopilot serve`
serves the bundled model; 127.0.0.1:18080 in it stands for that server's address. Every command must succeed.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT = 300  # seconds for one block; the slowest verifies the bundled model
ADDRESS = "127.0.0.1:18080"
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=indent)```$", re.M | re.S
)
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")


class DocsError(Exception):
    """A broken link or a command that failed."""


@dataclass(frozen=True)
class CheckedBlock:
    """Commands of a page that are run.

    Attributes:
        line: of the page, for messages.
        needs_server: they are run while the bundled model is served.
    """

    line: int
    commands: str
    needs_server: bool


def documents() -> list[Path]:
    """Return all Markdown files of the repository that people read."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / name for name in listed.stdout.splitlines() if not name.startswith("tests/")]


def blocks(page: str) -> Iterator[CheckedBlock]:
    """Yield the checked blocks of a page's text, in order."""
    for found in _FENCE.finditer(page):
        language, *marks = found["info"].split() or [""]
        if "checked" in marks:
            if language != "sh" or set(marks) - {"checked", "server"}:
                raise DocsError(f"```{found['info']}: only `sh checked [server]` is known")
            line = page.count("\n", 0, found.start()) + 1
            yield CheckedBlock(line, found["body"], "server" in marks)


def broken_links(file: Path) -> Iterator[str]:
    """Yield the relative links of a document whose file or heading does not exist."""
    text = _FENCE.sub("", file.read_text("utf-8"))
    for found in _LINK.finditer(text):
        target = found["target"]
        if re.match(r"[a-z]+:", target):
            continue  # another site: nothing is fetched here
        path, _, anchor = target.partition("#")
        linked = (file.parent / path).resolve() if path else file
        if not linked.exists():
            yield f"{target}: no such file"
        elif anchor and anchor not in anchors(linked.read_text("utf-8")):
            yield f"{target}: no such heading"


def anchors(page: str) -> set[str]:
    """Return the anchors that code hosts and MkDocs give a page's headings.

    >>> sorted(anchors("# A `b`-c, d!"))
    ['a-b-c-d']
    """
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", page), re.M)
    plain = (re.sub(r"[^\w\- ]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", h)) for h in headings)
    return {h.strip().lower().replace(" ", "-") for h in plain}


def run_blocks(file: Path) -> int:
    """Run the checked blocks of a document, and return how many there are.

    Raises:
        DocsError: a command failed; its page, line and output.
    """
    found = list(blocks(file.read_text("utf-8")))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        address = ""
        for block in found:
            if block.needs_server and not address:
                address = stack.enter_context(_served())
            commands = block.commands.replace(ADDRESS, address or ADDRESS)
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", commands], cwd=folder, env=_environment(),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                timeout=LIMIT, check=False,
            )  # fmt: skip
            if done.returncode:
                place = f"{file.relative_to(ROOT)}:{block.line}"
                raise DocsError(
                    f"{place}: exit code {done.returncode}\n{block.commands}{done.stdout}"
                )
    return len(found)


def _environment() -> dict[str, str]:
    """Return the environment of a command: this Python's programs first, and no network."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "COLUMNS": "80"}


@contextlib.contextmanager
def _served() -> Iterator[str]:
    """Serve the bundled model, and yield the server's host and port."""
    command = [sys.executable, "-m", "turbopilot", "serve", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=_environment(), cwd=ROOT
    ) as server:  # fmt: skip
        try:
            assert server.stdout
            printed = []
            for line in server.stdout:
                printed.append(line)
                if found := re.search(r"http://(127\.0\.0\.1:\d+)", line):
                    yield found[1]
                    return
            raise DocsError(f"{' '.join(command)}:\n{''.join(printed)}")
        finally:
            server.terminate()


def main() -> None:
    """Check all documents, or run the blocks of those named."""
    named = [Path(name).resolve() for name in sys.argv[1:]]
    errors = []
    for file in named or documents():
        errors += [f"{file.relative_to(ROOT)}: {link}" for link in broken_links(file)]
        try:
            n = run_blocks(file)
        except (DocsError, subprocess.TimeoutExpired) as e:
            errors.append(str(e))
        else:
            if n:
                print(f"{file.relative_to(ROOT)}: {n} blocks", flush=True)
    if errors:
        sys.exit("\n".join(errors))


if __name__ == "__main__":
    main()
