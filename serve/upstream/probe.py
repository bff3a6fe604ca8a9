"""Probe of an upstream when it is first reached: its engine, model, context and vocabulary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from serve.decoder import Tokenizer
from serve.upstream.client import BROKEN, EngineClient
from serve.upstream.dialect import EngineDialect, EngineFacts
from serve.upstream.llama_dialect import LlamaServerDialect, TurboPilotDialect
from serve.upstream.ollama_dialect import OllamaDialect
from serve.upstream.openai_dialect import (
    LlamaCppPythonDialect,
    OpenAiDialect,
    SglangDialect,
    VllmDialect,
)

PROBE_SECONDS: Final = 5.0
_DIALECTS: Final[Mapping[str, type[EngineDialect]]] = {
    d.engine: d
    for d in (
        LlamaCppPythonDialect, LlamaServerDialect, OllamaDialect, OpenAiDialect, SglangDialect, TurboPilotDialect,
        VllmDialect,
    )
}  # fmt: skip
# `owned_by` of a model in /v1/models → the engine. Sources: tools/server/server-context.cpp in llama.cpp,
# vllm/entrypoints/openai/models/serving.py, ModelCard in SGLang's protocol.py, llama_cpp/server/app.py.
_OWNERS: Final = {
    "turbopilot": TurboPilotDialect.engine, "llamacpp": LlamaServerDialect.engine, "vllm": VllmDialect.engine,
    "sglang": SglangDialect.engine, "me": LlamaCppPythonDialect.engine,
}  # fmt: skip
# Requests that engines compute at once by default, if they do not report it. Sources: vLLM's max_num_seqs is 256 or
# more; SGLang's max_running_requests depends on the memory; OLLAMA_NUM_PARALLEL is 1; llama-cpp-python has a lock.
_SLOTS: Final = {
    VllmDialect.engine: 64, SglangDialect.engine: 64, OllamaDialect.engine: 1, LlamaCppPythonDialect.engine: 1,
}  # fmt: skip
# llama-cpp-python (n_ctx in server/settings.py) and Ollama (OLLAMA_CONTEXT_LENGTH) cut or refuse longer prompts.
_CONTEXTS: Final = {LlamaCppPythonDialect.engine: 2048, OllamaDialect.engine: 4096}
_TEXT: Final = (
    "def add(a, b):\n\treturn a + b  # ✓ 12345\n"  # tokenizers that differ split it differently
)


class ProbeFailed(Exception):
    """An upstream cannot be used now; the text states why."""


def probe(
    client: EngineClient, tokenizer: Tokenizer, *, model: str = "", n_ctx: int | None = None
) -> EngineDialect:
    """Return the dialect of an upstream, with the facts that it reports.

    Args:
        client: connections to it.
        tokenizer: ours, which must be the same as its own if it takes token ids.
        model: model name for its requests; "" means the first one that it lists.
        n_ctx: the context to assume, or to ask for, if it does not report it.

    Raises:
        ProbeFailed: it does not answer, is still loading, or has another model.
    """
    listed = _models(client)
    chosen = next((m for m in listed if model in ("", m.get("id"))), None)
    if chosen is None:
        names = ", ".join(str(m.get("id")) for m in listed)
        raise ProbeFailed(f"it has no model {model}; its models: {names or 'none'}")
    engine = _OWNERS.get(str(chosen.get("owned_by")), "")
    if not engine:
        is_ollama = b"Ollama is running" in _get(client, "/")[1]
        engine = OllamaDialect.engine if is_ollama else OpenAiDialect.engine
    context = chosen.get("max_model_len")  # vLLM, SGLang, TurboPilot
    slots = _SLOTS.get(engine, 4)
    if engine in (LlamaServerDialect.engine, TurboPilotDialect.engine):
        props = _json(client, "/props")
        context = props.get("default_generation_settings", {}).get("n_ctx")
        slots = props.get("total_slots", slots)
    if not isinstance(context, int):
        context = n_ctx or _CONTEXTS.get(engine)
    facts = EngineFacts(engine, str(chosen.get("id", "")), context, max(1, int(slots)))
    dialect = _DIALECTS[engine](facts)
    _compare(client, dialect, tokenizer)
    return dialect


def _get(client: EngineClient, path: str) -> tuple[int, bytes]:
    try:
        return client.ask(path, timeout=PROBE_SECONDS)
    except BROKEN as e:
        raise ProbeFailed(f"it does not answer: {e or type(e).__name__}") from None


def _json(client: EngineClient, path: str) -> Mapping[str, Any]:
    status, data = _get(client, path)
    if status in (401, 403):
        raise ProbeFailed(f"{path}: status {status}; give its API key with TURBOPILOT_UPSTREAM_KEY")
    if status != 200:
        raise ProbeFailed(f"{path}: status {status}")
    try:
        found = json.loads(data)
    except ValueError:
        raise ProbeFailed(f"{path}: the answer is not JSON") from None
    if not isinstance(found, dict):
        raise ProbeFailed(f"{path}: the answer is not a JSON object")
    return found


def _models(client: EngineClient) -> list[Mapping[str, Any]]:
    found = _json(client, "/v1/models").get("data") or []
    if not (isinstance(found, list) and all(isinstance(m, dict) for m in found)):
        raise ProbeFailed("/v1/models: not a list of models")
    return found


def _compare(client: EngineClient, dialect: EngineDialect, tokenizer: Tokenizer) -> None:
    """Raise ProbeFailed if the upstream tokenizes a text differently: our token ids would mean something else."""
    path, field = dialect.tokenize
    if not (dialect.takes_ids and path):
        return
    body = {
        field: _TEXT,
        "model": dialect.facts.model,
        "add_special_tokens": False,
        "add_special": False,
    }
    try:
        status, data = client.ask(path, body, timeout=PROBE_SECONDS)
        theirs = json.loads(data).get("tokens") if status == 200 else None
    except (*BROKEN, ValueError, AttributeError):
        theirs = None
    if isinstance(theirs, list) and theirs != tokenizer.tokenize(_TEXT, parse_special=True):
        raise ProbeFailed("its tokenizer is not that of MODEL: give the model that it serves")
