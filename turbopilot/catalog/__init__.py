"""The known models, as data: aliases, sizes, licences, old files. A leaf: knows nothing of files or the network.

Sources: each model's card and config.json on the Hugging Face Hub. Parameters are what transformers counts in a
model of that config. The old `.bin` files are those of the original TurboPilot's MODELS.md.
"""

from __future__ import annotations

from typing import Final

from turbopilot.catalog.first_wave import FIRST_WAVE
from turbopilot.catalog.footprint import TYPES, Footprint, best_type, footprint
from turbopilot.catalog.model import Geometry, Model, OldFile
from turbopilot.catalog.second_wave import SECOND_WAVE

__all__ = [
    "MODELS",
    "TYPES",
    "Footprint",
    "Geometry",
    "Model",
    "OldFile",
    "best_type",
    "find",
    "footprint",
    "recognize",
]

MODELS: Final[tuple[Model, ...]] = (*FIRST_WAVE, *SECOND_WAVE)
_BY_NAME: Final = {n.lower(): m for m in MODELS for n in (m.alias, m.repository)}


def find(name: str) -> Model | None:
    """A model by its alias or its repository, in any letter case.

    >>> find("SantaCoder").repository
    'bigcode/santacoder'
    >>> find("bigcode/starcoder").alias
    'starcoder'
    >>> find("nonesuch")
    """
    return _BY_NAME.get(name.lower())


def recognize(name: str, url: str = "") -> Model | None:
    """The model that a file says it is, whatever was done to it since.

    Args:
        name: its name in the file, or the file's own: a repository's, or an old file's, with more behind it.
        url: of where it came from.

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


def _names(model: Model) -> list[str]:
    """What files of it are called, in lower case."""
    names = [model.alias, model.repository.rpartition("/")[2]]
    if model.old_bin:
        names.append(model.old_bin.file.partition(".ggml")[0].removesuffix(".bin"))
    return [n.lower() for n in names]
