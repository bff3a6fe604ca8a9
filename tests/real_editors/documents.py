"""Documents that the tests edit, and what they type into them. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Document:
    """Text before and after an empty line, into which the tests type."""

    before: str
    after: str

    @property
    def line(self) -> int:
        """Number of the empty line, from 1."""
        return self.before.count("\n") + 1

    def write(self, home: Path) -> Path:
        """Write the document into the folder that an editor opens, and return its file."""
        file = home / "project/arithmetic.py"
        file.parent.mkdir(parents=True)
        file.write_text(self.before + self.after, "utf-8")
        return file


ENGLISH = Document(
    "def add(a, b):\n    return a + b\n\n\ndef multiply(a, b):\n",
    "\n\n\nprint(multiply(2, add(1, 2)))\n",
)
CHINESE = Document(
    '"""加法和乘法。"""\n\n问候 = "你好，世界"\n\n\n' + ENGLISH.before,
    ENGLISH.after + "# 结束：😀\n",
)
COMMENT = "    # 返回乘积"
# Ends with a space, at which VS Code's own list of words closes.
TYPED = "    return "
