"""Strict readers for a tokenizer's files and chat templates, with a size limit."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from turbopilot.base.errors import CorruptCheckpoint
from turbopilot.base.quoting import quoted

# The largest published tokenizer.json (262,144 tokens, every merge twice) is 33 MB.
_MAX_BYTES: Final = 100_000_000

_KEY_LETTERS: Final = frozenset(string.ascii_letters + string.digits)


def corrupt(path: Path, what: str) -> CorruptCheckpoint:
    """Return the error for an invalid file."""
    return CorruptCheckpoint(f"{path}: {what}", hint="download it again")


def read_bytes(path: Path) -> bytes:
    """Return the content of a file of at most 100 MB."""
    try:
        n_bytes = path.stat().st_size
        if n_bytes > _MAX_BYTES:
            raise CorruptCheckpoint(
                f"{path}: has {n_bytes:,} bytes, too many for a tokenizer",
                hint="check that it is the right file, or download it again",
            )
        return path.read_bytes()
    except OSError as e:
        raise corrupt(path, f"cannot be read: {e.strerror}") from e


def read_text(path: Path) -> str:
    """Return the content of a UTF-8 file, with line ends unchanged."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as e:
        raise corrupt(path, f"is not UTF-8 (byte {e.start:,})") from e


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; refuse duplicate keys, since Python would keep only the last."""
    try:
        value = json.loads(
            read_text(path), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as e:
        raise corrupt(path, f"not JSON: {e}") from e
    if not isinstance(value, dict):
        raise corrupt(path, f"contains {type(value).__name__}, not an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {quoted(key)} occurs twice in one object")
        found[key] = value
    return found


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


@dataclass(frozen=True, slots=True)
class SideFiles:
    """Small files that accompany a tokenizer; a missing file is an empty dict."""

    folder: Path
    config: dict[str, Any]  # tokenizer_config.json
    special: dict[str, Any]  # special_tokens_map.json
    added: dict[str, Any]  # added_tokens.json, text → id
    generation: dict[str, Any]  # generation_config.json

    @classmethod
    def read(cls, folder: Path) -> SideFiles:
        """Read the files that exist in `folder`."""
        names = ("tokenizer_config", "special_tokens_map", "added_tokens", "generation_config")
        paths = [folder / f"{name}.json" for name in names]
        return cls(folder, *(read_json(path) if path.is_file() else {} for path in paths))

    def name_of(self, role: str) -> str | None:
        """Return the text of the "bos", "eos", "unk" or "pad" token, if a file names it."""
        for file in (self.config, self.special):
            text = token_text(file.get(f"{role}_token"))
            if text is not None:
                return text
        return None


def token_text(value: Any) -> str | None:
    """Return the text of a token, which is written as a string or as an object with `content`."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) and text else None


def chat_templates(side: SideFiles) -> dict[str, str]:
    """Return name → chat template; "default" is the one that is used unless another is named.

    As in transformers, chat_template.jinja replaces tokenizer_config.json's `chat_template`, which is a string or a
    list of named templates; additional_chat_templates/NAME.jinja add more.
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
        raise corrupt(where, "chat_template is neither a string nor a list of templates")
    for path in sorted((side.folder / "additional_chat_templates").glob("*.jinja")):
        templates.append((path.stem, read_text(path)))
    named: dict[str, str] = {}
    for name, template in templates:
        if not isinstance(name, str) or not isinstance(template, str) or not name:
            raise corrupt(where, f"chat_template {quoted(name)} has no name or no text")
        try:
            template.encode()
        except UnicodeEncodeError as e:
            raise corrupt(where, f"chat_template {quoted(name)} is not Unicode") from e
        # gguf's writer replaces other characters in keys likewise
        named.setdefault("".join(c if c in _KEY_LETTERS else "_" for c in name), template)
    return {name: template for name, template in named.items() if template}
