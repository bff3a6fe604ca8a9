"""Descriptions of the server's models, in the formats of OpenAI, Mistral and Ollama."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field
from typing_extensions import TypedDict

from serve.api.body import Body, Count
from serve.api.dialect import ModelName
from serve.api.ollama import utc
from serve.models.status import ModelInfo

# Version of Ollama whose API these routes follow: the first in which /api/show has `capabilities`. Clients refuse older
# ones, for example VS Code's Copilot.
OLLAMA_VERSION: Final = "0.6.4"

_DateTime = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class ModelCapabilities(TypedDict):
    """Capabilities of a model, with Mistral's names."""

    completion_chat: bool
    completion_fim: bool
    function_calling: bool
    vision: bool


class ModelMeta(TypedDict):
    """Facts about a model with llama.cpp's names; `size` is that of the weights, in bytes."""

    n_vocab: Count
    n_ctx: Count
    n_ctx_train: Count
    n_embd: Count
    n_params: Count
    size: Count
    ftype: str


class ModelAnswer(TypedDict):
    """A model. `max_model_len` (vLLM) and `max_context_length` (Mistral) are its context in tokens.

    Mistral's clients require `type` and `capabilities`.
    """

    id: str
    object: Literal["model"]
    created: Count
    owned_by: str
    root: str
    max_model_len: Count
    type: Literal["base"]
    capabilities: ModelCapabilities
    max_context_length: Count
    meta: ModelMeta


class ModelsAnswer(TypedDict):
    """All models that the server can load."""

    object: Literal["list"]
    data: list[ModelAnswer]


class OllamaDetails(TypedDict):
    """Format and size of a model. `family` is the architecture in llama.cpp."""

    parent_model: str
    format: Literal["gguf"]
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(TypedDict):
    """A model. `digest` changes with the file but is not a hash of its content; `size` is the file's, in bytes."""

    name: str
    model: str
    modified_at: _DateTime
    size: Count
    digest: str
    details: OllamaDetails


class OllamaModels(TypedDict):
    """Models of the server."""

    models: list[OllamaModel]


class OllamaModelInfo(TypedDict):
    """A model in detail. `template` names the fields that a prompt is built from; clients look for `.Suffix` in it."""

    modelfile: str
    parameters: str
    template: str
    details: OllamaDetails
    model_info: dict[str, str | int]
    capabilities: list[Literal["completion", "insert"]]
    modified_at: _DateTime


class OllamaVersion(TypedDict):
    """The version of Ollama whose API the server follows."""

    version: str


class ShowRequest(Body):
    """Ollama's request for information about a model."""

    example: ClassVar[dict[str, Any]] = {"model": "codegen"}

    model: ModelName = ""
    """Name of the model; an unknown name means the default model, as in completion requests."""
    name: ModelName = ""
    """Same as `model`, which takes precedence (older clients)."""


def model_answer(m: ModelInfo) -> ModelAnswer:
    """Return a model in OpenAI's and Mistral's format."""
    return {
        "id": m.name,
        "object": "model",
        "created": m.created,
        "owned_by": "turbopilot",
        "root": m.name,
        "max_model_len": m.n_ctx,
        "type": "base",
        "capabilities": {
            "completion_chat": m.can_chat,
            "completion_fim": m.can_fill,
            "function_calling": False,
            "vision": False,
        },
        "max_context_length": m.n_ctx,
        "meta": {
            "n_vocab": m.n_vocab,
            "n_ctx": m.n_ctx,
            "n_ctx_train": m.n_ctx_train,
            "n_embd": m.n_embd,
            "n_params": m.n_weights,
            "size": m.tensor_bytes,
            "ftype": m.main_type,
        },
    }


def ollama_models(models: Iterable[ModelInfo]) -> OllamaModels:
    """Return models in Ollama's format."""
    return {"models": [_ollama_model(m) for m in models]}


def _ollama_model(m: ModelInfo) -> OllamaModel:
    return {
        "name": m.name,
        "model": m.name,
        "modified_at": utc(m.created),
        "size": m.n_bytes,
        "digest": m.digest,
        "details": _details(m),
    }


def _details(m: ModelInfo) -> OllamaDetails:
    billions = m.n_weights / 1e9
    return {
        "parent_model": "",
        "format": "gguf",
        "family": m.architecture,
        "families": [m.architecture],
        "parameter_size": f"{billions:.1f}B" if billions >= 1 else f"{1000 * billions:.2f}M",
        "quantization_level": m.main_type,
    }


def ollama_model_info(m: ModelInfo) -> OllamaModelInfo:
    """Return a model in the format of Ollama's `/api/show`."""
    return {
        "modelfile": "",
        "parameters": "",
        "template": "{{ .Prompt }}{{ .Suffix }}" if m.can_fill else "{{ .Prompt }}",
        "details": _details(m),
        "model_info": {
            "general.architecture": m.architecture,
            "general.basename": m.name,
            "general.parameter_count": m.n_weights,
            f"{m.architecture}.context_length": m.n_ctx,
        },
        "capabilities": ["completion", "insert"] if m.can_fill else ["completion"],
        "modified_at": utc(m.created),
    }
