"""The routes: what each takes and answers. Flask's routes and `/openapi.json` are made from this table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from serve.api.body import Count
from serve.api.chat import ChatRequest, MistralFimRequest
from serve.api.completions import CompletionRequest, TabbyRequest
from serve.api.dialect import Dialect
from serve.api.generate import HuggingFaceRequest, OllamaRequest
from serve.api.llama_cpp import InfillRequest, LlamaCompletionRequest

TAGS: Final = {
    "OpenAI": "OpenAI's API: legacy completions, which FauxPilot and Tabby speak too, and models.",
    "Chat": "OpenAI's chat completions, for models with a chat template, and Mistral's fill-in-the-middle.",
    "llama.cpp": "llama.cpp's own routes, as llama.vim, llama.vscode and Twinny call them.",
    "Generate": "Hugging Face's text generation (with `inputs`) and Ollama's (with `prompt`) at one address.",
    "Tabby": "What Tabby's agent asks beside completions.",
    "Copilot": "What GitHub Copilot's plugins ask before they ask for completions.",
    "Operators": "Whether the server is up, what it serves, and how busy it is.",
}
State = Literal["unloaded", "loading", "ok", "draining", "failed"]


class ModelAnswer(TypedDict):
    """A model; `root` answers to the name `id`, and `max_model_len` is tokens of prompt and answer together."""

    id: str
    object: Literal["model"]
    created: Count
    owned_by: str
    root: str
    max_model_len: Count


class ModelsAnswer(TypedDict):
    """All models that the server can load."""

    object: Literal["list"]
    data: list[ModelAnswer]


class TabbyVersion(TypedDict):
    """Of the server."""

    build_date: str
    build_timestamp: str
    git_sha: str
    git_describe: str


class TabbyHealth(TypedDict):
    """The server as Tabby describes it."""

    model: str
    device: str
    arch: str
    cpu_info: str
    cpu_count: Count
    cuda_devices: list[str]
    version: TabbyVersion


class CopilotToken(TypedDict):
    """A token that opens nothing: there are no accounts here."""

    token: str
    expires_at: Annotated[int, Field(ge=0, description="Seconds since 1970.")]
    refresh_in: Annotated[int, Field(ge=0, description="Seconds.")]


class ModelHealth(TypedDict):
    """One model; `reason`: why it failed."""

    name: str
    status: State
    running: Count
    waiting: Count
    reason: NotRequired[str]


class HealthAnswer(TypedDict):
    """All models. `model` is the default one, and `status` and `reason` are its."""

    status: Literal["loading", "ok", "draining", "failed"]
    model: str
    running: Count
    waiting: Count
    models: list[ModelHealth]
    reason: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One route.

    Attributes:
        name: unique; of its view and, with "Too" for further addresses, of its operation in OpenAPI.
        tag: one of TAGS.
        summary: what it is for.
        methods: of HTTP.
        paths: as OpenAPI writes them.
        requests: the dialects that it understands, each known by its `key`; without any, nothing is computed.
        answer: type of a JSON answer, or a MIME type; None is an empty body.
        is_open: whether it needs no API key when others do.
    """

    name: str
    tag: str
    summary: str
    methods: tuple[str, ...]
    paths: tuple[str, ...]
    requests: tuple[type[Dialect], ...] = ()
    answer: Any = None
    is_open: bool = False

    def read(self, values: Mapping[str, Any]) -> Dialect:
        """Check a body, in the dialect whose key it has."""
        fits = (kind for kind in self.requests if values.get(kind.key) is not None)
        return next(fits, self.requests[0]).read(values)


def plain_errors(path: str) -> bool:
    """Whether errors of a route are `{"error": text}`, as for Hugging Face and Ollama; else they are OpenAI's."""
    return path.startswith("/api/")


_GET: Final = ("GET",)
_POST: Final = ("POST",)
ENDPOINTS: Final = (
    Endpoint(
        "complete", "OpenAI",
        "Continue a text. An engine is FauxPilot's and older plugins' name of a model.",
        _POST, ("/v1/completions", "/v1/engines/{engine}/completions"), (CompletionRequest, TabbyRequest),
    ),
    Endpoint("models", "OpenAI", "List the models.", _GET, ("/v1/models", "/models"), answer=ModelsAnswer),
    Endpoint(
        "model", "OpenAI", "What a name stands for; an unknown name means the default model.",
        _GET, ("/v1/models/{name}",), answer=ModelAnswer,
    ),
    Endpoint(
        "chat", "Chat", "Answer messages.",
        _POST, ("/v1/chat/completions", "/chat/completions"), (ChatRequest,),
    ),
    Endpoint(
        "mistralFim", "Chat", "Fill in at the cursor, as Mistral's Codestral does.",
        _POST, ("/v1/fim/completions",), (MistralFimRequest,),
    ),
    Endpoint(
        "llamaCompletion", "llama.cpp", "Continue a text. Several texts are answered as a list.",
        _POST, ("/completion", "/completions"), (LlamaCompletionRequest,),
    ),
    Endpoint(
        "infill", "llama.cpp", "Fill in at the cursor. Several texts are answered as a list.",
        _POST, ("/infill",), (InfillRequest,),
    ),
    Endpoint(
        "generate", "Generate",
        "Continue a text: a body with `inputs` is Hugging Face's, one with `prompt` Ollama's.",
        _POST, ("/api/generate",), (HuggingFaceRequest, OllamaRequest),
    ),
    Endpoint(
        "tabbyHealth", "Tabby", "What serves, and with what.",
        ("GET", "POST"), ("/v1/health",), answer=TabbyHealth,
    ),
    Endpoint(
        "tabbyEvents", "Tabby",
        "Which completion was seen, accepted or dismissed. Nothing is kept or passed on.",
        _POST, ("/v1/events",),
    ),
    Endpoint(
        "copilotToken", "Copilot", "A token, for any caller.",
        _GET, ("/copilot_internal/v2/token",), answer=CopilotToken,
    ),
    Endpoint("index", "Operators", "A page.", _GET, ("/",), answer="text/plain", is_open=True),
    Endpoint(
        "health", "Operators", "Whether it takes requests. Waits for nothing.",
        _GET, ("/health",), answer=HealthAnswer, is_open=True,
    ),
    Endpoint(
        "metrics", "Operators", "The metrics that Prometheus reads.",
        _GET, ("/metrics",), answer="text/plain",
    ),
    Endpoint(
        "openapi", "Operators", "This document.", _GET, ("/openapi.json",), answer="application/json"
    ),
)  # fmt: skip
