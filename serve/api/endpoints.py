"""Table of the routes with their requests and responses, the source of Flask's routes and of `/openapi.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from serve.api.chat import ChatRequest, MistralFimRequest
from serve.api.completions import CompletionRequest, TabbyRequest
from serve.api.dialect import Dialect
from serve.api.health import CopilotToken, HealthAnswer, TabbyHealth
from serve.api.hugging_face import (
    HuggingFaceListRequest,
    HuggingFaceRequest,
    HuggingFaceStreamRequest,
)
from serve.api.llama_cpp import InfillRequest, LlamaCompletionRequest
from serve.api.llama_state import PropsAnswer, SlotsAnswer
from serve.api.llama_tokenizer import (
    ApplyTemplateRequest,
    DetokenizeAnswer,
    DetokenizeRequest,
    ModelRequest,
    TemplateAnswer,
    TokenizeRequest,
    TokensAnswer,
)
from serve.api.lora import LoraAdapters, LoraAdapterScales, LoraChanged
from serve.api.models import (
    ModelAnswer,
    ModelsAnswer,
    OllamaModelInfo,
    OllamaModels,
    OllamaVersion,
    ShowRequest,
)
from serve.api.next_edit import NextEditRequest
from serve.api.ollama import OllamaChatRequest, OllamaRequest
from serve.api.status import (
    EditorsAnswer,
    ModelChange,
    ModelChanged,
    SettingsAnswer,
    StatusAnswer,
)

TAGS: Final = {
    "OpenAI": "OpenAI's API: models, and legacy completions, which FauxPilot's and Tabby's clients use as well.",
    "Chat": "OpenAI's chat completions, for models with a chat template, and Mistral's fill-in-the-middle.",
    "llama.cpp": "llama.cpp's native routes, used by llama.vim, llama.vscode and Twinny, and by dashboards.",
    "Ollama": "Ollama's API, for plugins that know it alone.",
    "Hugging Face": "The routes of Hugging Face's text-generation-inference, which `InferenceClient` uses.",
    "Next edits": "The routes of Sweep's plugins, for next-edit models.",
    "Tabby": "Routes that Tabby's agent uses in addition to completions.",
    "Copilot": "The token request that GitHub Copilot's plugins send before completions.",
    "Operators": "The page, health check, metrics and this document.",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A route.

    Attributes:
        name: unique name of the view and of the OpenAPI operation, which gets "Too" appended for each further path.
        tag: one of TAGS.
        summary: description of the route.
        methods: HTTP methods.
        paths: paths in OpenAPI's notation.
        requests: the dialects that it accepts, distinguished by their `key`; empty if the route completes no text.
        body: type of the request body of a route that completes no text. A `ModelRequest` loads its model.
        query: names of query parameters, with descriptions.
        answer: type of a JSON response, or MIME types; None means an empty body.
        streams: whether the response is an endless stream of server-sent events, each with an `answer`.
        is_open: whether it needs no API key even if the server requires one.
        may_compress: whether the request's body may be compressed.
        refusal: if set, the route always answers with status 501 and this error.
    """

    name: str
    tag: str
    summary: str
    methods: tuple[str, ...]
    paths: tuple[str, ...]
    requests: tuple[type[Dialect], ...] = ()
    body: type[ShowRequest | ModelRequest | LoraAdapterScales | ModelChange] | None = None
    query: tuple[tuple[str, str], ...] = ()
    answer: Any = None
    streams: bool = False
    is_open: bool = False
    may_compress: bool = False
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
_MODEL: Final = ("model", "Name of the model; an unknown name means the default model.")
_NO_EMBEDDINGS: Final = (
    "embeddings are not supported: this server only completes text; use another server for them"
)
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
        "embeddings", "OpenAI", "Refused: the server computes no embeddings.",
        _POST, ("/v1/embeddings", "/embeddings"), refusal=_NO_EMBEDDINGS,
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
        "props", "llama.cpp", "Get properties of the server and of a model, which is not loaded for it.",
        _GET, ("/props",), query=(_MODEL,), answer=PropsAnswer,
    ),
    Endpoint(
        "slots", "llama.cpp", "Get the activity of each slot of a model, in numbers. Does not wait for the engine.",
        _GET, ("/slots",), answer=SlotsAnswer,
        query=(_MODEL, ("fail_on_no_slot", "If it is not empty and no slot is free, the status is 503.")),
    ),
    Endpoint(
        "tokenize", "llama.cpp", "Get the tokens of a text.",
        _POST, ("/tokenize",), body=TokenizeRequest, answer=TokensAnswer,
    ),
    Endpoint(
        "detokenize", "llama.cpp", "Get the text of tokens.",
        _POST, ("/detokenize",), body=DetokenizeRequest, answer=DetokenizeAnswer,
    ),
    Endpoint(
        "applyTemplate", "llama.cpp", "Get the prompt of a chat, without completing it.",
        _POST, ("/apply-template",), body=ApplyTemplateRequest, answer=TemplateAnswer,
    ),
    Endpoint(
        "loraAdapters", "llama.cpp", "List the LoRA adapters of the default model.",
        _GET, ("/lora-adapters",), answer=LoraAdapters,
    ),
    Endpoint(
        "setLoraAdapters", "llama.cpp",
        "Set the scales of LoRA adapters for all requests without the field `lora`. Needs a server that was started "
        "with `--lora-switch`.",
        _POST, ("/lora-adapters",), body=LoraAdapterScales, answer=LoraChanged,
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
        _POST, ("/api/embed", "/api/embeddings"), refusal=_NO_EMBEDDINGS,
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
        "nextEdit", "Next edits",
        "Predict the next edit of a file. The body may be compressed with gzip, or with br if the server has brotli.",
        _POST, ("/backend/next_edit_autocomplete",), (NextEditRequest,), may_compress=True,
    ),
    Endpoint(
        "nextEditMetrics", "Next edits",
        "Report that an edit was shown, accepted or dismissed. The server counts these reports.",
        _POST, ("/backend/track_autocomplete_metrics",),
    ),
    Endpoint(
        "tabbyHealth", "Tabby", "Get the model, the machine and the server's version.",
        ("GET", "POST"), ("/v1/health",), answer=TabbyHealth,
    ),
    Endpoint(
        "tabbyEvents", "Tabby",
        "Report that a completion was shown, accepted or dismissed. The server counts these events.",
        _POST, ("/v1/events",),
    ),
    Endpoint(
        "copilotToken", "Copilot", "Get a token for Copilot's plugins.",
        _GET, ("/copilot_internal/v2/token",), answer=CopilotToken,
    ),
    Endpoint(
        "statusEditors", "Operators",
        "Get the settings of all editors for this server, with a request of each to check them.",
        _GET, ("/status/editors",), answer=EditorsAnswer,
        query=(
            ("model", "Name of the model in the settings; by default that of the default model."),
            ("scheme", "`https` if clients reach the server through a proxy that speaks TLS; by default `http`."),
        ),
    ),
    Endpoint(
        "index", "Operators", "Get the page if the header Accept prefers HTML and the page is on, else a line of text.",
        _GET, ("/",), answer="text/plain, text/html", is_open=True,
    ),
    Endpoint(
        "pageFile", "Operators", "Get a file of the page.",
        _GET, ("/page/{file}",), answer="text/javascript, text/css, image/svg+xml, text/html", is_open=True,
    ),
    Endpoint(
        "health", "Operators", "Check whether the server accepts requests. Does not wait for the engine.",
        _GET, ("/health",), answer=HealthAnswer, is_open=True,
    ),
    Endpoint(
        "metrics", "Operators", "Get metrics in Prometheus' text format.",
        _GET, ("/metrics",), answer="text/plain",
    ),
    Endpoint(
        "status", "Operators",
        "Get the state of the server, its models and this machine, and the last measurements, requests and events.",
        _GET, ("/status",), answer=StatusAnswer,
    ),
    Endpoint(
        "statusStream", "Operators",
        "Get the state about once a second, with the newest measurement, until the client disconnects. For at most 32 "
        "viewers.",
        _GET, ("/status/stream",), answer=StatusAnswer, streams=True,
    ),
    Endpoint(
        "statusSettings", "Operators", "Get the server's options; of secrets, only whether they are set.",
        _GET, ("/status/settings",), answer=SettingsAnswer,
    ),
    Endpoint(
        "loadModel", "llama.cpp", "Load a model; the response comes when it is loaded. A loaded model stays as it is.",
        _POST, ("/models/load",), body=ModelChange, answer=ModelChanged,
    ),
    Endpoint(
        "unloadModel", "llama.cpp",
        "Unload a model, which ends its requests with an error. The next request for it loads it again.",
        _POST, ("/models/unload",), body=ModelChange, answer=ModelChanged,
    ),
    Endpoint(
        "openapi", "Operators", "Get this document.", _GET, ("/openapi.json",), answer="application/json"
    ),
)  # fmt: skip
