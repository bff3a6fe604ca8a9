"""Python source to train on: the standard library and packages with permissive licences; and the held-out modules."""

from __future__ import annotations

import hashlib
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from demo.packages import listed, read_package

# Modules left out of the training: prose-heavy, algorithmic, parsing, networking and class-heavy code.
HELD_OUT = (
    "argparse.py", "asyncio/queues.py", "calendar.py", "concurrent/futures/thread.py", "configparser.py",
    "csv.py", "email/message.py", "fractions.py", "heapq.py", "http/cookiejar.py", "json/decoder.py",
    "logging/handlers.py", "shlex.py", "statistics.py", "tarfile.py", "textwrap.py", "zipfile.py",
)  # fmt: skip

# Tables, test data and generated files.
EXCLUDED = re.compile(
    r"(^|/)(site-packages|lib2to3/tests/data|idlelib/idle_test|__pycache__|test_lib2to3)(/|$)"
    r"|^encodings/(cp|iso|mac|koi|kz|ptcp|hp|tis)|^pydoc_data/topics|_sysconfigdata|/bad|cjkencodings"
    r"|^test/(encoded_modules|test_tools/fixtures|test_import/data)"
)
# The tests of a held-out module quote its behaviour, so they are excluded too.
HELD_OUT_TESTS = re.compile(
    r"^test/(test_asyncio/test_queues|test_json/|test_email/test_message|test_concurrent_futures|test_thread"
    r"|test_(argparse|calendar|configparser|cfgparser|csv|fractions|heapq|http_cookiejar|logging|shlex"
    r"|statistics|tarfile|textwrap|zipfile)\w*(\.py$|/))"
)
GENERATED = re.compile(
    r"DO NOT EDIT|(auto(matically)?[- ]?|this (file|module) (is|was) )generated", re.IGNORECASE
)
LICENSED_OTHERWISE = re.compile(r"GNU (Lesser |Affero )?General Public|Mozilla Public License")

MIN_CHARS, MAX_CHARS = 200, 200_000
MAX_LINE = 400  # characters; longer lines are data
MIN_LETTERS = 0.3  # share of letters; files with fewer are tables
MAX_SHARED = 0.1  # share of lines that a training file may share with the held-out modules
MIN_SHARED_LINE = 24  # characters of a line that counts for MAX_SHARED

# How often a source is repeated. The standard library's tests are three fifths of its bytes and repeat themselves;
# scientific packages are large and have more documentation than code; short functions with a purpose, as in the
# packages of algorithms, are the most like what users first try.
REPEATS = {
    "stdlib/test": 0.25, "stdlib": 3.0, "algorithms": 10.0, "pygorithm": 5.0, "more-itertools": 3.0, "toolz": 3.0,
    "boltons": 2.0, "funcy": 2.0, "humanize": 2.0, "rich": 2.0, "flask": 2.0, "requests": 2.0, "attrs": 2.0,
    "dask": 0.4, "networkx": 0.5, "nltk": 0.5, "numpy": 0.3, "pandas": 0.3, "scikit-learn": 0.2, "statsmodels": 0.2,
    "sympy": 0.3, "xarray": 0.3,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """A package in the corpus, or the standard library, with its licence and the size of what is used of it."""

    name: str
    version: str
    licence: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts by `source/path`; `held_out` has paths relative to the standard library. They share no file."""

    train: dict[str, str]
    held_out: dict[str, str]
    sources: tuple[Source, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of all paths and texts, which identifies the corpus in the model card."""
        h = hashlib.sha256()
        for part in (self.train, self.held_out):
            for name in sorted(part):
                h.update(name.encode() + b"\0" + part[name].encode() + b"\0")
        return h.hexdigest()


def repeats(name: str) -> float:
    """Return how often the text of this name (`source/path`) is repeated."""
    source = name.split("/")[0]
    return REPEATS["stdlib/test"] if name.startswith("stdlib/test/") else REPEATS.get(source, 1.0)


def is_source(text: str) -> bool:
    """Return whether a text looks written by hand: no table, generated file or code under another licence."""
    if not MIN_CHARS <= len(text) <= MAX_CHARS or max(map(len, text.splitlines())) > MAX_LINE:
        return False
    head = text[:2000]
    if GENERATED.search(head) or LICENSED_OTHERWISE.search(head):
        return False
    return sum(map(str.isalpha, text)) >= MIN_LETTERS * len(text)


def long_lines(text: str) -> list[str]:
    return [
        s for line in text.splitlines() if len(s := line.strip()) >= MIN_SHARED_LINE and s[0] != "#"
    ]


def read_stdlib(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of the .py files below `root`, except excluded ones and those not in UTF-8."""
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not EXCLUDED.search(name) and not HELD_OUT_TESTS.search(name):
            try:
                yield name, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def read_corpus(stdlib: Path, packages: Path | None) -> Corpus:
    """Read the standard library and the listed packages' wheels, if a folder of them is given."""
    own = dict(read_stdlib(stdlib))
    held_out = {n: own.pop(n) for n in HELD_OUT if n in own}
    if missing := set(HELD_OUT) - set(held_out):
        raise SystemExit(
            f"{stdlib}: missing held-out modules {sorted(missing)}; expected Python 3.11's library"
        )
    quoted = {line for text in held_out.values() for line in long_lines(text)}
    train: dict[str, str] = {}
    seen: set[str] = set()

    def add(name: str, texts: Iterator[tuple[str, str]]) -> tuple[int, int]:
        """Add a source's texts that are new and do not quote a held-out module; return their number and bytes."""
        files = size = 0
        for path, text in texts:
            if not is_source(text):
                continue
            same = " ".join(text.split())
            lines = long_lines(text)
            shared = sum(line in quoted for line in lines)
            if same not in seen and shared <= MAX_SHARED * len(lines):
                seen.add(same)
                train[f"{name}/{path}"] = text
                files, size = files + 1, size + len(text.encode())
        return files, size

    sources = [
        Source("stdlib", platform.python_version(), "PSF-2.0", *add("stdlib", iter(own.items())))
    ]
    for package in listed() if packages else []:
        assert packages
        texts = read_package(package, packages)
        sources.append(
            Source(package.name, package.version, package.licence, *add(package.name, texts))
        )
    return Corpus(train, held_out, tuple(sources))
