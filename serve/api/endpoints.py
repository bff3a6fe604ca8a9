"""Table of the routes with their requests and responses, the source of Flask's routes and of `/openapi.json`."""

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
from serve.api.hugging_face import (
    HuggingFaceListRequest,
    HuggingFaceRequest,
    HuggingFaceStreamRequest,
)
from serve.api.llama_cpp import InfillRequest, LlamaCompletionRequest
from serve.api.models import (
    ModelAnswer,
    ModelsAnswer,
    OllamaModelInfo,
    OllamaModels,
    OllamaVersion,
    ShowRequest,
)
from serve.api.ollama import OllamaChatRequest, OllamaRequest

TAGS: Final = {
    "OpenAI": "OpenAI's API: models, and legacy completions, which FauxPilot's and Tabby's clients use as well.",
    "Chat": "OpenAI's chat completions, for models with a chat template, and Mistral's fill-in-the-middle.",
    "llama.cpp": "llama.cpp's native routes, used by llama.vim, llama.vscode and Twinny.",
    "Ollama": "Ollama's API, for plugins that know it alone.",
    "Hugging Face": "The routes of Hugging Face's text-generation-inference, which `InferenceClient` uses.",
    "Tabby": "Routes that Tabby's agent uses in addition to completions.",
    "Copilot": "The token request that GitHub Copilot's plugins send before completions.",
    "Operators": "Status page, health check, metrics and this document.",
}
State = Literal["unloaded", "loading", "ok", "stalled", "draining", "failed"]


class TabbyVersion(TypedDict):
    """Version of the server, in Tabby's format."""

    build_date: str
    build_timestamp: str
    git_sha: str
    git_describe: str


class TabbyHealth(TypedDict):
    """Information about the server, in Tabby's format."""

    model: str
    device: str
    arch: str
    cpu_info: str
    cpu_count: Count
    cuda_devices: list[str]
    version: TabbyVersion


class CopilotToken(TypedDict):
    """A token for Copilot's plugins. `token` is the caller's API key; without API keys it is a fixed text."""

    token: str
    expires_at: Annotated[int, Field(ge=0, description="Unix time in seconds.")]
    refresh_in: Annotated[
        int, Field(ge=0, description="Seconds until the plugin requests a new token.")
    ]


class DeviceHealth(TypedDict):
    """Part of a model on one device, or in main memory ("CPU"), in bytes.

    `layers` is the number of layers, without the output head. The free memory is that before the model was loaded, and
    after.
    """

    device: str
    description: str
    layers: Count
    has_output: bool
    weights: Count
    kv: Count
    compute: Count
    free_before: Count
    free_after: Count


class ModelHealth(TypedDict):
    """State of one model. `reason` is set if it is "failed" or "stalled", `devices` if it is loaded."""

    name: str
    status: State
    running: Count
    waiting: Count
    reason: NotRequired[str]
    devices: NotRequired[list[DeviceHealth]]


class HealthAnswer(TypedDict):
    """State of the server. `model` is the default model; `status` and `reason` are those of the default model.

    If a computation exceeds its time limit, `status` is "stalled", since the other models wait for it.
    """

    status: Literal["loading", "ok", "stalled", "draining", "failed"]
    model: str
    running: Count
    waiting: Count
    models: list[ModelHealth]
    reason: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A route.

    Attributes:
        name: unique name of the view and of the OpenAPI operation, which gets "Too" appended for each further path.
        tag: one of TAGS.
        summary: description of the route.
        methods: HTTP methods.
        paths: paths in OpenAPI's notation.
        requests: the dialects that it accepts, distinguished by their `key`; empty if the route needs no model.
        body: type of the request body of a route that needs no model.
        answer: type of a JSON response, or a MIME type; None means an empty body.
        is_open: whether it needs no API key even if the server requires one.
        refusal: if set, the route always answers with status 501 and this error.
    """

    name: str
    tag: str
    summary: str
    methods: tuple[str, ...]
    paths: tuple[str, ...]
    requests: tuple[type[Dialect], ...] = ()
    body: type[ShowRequest] | None = None
    answer: Any = None
    is_open: bool = False
    refusal: str = ""

    def read(self, values: Mapping[str, Any]) -> Dialect:
        """Validate a body in the dialect whose key it contains."""
        fits = (kind for kind in self.requests if values.get(kind.key) is not None)
        return next(fits, self.requests[0]).read(values)


def plain_errors(path: str) -> bool:
    """Return whether errors of a route have the format `{"error": text}` (Hugging Face, Ollama), not OpenAI's."""
    return path.startswith("/api/") or path in _TGI


_TGI: Final = ("/generate", "/generate_stream", "/")
_GET: Final = ("GET",)
_POST: Final = ("POST",)
ENDPOINTS: Final = (
    Endpoint(
        "complete", "OpenAI",
        "Complete a text. `engine` is the model name in FauxPilot's and older plugins' URLs.",
        _POST, ("/v1/completions", "/v1/engines/{engine}/completions"), (CompletionRequest, TabbyRequest),
    ),
    Endpoint("models", "OpenAI", "List the models.", _GET, ("/v1/models", "/models"), answer=ModelsAnswer),
    Endpoint(
        "model", "OpenAI", "Get a model. Unknown names are an error, although completions accept them.",
        _GET, ("/v1/models/{name}",), answer=ModelAnswer,
    ),
    Endpoint(
        "chat", "Chat", "Complete a chat.",
        _POST, ("/v1/chat/completions", "/chat/completions"), (ChatRequest,),
    ),
    Endpoint(
        "mistralFim", "Chat", "Fill in text at the cursor, as Mistral's Codestral does.",
        _POST, ("/v1/fim/completions",), (MistralFimRequest,),
    ),
    Endpoint(
        "llamaCompletion", "llama.cpp", "Complete a text. Several completions are returned as a list.",
        _POST, ("/completion", "/completions"), (LlamaCompletionRequest,),
    ),
    Endpoint(
        "infill", "llama.cpp", "Fill in text at the cursor. Several completions are returned as a list.",
        _POST, ("/infill",), (InfillRequest,),
    ),
    Endpoint(
        "generate", "Ollama",
        "Complete a text: a body with `inputs` is a Hugging Face request, one with `prompt` an Ollama request.",
        _POST, ("/api/generate",), (HuggingFaceRequest, OllamaRequest),
    ),
    Endpoint(
        "ollamaChat", "Ollama", "Complete a chat, for models with a chat template.",
        _POST, ("/api/chat",), (OllamaChatRequest,),
    ),
    Endpoint("ollamaTags", "Ollama", "List the models.", _GET, ("/api/tags",), answer=OllamaModels),
    Endpoint("ollamaPs", "Ollama", "List the loaded models.", _GET, ("/api/ps",), answer=OllamaModels),
    Endpoint(
        "ollamaShow", "Ollama", "Get a model in detail.",
        _POST, ("/api/show",), body=ShowRequest, answer=OllamaModelInfo,
    ),
    Endpoint(
        "ollamaVersion", "Ollama", "Get the version of Ollama whose API the server follows.",
        _GET, ("/api/version",), answer=OllamaVersion,
    ),
    Endpoint(
        "ollamaEmbed", "Ollama", "Refused: the server computes no embeddings.",
        _POST, ("/api/embed", "/api/embeddings"),
        refusal="embeddings are not supported: this server only completes text; use another server for them",
    ),
    Endpoint(
        "huggingFace", "Hugging Face", "Complete a text.", _POST, ("/generate",), (HuggingFaceRequest,)
    ),
    Endpoint(
        "huggingFaceStream", "Hugging Face", "Complete a text, streamed by default.",
        _POST, ("/generate_stream",), (HuggingFaceStreamRequest,),
    ),
    Endpoint(
        "huggingFaceList", "Hugging Face", "Complete a text. The response is a list with one completion.",
        _POST, ("/",), (HuggingFaceListRequest,),
    ),
    Endpoint(
        "tabbyHealth", "Tabby", "Get the model, the machine and the server's version.",
        ("GET", "POST"), ("/v1/health",), answer=TabbyHealth,
    ),
    Endpoint(
        "tabbyEvents", "Tabby",
        "Report that a completion was shown, accepted or dismissed. The server discards these events.",
        _POST, ("/v1/events",),
    ),
    Endpoint(
        "copilotToken", "Copilot", "Get a token for Copilot's plugins.",
        _GET, ("/copilot_internal/v2/token",), answer=CopilotToken,
    ),
    Endpoint("index", "Operators", "Show a status page.", _GET, ("/",), answer="text/plain", is_open=True),
    Endpoint(
        "health", "Operators", "Check whether the server accepts requests. Does not wait for the engine.",
        _GET, ("/health",), answer=HealthAnswer, is_open=True,
    ),
    Endpoint(
        "metrics", "Operators", "Get metrics in Prometheus' text format.",
        _GET, ("/metrics",), answer="text/plain",
    ),
    Endpoint(
        "openapi", "Operators", "Get this document.", _GET, ("/openapi.json",), answer="application/json"
    ),
)  # fmt: skip
