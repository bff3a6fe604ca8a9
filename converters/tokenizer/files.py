"""Bounded, strict reading of a tokenizer's files, and of the chat templates in them."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from turbopilot.base.errors import CorruptCheckpoint

# The largest tokenizer.json of today (262,144 tokens, every merge written twice) has 33 MB.
_MAX_BYTES: Final = 256 * 1024 * 1024

_KEY_LETTERS: Final = frozenset(string.ascii_letters + string.digits)


def corrupt(path: Path, what: str) -> CorruptCheckpoint:
    """Return the error of a file that is not what its name says."""
    return CorruptCheckpoint(f"{path}: {what}", hint="download it again")


def read_bytes(path: Path) -> bytes:
    """Return the whole file."""
    try:
        n_bytes = path.stat().st_size
        if n_bytes > _MAX_BYTES:
            raise CorruptCheckpoint(
                f"{path}: has {n_bytes:,} bytes; no tokenizer is that large",
                hint="is it the right file? download it again",
            )
        return path.read_bytes()
    except OSError as e:
        raise corrupt(path, f"cannot be read: {e.strerror}") from e


def read_text(path: Path) -> str:
    """Return the whole file as UTF-8, line ends unchanged."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as e:
        raise corrupt(path, f"is not UTF-8 (byte {e.start:,})") from e


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object in which no key stands twice: Python would silently keep the last."""
    try:
        value = json.loads(
            read_text(path), object_pairs_hook=_unique, parse_constant=_no_such_number
        )
    except (ValueError, RecursionError) as e:
        raise corrupt(path, f"not JSON: {e}") from e
    if not isinstance(value, dict):
        raise corrupt(path, f"holds {type(value).__name__}, not an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return made


def _no_such_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


@dataclass(frozen=True, slots=True)
class SideFiles:
    """The small files beside a tokenizer; an absent one is empty.

    Args:
        config: tokenizer_config.json.
        special: special_tokens_map.json.
        added: added_tokens.json, text → id.
        generation: generation_config.json.
    """

    folder: Path
    config: dict[str, Any]
    special: dict[str, Any]
    added: dict[str, Any]
    generation: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> SideFiles:
        """Read those that are there."""

        def read(name: str) -> dict[str, Any]:
            return read_json(folder / name) if (folder / name).is_file() else {}

        return cls(
            folder,
            read("tokenizer_config.json"),
            read("special_tokens_map.json"),
            read("added_tokens.json"),
            read("generation_config.json"),
        )

    def name_of(self, role: str) -> str | None:
        """Return the text of the "bos", "eos", "unk" or "pad" token, if a file names it."""
        for file in (self.config, self.special):
            text = token_text(file.get(f"{role}_token"))
            if text is not None:
                return text
        return None


def token_text(value: Any) -> str | None:
    """Return the text of a token, which is written as that or as an object with `content`."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) and text else None


def chat_templates(side: SideFiles) -> dict[str, str]:
    """Return name → template; "default" is the one used unasked.

    chat_template.jinja replaces tokenizer_config.json's `chat_template`, one text or a list of named ones, as in
    transformers. additional_chat_templates/NAME.jinja are named by their files.
    """
    file = side.folder / "chat_template.jinja"
    found: Any = read_text(file) if file.is_file() else side.config.get("chat_template")
    where = side.folder / "tokenizer_config.json"
    templates: list[tuple[Any, Any]] = []
    if isinstance(found, str):
        templates = [("default", found)]
    elif isinstance(found, list) and all(isinstance(entry, dict) for entry in found):
        templates = [(entry.get("name"), entry.get("template")) for entry in found]
    elif found is not None:
        raise corrupt(where, "chat_template is neither a text nor a list of them")
    for path in sorted((side.folder / "additional_chat_templates").glob("*.jinja")):
        templates.append((path.stem, read_text(path)))
    named: dict[str, str] = {}
    for name, template in templates:
        if not isinstance(name, str) or not isinstance(template, str) or not name:
            raise corrupt(where, f"chat_template {name!r:.80} is not a named text")
        try:
            template.encode()
        except UnicodeEncodeError as e:
            raise corrupt(where, f"chat_template {name!r:.80} is not Unicode") from e
        # a GGUF key: gguf's own writer replaces other characters likewise
        named.setdefault("".join(c if c in _KEY_LETTERS else "_" for c in name), template)
    return {name: template for name, template in named.items() if template}
