"""What a tokenizer.json does to text before it is cut, reduced to what GGUF can say.

llama.cpp normalises nothing; it can put a space before a text and write spaces as "▁". NFC is written as
a key of our own, for our own programs to apply; all other changes of the text are problems.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from converters.tokenizer.metadata import SPACE


@dataclass(slots=True)
class Normalization:
    """The text's changes: composed (NFC), spaces written as "▁", one put in front; and what GGUF cannot say."""

    nfc: bool = False
    spaces: bool = False
    prepend: bool = False
    problem: str = ""


def read_normalizer(node: Any) -> Normalization:
    """Read tokenizer.json's `normalizer`."""
    found = Normalization()
    for step in flatten(node, "normalizers"):
        kind = step.get("type")
        if kind == "NFC":
            found.nfc = True
        elif kind == "Prepend" and step.get("prepend") == SPACE and not found.prepend:
            found.prepend = True
        elif (
            kind == "Replace"
            and step.get("pattern") == {"String": " "}
            and step.get("content") == SPACE
        ):
            found.spaces = True
        else:
            found.problem = f"it normalises text ({kind})"
    if found.prepend and not found.spaces:
        found.problem = f"it puts {SPACE!r} before text without writing spaces so"
    return found


def flatten(node: Any, parts: str) -> list[dict[str, Any]]:
    """The steps of a `Sequence` (whose list is named `parts`), of sequences in it, or of a single step."""
    if node is None:
        return []
    if not isinstance(node, dict):
        return [{"type": repr(node)[:80]}]
    if node.get("type") != "Sequence":
        return [node]
    inner = node.get(parts)
    if not isinstance(inner, list):
        return [{"type": f"Sequence without {parts}"}]
    return [step for part in inner for step in flatten(part, parts)]
