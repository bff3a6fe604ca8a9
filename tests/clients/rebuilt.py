"""Requests of clients that we do not run, built as their source code builds them, and readers like theirs.

Sources, all read in 2026; paths are those of the repositories:

- llm-gateway: github.com/arbs-io/github-copilot-llm-gateway, b2dec77, src/completions/inlineCompletion.ts (request),
  src/api/client.ts (routes, headers), src/chat/contextWindow.ts and src/discovery/ollamaDiscovery.ts (context size).
- proxyai: github.com/carlrobertoh/ProxyAI, 1082f931, agent/clients/CustomOpenAILLMClient.kt, CodeGPTOllamaClient.kt,
  LlamaCppLLMClient.kt and CodeCompletionSupport.kt; the body is that of the preset OpenAI.
- completamente: github.com/lucatume/completamente, 01118c7, completion/infill.kt and InfillClient.kt.
- ollama-jetbrains: github.com/Izulan/ollama-completion, 48ef087, services/CompletionServiceImpl.kt.
- llama.vscode: github.com/ggml-org/llama.vscode, 3938fb3, src/llama-server.ts and src/language-model-token-limits.ts.
- pi-llama: github.com/huggingface/pi-llama, a307df2, index.ts.
- llama-swap: github.com/mostlygeek/llama-swap, 0bdb3720, internal/server/metrics.go.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

from tests.clients.exchange import Got, Sent

Reader: TypeAlias = Callable[[Sent, Got], str]

BEFORE, AFTER = "def add(a, b):\n    return ", "\n\nprint(add(1, 2))\n"
_JSON = {"Content-Type": "application/json"}
_CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}]
_FRAMED = f"<fim_prefix>{BEFORE} <fim_suffix> {AFTER}<fim_middle>"  # ProxyAI's template StarCoder2


def _post(client: str, path: str, body: object, **headers: str) -> Sent:
    return Sent(client, "POST", path, {**_JSON, **headers}, body)


def _get(client: str, path: str) -> Sent:
    return Sent(client, "GET", path, {}, None)


def _infill(prefix: str, suffix: str, **more: object) -> dict[str, object]:
    """Return completamente's `InfillRequest` with its defaults."""
    fields = ["content", *(f"timings/{t}" for t in ("prompt_n", "predicted_n", "predicted_ms"))]
    return {
        "id_slot": 0, "input_prefix": prefix, "input_suffix": suffix, "input_extra": [], "prompt": "",
        "n_predict": 128, "n_indent": 0, "top_k": 40, "top_p": 0.90, "samplers": ["top_k", "top_p", "infill"],
        "stream": False, "cache_prompt": True, "t_max_prompt_ms": 500, "t_max_predict_ms": 250,
        "response_fields": [*fields, "truncated", "tokens_cached"], "temperature": 0.0, "stop": [], **more,
    }  # fmt: skip


_EXTRA = [{"filename": "src/Main.kt", "text": "fun main() = println(add(1, 2))\n"}]
REBUILT = (
    _get("llm-gateway", "/v1/models"),
    _get("llm-gateway", "/api/version"),
    _post("llm-gateway", "/api/show", {"model": "fake"}),
    _post(
        "llm-gateway", "/v1/completions",
        {"model": "fake", "prompt": BEFORE, "max_tokens": 256, "temperature": 0.2, "stream": False, "suffix": AFTER},
        Authorization="Bearer key",
    ),
    _post(
        "proxyai", "/v1/completions",
        {"stream": False, "prompt": BEFORE, "suffix": AFTER, "model": "any", "temperature": 0.2, "max_tokens": 64},
        Accept="application/json", **{"X-LLM-Application-Tag": "proxyai"},
    ),
    _post(
        "proxyai", "/api/generate",
        {
            "model": "fake", "prompt": BEFORE, "suffix": AFTER, "stream": False, "raw": True,
            "options": {"stop": ["\n\n"], "num_predict": 128, "temperature": 0.4},
        },
        Accept="application/json",
    ),
    _post(
        "proxyai", "/completion",
        {
            "prompt": _FRAMED, "stream": False, "n_predict": 128, "temperature": 0.0, "top_k": 40, "top_p": 0.9,
            "min_p": 0.05, "repeat_penalty": 1.1, "stop": ["<|endoftext|>", "<file_sep>", "\n\n"],
        },
        Accept="application/json",
    ),
    _get("completamente", "/health"),
    _post(
        "completamente", "/infill",
        _infill(
            "", "", input_extra=_EXTRA, n_predict=0, samplers=[], t_max_prompt_ms=1, t_max_predict_ms=1,
            response_fields=[""],
        ),
    ),
    _post(
        "completamente", "/infill",
        _infill("def add(a, b):\n", AFTER, prompt="    return ", n_indent=4, input_extra=_EXTRA),
    ),
    _get("ollama-jetbrains", "/api/tags"),
    _post(
        "ollama-jetbrains", "/api/generate",
        {
            "model": "fake", "prompt": BEFORE, "stream": True, "raw": False,
            "system": "Complete the given code. Output only the generated suffix.",
            "options": {"num_ctx": 2048, "top_p": 0.9, "top_k": 40, "temperature": 0.8},
        },
    ),
    _get("llama.vscode", "/health"),
    _get("llama.vscode", "/v1/models"),
    _get("llama.vscode", "/props?model=fake&autoload=false"),
    _post("llama.vscode", "/apply-template", {"messages": _CHAT, "model": "fake", "tool_choice": "auto"}),
    _post(
        "llama.vscode", "/tokenize",
        {"content": "Be brief.Say hello.?", "add_special": False, "parse_special": True},
    ),
    _get("pi-llama", "/v1/models"),
    _get("pi-llama", "/props"),
    _post("llama-swap", "/v1/completions", {"model": "fake", "prompt": BEFORE, "max_tokens": 8}),
    _post("llama-swap", "/v1/completions", {"model": "fake", "prompt": BEFORE, "max_tokens": 8, "stream": True}),
    _post("llama-swap", "/infill", {"input_prefix": BEFORE, "input_suffix": AFTER, "n_predict": 8, "n_cmpl": 2}),
)  # fmt: skip


def positive(value: object) -> int:
    """Return a number as `getPositiveInteger` in llama.vscode and the gateway read it."""
    assert isinstance(value, int)
    assert value > 0
    return value


def llm_gateway(sent: Sent, got: Got) -> str:
    """Read as the gateway: the context size, and `cleanCompletionText` of the first choice."""
    answer = got.json()
    if sent.path == "/v1/models":
        (model,) = answer["data"]
        assert positive(model["max_model_len"]) == positive(model["meta"]["n_ctx"])
        return str(model["id"])
    if sent.path == "/api/version":
        return str(answer["version"])
    if sent.path == "/api/show":
        (context,) = (v for k, v in answer["model_info"].items() if k.endswith(".context_length"))
        assert positive(context)
        return " ".join(answer["capabilities"])
    text = str(answer["choices"][0]["text"])
    return text.rstrip("\n") if text.strip() else ""


def proxyai(sent: Sent, got: Got) -> str:
    """Read as `parseOpenAITextCompletion`, `parseOllamaCompletion` and `parseLlamaCompletion`."""
    answer = got.json()
    if sent.path == "/v1/completions":
        return str(answer["choices"][0]["text"])
    return str(answer["response" if sent.path == "/api/generate" else "content"])


def completamente(sent: Sent, got: Got) -> str:
    """Read as its `InfillResponse`, whose types must fit; it ignores the response to a warm-up."""
    answer = got.json()
    if sent.path == "/health" or sent.body["n_predict"] == 0:
        return ""
    assert set(answer) == set(sent.body["response_fields"])
    for name in ("timings/prompt_n", "timings/predicted_n", "tokens_cached"):
        assert isinstance(answer[name], int)
    assert isinstance(answer["timings/predicted_ms"], float)
    assert isinstance(answer["truncated"], bool)
    return str(answer["content"])


def ollama_jetbrains(sent: Sent, got: Got) -> str:
    """Read as ollama4j: the list of models, or lines until one is done."""
    if sent.path == "/api/tags":
        return " ".join(m["name"] for m in got.json()["models"])
    text = ""
    for line in map(json.loads, got.text.splitlines()):
        text += str(line["response"])
        if line["done"]:
            assert isinstance(line["total_duration"], int)
            return text
    raise AssertionError("no line is done")


def llama_vscode(sent: Sent, got: Got) -> str:
    """Read as llama.vscode's chat: it takes a server with `meta` for llama.cpp's, and asks it for the context size."""
    answer = got.json()
    if sent.path == "/health":
        return str(answer["status"])
    if sent.path == "/v1/models":
        assert isinstance(answer["data"][0]["meta"], dict)
    elif sent.path == "/apply-template":
        return str(answer["prompt"])
    elif sent.path == "/tokenize":
        return str(len(answer["tokens"]))
    else:
        positive(answer["default_generation_settings"]["n_ctx"])
    return ""


def pi_llama(sent: Sent, got: Got) -> str:
    """Read with pi-llama's schemas."""
    answer = got.json()
    if sent.path == "/v1/models":
        assert all(
            isinstance(m["meta"][k], int) for m in answer["data"] for k in ("n_ctx", "n_params")
        )
        return ""
    positive(answer["default_generation_settings"]["n_ctx"])
    assert isinstance(answer["chat_template"], str)
    return str(answer["build_info"])


def llama_swap(sent: Sent, got: Got) -> str:
    """Read as its activity log: the last `timings` of a stream, of an object, or of a list of `/infill`."""
    found: Any = None
    if sent.body.get("stream"):
        for event in got.events():
            found = found if event == "[DONE]" else json.loads(event).get("timings", found)
    else:
        answer = got.json()
        found = (answer[-1] if isinstance(answer, list) else answer)["timings"]
    assert isinstance(found["prompt_n"], int)
    assert isinstance(found["cache_n"], int)
    assert found["prompt_per_second"] >= 0
    assert found["predicted_per_second"] >= 0
    return str(found["predicted_n"])


READ: dict[str, Reader] = {
    "llm-gateway": llm_gateway, "proxyai": proxyai, "completamente": completamente,
    "ollama-jetbrains": ollama_jetbrains, "llama.vscode": llama_vscode, "pi-llama": pi_llama,
    "llama-swap": llama_swap,
}  # fmt: skip
