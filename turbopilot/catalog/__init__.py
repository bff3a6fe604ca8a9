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
