"""Catalogue of known models: aliases, sizes, licences, old files.

Sources: the card and config.json of each model on the Hugging Face Hub, and for `.bin` files the MODELS.md of the
original TurboPilot. Parameters are counted by transformers.
"""

from __future__ import annotations

from typing import Final

from turbopilot.catalog.expert_models import EXPERT_MODELS
from turbopilot.catalog.infilling_models import INFILLING_MODELS
from turbopilot.catalog.model import KnownModel, OldBin
from turbopilot.catalog.newer_models import NEWER_MODELS
from turbopilot.catalog.next_edit_models import NEXT_EDIT_MODELS
from turbopilot.catalog.original_models import ORIGINAL_MODELS
from turbopilot.formats.gguf.file import GgufHeader
from turbopilot.llama.geometry import TYPES, Geometry

__all__ = [
    "MODELS",
    "TYPES",
    "Geometry",
    "KnownModel",
    "OldBin",
    "find",
    "recognize",
    "recognize_file",
]

MODELS: Final[tuple[KnownModel, ...]] = (
    *ORIGINAL_MODELS, *EXPERT_MODELS, *NEWER_MODELS, *INFILLING_MODELS, *NEXT_EDIT_MODELS,
)  # fmt: skip
_BY_NAME: Final = {n.lower(): m for m in MODELS for n in (m.alias, m.repository)}


def find(name: str) -> KnownModel | None:
    """Return a model by its alias or its repository, in any letter case.

    >>> find("SantaCoder").repository
    'bigcode/santacoder'
    >>> find("bigcode/starcoder").alias
    'starcoder'
    >>> find("nonesuch")
    """
    return _BY_NAME.get(name.lower())


def recognize(name: str, url: str = "") -> KnownModel | None:
    """Return the model that a file was made from, also after conversion and quantization; None if unknown.

    Args:
        name: general.name or the file name; it must start with an alias, a repository name or an old file name.
        url: page of the repository, from the metadata.

    >>> recognize("wizardcoder-15b-v1.0-q4_0").alias
    'wizardcoder-15b'
    >>> recognize("", "https://huggingface.co/bigcode/santacoder").alias
    'santacoder'
    >>> recognize("my-own")
    """
    for model in MODELS:
        if url and url.rstrip("/").lower() == model.url.lower():
            return model
    names = [(n, m) for m in MODELS for n in _names(m) if name.lower().startswith(n)]
    return max(names, key=lambda found: len(found[0]))[1] if names else None


def recognize_file(header: GgufHeader) -> KnownModel | None:
    """Return the model that a file was made from, by its metadata or its file name; None if unknown."""
    name, url = (header.metadata.get(f"general.{key}") for key in ("name", "source.repo_url"))
    named = name if isinstance(name, str) and name else header.path.stem
    return recognize(named, url if isinstance(url, str) else "")


def _names(model: KnownModel) -> list[str]:
    """Return the prefixes by which file names of the model are recognized, in lower case."""
    names = [model.alias, model.repository.rpartition("/")[2]]
    if model.old_bin:
        names.append(model.old_bin.file.partition(".ggml")[0].removesuffix(".bin"))
    return [n.lower() for n in names]
