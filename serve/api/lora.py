"""LoRA adapters: the field `lora` of requests, and llama.cpp's route `/lora-adapters`.

Source: llama.cpp's tools/server/README.md. llama.vscode sends the field with its infill requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Final

from pydantic import ConfigDict, Field, RootModel
from typing_extensions import TypedDict

from serve.adapters import MOST_SCALE, AdapterState
from serve.api import body

MOST_ADAPTERS: Final = 64  # entries of a list


class LoraScale(body.Body):
    """The scale of one LoRA adapter."""

    id: body.Count
    """Index of the adapter in `/lora-adapters`."""
    scale: Annotated[float, Field(ge=-MOST_SCALE, le=MOST_SCALE)]
    """Factor of the adapter's effect; 0 is off."""


LoraScales = Annotated[list[LoraScale], Field(max_length=MOST_ADAPTERS, fail_fast=True)]


class LoraAdapterScales(RootModel[LoraScales]):
    """Scales for requests without the field `lora`. Adapters that are missing are off."""

    model_config = ConfigDict(strict=True)
    example: ClassVar[list[dict[str, Any]]] = [{"id": 0, "scale": 0.5}]


class LoraAdapter(TypedDict):
    """A LoRA adapter of the default model, and its scale for requests without the field `lora`."""

    id: body.Count
    path: str
    scale: float


class LoraAdapters(RootModel[list[LoraAdapter]]):
    """All LoRA adapters of the default model."""


class LoraChanged(TypedDict):
    """Confirmation of a change."""

    success: bool


def by_index(scales: Iterable[LoraScale]) -> dict[int, float]:
    """Return scale by index; of several scales for one adapter, the last applies."""
    return {s.id: s.scale for s in scales}


def adapter_list(states: Iterable[AdapterState]) -> Sequence[LoraAdapter]:
    """Return adapters in llama.cpp's format."""
    return [{"id": s.id, "path": str(s.path), "scale": s.scale} for s in states]
