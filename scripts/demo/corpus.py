"""Source of the Python standard library, split into training and held-out files."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

# Modules left out of the training: prose-heavy, algorithmic, parsing, networking and class-heavy code.
HELD_OUT = (
    "argparse.py", "asyncio/queues.py", "calendar.py", "concurrent/futures/thread.py", "configparser.py",
    "csv.py", "email/message.py", "fractions.py", "heapq.py", "http/cookiejar.py", "json/decoder.py",
    "logging/handlers.py", "shlex.py", "statistics.py", "tarfile.py", "textwrap.py", "zipfile.py",
)  # fmt: skip

# Tables, test data and generated files. No other module duplicates a held-out one.
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


@dataclass(frozen=True)
class Corpus:
    """Texts by path relative to the standard library; `train` and `held_out` share no file."""

    train: dict[str, str]
    held_out: dict[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 of all paths and texts, which identifies the corpus in the model card."""
        h = hashlib.sha256()
        for part in (self.train, self.held_out):
            for name in sorted(part):
                h.update(name.encode() + b"\0" + part[name].encode() + b"\0")
        return h.hexdigest()


def read_corpus(root: Path) -> Corpus:
    """Read the .py files below `root`, except excluded ones, those not in UTF-8 and those under 200 characters."""
    train: dict[str, str] = {}
    held_out: dict[str, str] = {}
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if EXCLUDED.search(name) or HELD_OUT_TESTS.search(name):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if len(text) < 200:
            continue
        (held_out if name in HELD_OUT else train)[name] = text
    missing = set(HELD_OUT) - set(held_out)
    if missing:
        raise SystemExit(
            f"{root}: missing held-out modules {sorted(missing)}; expected a Python 3.11 standard library"
        )
    return Corpus(train, held_out)
