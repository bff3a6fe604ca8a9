"""Origin of a checkpoint, for the GGUF's metadata: repository, commit, licence.

Read from the note that `turbopilot download` writes, the Hub cache's folder names, and the front matter of the
model card (README.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from turbopilot.base.version import __version__
from turbopilot.formats.gguf.cursor import Value

NOTE = "turbopilot-source.json"
_CACHE = re.compile(
    r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})$"
)
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
# files other than the weights that affect the conversion
SIDE_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model",
    "special_tokens_map.json", "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
_CARD_BYTES = 1 << 20  # maximum read from a model card; the front matter is at its start


@dataclass(frozen=True, slots=True)
class Provenance:
    """Origin of a checkpoint; unknown fields are empty."""

    repository: str = ""
    revision: str = ""
    license: str = ""
    license_name: str = ""
    license_link: str = ""
    base_models: tuple[str, ...] = ()

    def metadata(self) -> dict[str, Value]:
        """Return the origin as GGUF metadata. Source: ggml/docs/gguf.md, "General metadata"."""
        keys: dict[str, Value] = {
            "general.license": self.license,
            "general.license.name": self.license_name,
            "general.license.link": self.license_link,
            "general.source.repo_url": _url(self.repository),
            "turbopilot.source.revision": self.revision,
        }
        if self.base_models:
            keys["general.base_model.count"] = len(self.base_models)
        for i, base in enumerate(self.base_models):
            keys[f"general.base_model.{i}.name"] = base.rpartition("/")[2]
            keys[f"general.base_model.{i}.organization"] = base.rpartition("/")[0]
            keys[f"general.base_model.{i}.repo_url"] = _url(base)
        return {"turbopilot.version": __version__, **{k: v for k, v in keys.items() if v}}


def read_provenance(folder: Path) -> Provenance:
    """Return a folder's origin; files that cannot be read are ignored."""
    repository, revision = _origin(folder)
    card = _front_matter(folder / "README.md")
    first = {key: values[0] for key, values in card.items() if values}
    return Provenance(
        repository,
        revision,
        license=first.get("license", ""),
        license_name=first.get("license_name", ""),
        license_link=first.get("license_link", ""),
        base_models=tuple(b for b in card.get("base_model", ()) if REPOSITORY.fullmatch(b)),
    )


def source_files(folder: Path, weights: list[Path]) -> list[Path]:
    """Return the files that a conversion reads, sorted by name."""
    beside = [folder / name for name in SIDE_FILES if (folder / name).is_file()]
    return sorted({*weights, *beside}, key=lambda p: p.name)


def _url(repository: str) -> str:
    return f"https://huggingface.co/{repository}" if repository else ""


def _origin(folder: Path) -> tuple[str, str]:
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        repository, revision = note["repository"], note["revision"]
        if REPOSITORY.fullmatch(repository) and isinstance(revision, str):
            return repository, revision
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # missing, or not written by `download`
    if found := _CACHE.search(folder.resolve().as_posix()):
        return f"{found['owner']}/{found['name']}", found["commit"]
    return "", ""


def _front_matter(path: Path) -> Mapping[str, list[str]]:
    """Return a model card's flat YAML: `key: value`, `key: [a, b]` and lists of `- value`; ignore the rest."""
    try:
        with path.open(encoding="utf-8", errors="replace") as f:
            text = f.read(_CARD_BYTES)
    except OSError:
        return {}
    found: dict[str, list[str]] = {}
    key = ""
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    for line in lines[1:]:
        if line.strip() == "---":
            return found
        if (pair := re.match(r"([A-Za-z_]+):\s*(.*)$", line)) is not None:
            key, value = pair[1], pair[2].strip()
            parts = value[1:-1].split(",") if value.startswith("[") else [value]
            found[key] = [p for part in parts if (p := _plain(part))]
        elif (item := re.match(r"\s*-\s+([^:]+)$", line)) is not None and key:
            found[key].append(_plain(item[1]))
    return {}  # a block without an end is not front matter


def _plain(text: str) -> str:
    return text.strip().strip("'\"").strip()
