"""Requests and answers of each engine, in its own format.

llama-server and llama-cpp-python also run in tests/serve/test_upstream_engines.py. The events of vLLM, SGLang and
Ollama are written after their sources, which the modules of the dialects name: these engines do not run here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from serve.request import GenerationRequest, SamplingParams, StopRules
from serve.upstream.client import EngineClient
from serve.upstream.dialect import (
    EngineCall,
    EngineDialect,
    EngineError,
    EngineFacts,
    NotUnderstood,
    prompt_text,
)
from serve.upstream.llama_dialect import LlamaServerDialect, TurboPilotDialect
from serve.upstream.ollama_dialect import OllamaDialect
from serve.upstream.openai_dialect import (
    LlamaCppPythonDialect,
    OpenAiDialect,
    SglangDialect,
    VllmDialect,
)
from serve.upstream.probe import ProbeFailed, probe
from tests.support.engines import (
    Answer,
    EngineExchange,
    FakeEngine,
    always,
    engines,
    listed,
    llama_routes,
)
from tests.support.fakes import FIM, FakeDecoder
from tests.support.upstreams import asked, begin, runner_of, taken

ALL = (
    LlamaServerDialect, TurboPilotDialect, VllmDialect, SglangDialect, LlamaCppPythonDialect, OpenAiDialect,
    OllamaDialect,
)  # fmt: skip
PLAIN = SamplingParams(temperature=0.5, top_p=0.9)
EVERYTHING = SamplingParams(
    temperature=0.5, top_p=0.0, top_k=7, min_p=0.05, repeat_penalty=1.1, frequency_penalty=0.2, presence_penalty=0.3,
    logit_bias=((65, 2.0), (66, -math.inf)), seed=2**40 + 5,
)  # fmt: skip


def body_of(
    kind: type[EngineDialect], sampling: SamplingParams = PLAIN, **more: Any
) -> Mapping[str, Any]:
    request = asked("ab", 9, sampling=sampling, **more)
    call = EngineCall(request, request.prompt, 9, ends=(257,), seed=sampling.seed)
    body = kind(EngineFacts(kind.engine, "the-model", 4096)).body(call)
    return dict(json.loads(json.dumps(body)))  # it must be JSON


def choice(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "cmpl-1",
        "choices": [{"index": 0, "text": text, "finish_reason": finish, **more}],
    }


def test_omitted_sampling_fields_are_sent_as_off() -> None:
    """Engines have other defaults: llama.cpp's top_k is 40, and vLLM's come from the model's generation_config.json."""
    assert {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}.items() <= body_of(
        LlamaServerDialect
    ).items()
    for kind in (VllmDialect, SglangDialect):
        assert {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}.items() <= body_of(
            kind
        ).items()
    assert {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}.items() <= body_of(
        LlamaCppPythonDialect
    ).items()
    options = body_of(OllamaDialect)["options"]
    assert {
        "top_k": 0,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "num_ctx": 4096,
    }.items() <= options.items()


@pytest.mark.parametrize("kind", ALL, ids=lambda k: k.engine)
def test_stop_strings_are_not_sent(kind: type[EngineDialect]) -> None:
    """Find them with our own rules: an engine's rules would end the text at another place."""
    body = body_of(kind, stop=StopRules(("\n\n",), single_line=True))
    assert not body.get("stop")
    assert not body.get("options", {}).get("stop")


def test_token_ids_that_end_a_text_are_sent_to_engines_that_do_not_know_them() -> None:
    assert body_of(VllmDialect)["stop_token_ids"] == [257]
    assert body_of(SglangDialect)["stop_token_ids"] == [257]


def test_bias_is_sent_by_token_id() -> None:
    assert body_of(LlamaServerDialect, EVERYTHING)["logit_bias"] == [[65, 2.0], [66, False]]
    for kind in (VllmDialect, SglangDialect, LlamaCppPythonDialect, OpenAiDialect):
        assert body_of(kind, EVERYTHING)["logit_bias"] == {"65": 2.0, "66": -100.0}


def test_values_are_in_the_range_of_the_engine() -> None:
    assert body_of(VllmDialect, EVERYTHING)["top_p"] > 0
    assert 0 <= body_of(LlamaServerDialect, EVERYTHING)["seed"] < 2**31
    assert body_of(TurboPilotDialect, EVERYTHING)["seed"] == 2**40 + 5


def test_json_schema_is_sent_without_our_own_options() -> None:
    schema = {"type": "object"}
    sampling = SamplingParams(schema=json.dumps({**schema, "x-guidance": {}}))
    assert body_of(LlamaServerDialect, sampling)["json_schema"] == schema
    assert body_of(OllamaDialect, sampling)["format"] == schema
    assert body_of(VllmDialect, sampling)["response_format"]["json_schema"]["schema"] == schema


@pytest.mark.parametrize(
    ("kind", "features"),
    [
        (OpenAiDialect, ("json_schema", "logprobs", "top_k", "min_p", "repeat_penalty", "echo")),
        (LlamaCppPythonDialect, ("json_schema", "logprobs", "echo")),
        (OllamaDialect, ("logprobs", "logit_bias", "echo")),
        (VllmDialect, ("echo", "lora")),
        (LlamaServerDialect, ("echo", "lora")),
    ],
    ids=lambda v: getattr(v, "engine", None),
)
def test_missing_features_of_an_engine_are_refused(
    kind: type[EngineDialect], features: tuple[str, ...]
) -> None:
    needing: dict[str, GenerationRequest] = {
        "json_schema": asked("x", sampling=SamplingParams(schema="{}")),
        "logprobs": asked("x", n_logprobs=0),
        "top_k": asked("x", sampling=SamplingParams(top_k=1)),
        "min_p": asked("x", sampling=SamplingParams(min_p=0.1)),
        "repeat_penalty": asked("x", sampling=SamplingParams(repeat_penalty=1.1)),
        "logit_bias": asked("x", sampling=SamplingParams(logit_bias=((1, 1.0),))),
        "echo": asked("x", scores_prompt=True),
        "lora": asked("x", adapters=((0, 1.0),)),
    }
    dialect = kind(EngineFacts(kind.engine))
    refused = [name for name, request in needing.items() if dialect.refuse(request)]
    assert sorted(refused) == sorted({*features, "lora"})
    error = dialect.refuse(needing["echo"])
    assert error
    assert error.param == "echo"


def vllm(e: EngineExchange) -> None:
    """Answer as `completion_stream_generator` in vLLM: deltas with their token ids, then a chunk with the usage."""
    e.begin()
    e.event({**choice("he", token_ids=[104, 101], logprobs=None, stop_reason=None), "model": "m"})
    e.event(choice("y", token_ids=[121]))
    e.event(choice("", "stop", token_ids=[256], stop_reason=None))
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    e.event({"id": "cmpl-1", "choices": [], "usage": usage})
    e.event("[DONE]")
    e.end()


def sglang(e: EngineExchange) -> None:
    """Answer as `_generate_completion_stream` in SGLang."""
    e.begin()
    e.event(choice("hey", token_ids=[104, 101, 121], matched_stop=None))
    e.event(choice("", "stop", token_ids=[256], matched_stop=256))
    usage = {
        "prompt_tokens": 3,
        "total_tokens": 7,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 1},
    }
    e.event(
        {
            "id": "1",
            "object": "text_completion",
            "created": 1,
            "model": "m",
            "choices": [],
            "usage": usage,
        }
    )
    e.event("[DONE]")
    e.end()


def plain_openai(e: EngineExchange) -> None:
    """Answer as llama-cpp-python's `_create_completion`, with sse-starlette's pings and line ends."""
    e.begin()
    e.send(b": ping - 2026-01-01\r\n\r\n")
    e.send(f"data: {json.dumps(choice('he', logprobs=None))}\r\n\r\n".encode())
    e.event(choice("y"))
    e.event(choice("", "stop"))
    e.event("[DONE]")
    e.end()


def ollama(e: EngineExchange) -> None:
    """Answer as GenerateHandler in Ollama: a GenerateResponse a line, the last one with its Metrics."""
    e.begin()
    for text in ("he", "y"):
        e.line(
            {"model": "m", "created_at": "2026-01-01T00:00:00Z", "response": text, "done": False}
        )
    e.line({
        "model": "m", "created_at": "2026-01-01T00:00:00Z", "response": "", "done": True, "done_reason": "stop",
        "total_duration": 9, "load_duration": 1, "prompt_eval_count": 3, "prompt_eval_duration": 2_000_000,
        "eval_count": 3, "eval_duration": 4,
    })  # fmt: skip
    e.end()


def tokenizes(field: str) -> Answer:
    return lambda e: e.reply(
        {"tokens": list(e.body[field].encode()), "count": 1, "max_model_len": 64}
    )


ROUTES: Mapping[str, Callable[[], dict[str, Answer]]] = {
    "vLLM": lambda: {
        "/v1/models": listed("vllm", max_model_len=64), "/health": always(b""), "/tokenize": tokenizes("prompt"),
        "/v1/completions": vllm,
    },
    "SGLang": lambda: {
        "/v1/models": listed("sglang", max_model_len=64), "/health": always(b""), "/tokenize": tokenizes("prompt"),
        "/v1/completions": sglang,
    },
    "llama-cpp-python": lambda: {"/v1/models": listed("me", permissions=[]), "/v1/completions": plain_openai},
    "OpenAI API": lambda: {"/v1/models": listed("someone"), "/v1/completions": plain_openai},
    "Ollama": lambda: {
        "/v1/models": listed("library"), "/": always(b"Ollama is running"), "/api/version": always({"version": "0.9"}),
        "/api/generate": ollama,
    },
}  # fmt: skip


@pytest.mark.parametrize("engine", ROUTES)
def test_engine_is_recognized_and_its_answer_read(engine: str) -> None:
    with engines(ROUTES[engine]()) as (fake,), runner_of([fake], n_ctx=64) as runner:
        assert runner.upstreams.statuses[0].engine == engine
        text, end = taken(begin(runner, asked("abc", 8)))
        assert (text, end.reason) == ("hey", "stop")
        n_tokens, n_cached = {"vLLM": (3, 1), "SGLang": (3, 1)}.get(engine, (2, 0))
        assert (end.usage.completion_tokens, end.usage.cached_tokens) == (n_tokens, n_cached)
        runner.upstreams.check()
        assert runner.upstreams.statuses[0].state == "healthy"
        sent = next(
            e.body for e in fake.seen if e.body and "prompt" in e.body and e.path != "/tokenize"
        )
        assert sent["model"] == "the-model"
        assert sent["prompt"] == ([97, 98, 99] if engine in ("vLLM", "SGLang") else "abc")


def test_log_probabilities_of_vllm_and_sglang_are_read() -> None:
    tokenizer = FakeDecoder()
    exact = {
        "tokens": ["token_id:104"], "token_logprobs": [-0.5], "text_offset": [0],
        "top_logprobs": [{"token_id:104": -0.5, "token_id:105": -1.5}],
    }  # fmt: skip
    named = {
        "tokens": ["h"], "token_logprobs": [-0.5], "text_offset": [0], "top_logprobs": [{"h": -0.5, "i": -1.5}],
    }  # fmt: skip
    for kind, logprobs in ((VllmDialect, exact), (SglangDialect, named)):
        piece = kind(EngineFacts("")).piece(
            choice("h", logprobs=logprobs, token_ids=[104]), tokenizer
        )
        assert piece
        (chosen,) = piece.chosen
        assert (chosen.token.id, chosen.token.data, chosen.token.logprob) == (104, b"h", -0.5)
        assert [(t.id, t.data) for t in chosen.top] == [(104, b"h"), (105, b"i")]


def test_log_probabilities_of_llama_server_are_read() -> None:
    top = {"id": 104, "token": "h", "bytes": [104], "logprob": -0.5}
    event = {
        "content": "h", "tokens": [104], "stop": False, "completion_probabilities": [{**top, "top_logprobs": [top]}],
    }  # fmt: skip
    piece = LlamaServerDialect(EngineFacts("")).piece(event, FakeDecoder())
    assert piece.chosen[0].token.data == b"h"
    assert piece.chosen[0].top[0].id == 104
    assert body_of(LlamaServerDialect, n_logprobs=0)["n_probs"] == 1


@pytest.mark.parametrize("reason", ["abort", "content_filter"])
def test_aborted_completion_is_an_error(reason: str) -> None:
    with pytest.raises(EngineError, match=reason):
        SglangDialect(EngineFacts("")).piece(choice("x", reason), FakeDecoder())


@pytest.mark.parametrize(
    "line", [b"data: {", b"data: []", b"<html>\n", b'{"a": 1}\n', b"data: {}\n"]
)
def test_line_without_an_event_is_an_error(line: bytes) -> None:
    with pytest.raises(NotUnderstood):
        VllmDialect(EngineFacts("")).event(line)


@pytest.mark.parametrize("line", [b"\n", b"\r\n", b": ping\n", b"event: message\n", b"id: 3\n"])
def test_lines_without_data_are_skipped(line: bytes) -> None:
    assert VllmDialect(EngineFacts("")).event(line) is None


def test_prompt_as_text_has_the_names_of_its_special_tokens() -> None:
    tokenizer = FakeDecoder()
    tokens = (FIM.prefix, *b"a", FIM.suffix, *b"b", FIM.middle)
    assert prompt_text(tokenizer, tokens) == "<fim_prefix>a<fim_suffix>b<fim_middle>"


def test_prompt_as_text_has_no_start_token_and_no_added_space() -> None:
    tokenizer = FakeDecoder()
    tokenizer.adds_bos = tokenizer.adds_space = True
    assert prompt_text(tokenizer, (tokenizer.start_token, *b" a b")) == "a b"


def probed(fake: FakeEngine, **more: Any) -> EngineDialect:
    client = EngineClient(fake.address)
    try:
        return probe(client, FakeDecoder(), **more)
    finally:
        client.close()


def test_upstream_with_another_tokenizer_is_refused() -> None:
    routes = llama_routes()
    routes["/tokenize"] = always({"tokens": [1, 2, 3]})
    with (
        engines(routes) as (fake,),
        pytest.raises(ProbeFailed, match="tokenizer is not that of MODEL"),
    ):
        probed(fake)


def test_named_model_is_used_if_the_upstream_has_it() -> None:
    routes = llama_routes()
    models = [{"id": n, "owned_by": "llamacpp"} for n in ("a", "b")]
    routes["/v1/models"] = always({"data": models})
    with engines(routes) as (fake,):
        assert probed(fake).facts.model == "a"
        assert probed(fake, model="b").facts.model == "b"
        with pytest.raises(ProbeFailed, match="no model c; its models: a, b"):
            probed(fake, model="c")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (always({}, 401), "TURBOPILOT_UPSTREAM_KEY"), (always({"error": {}}, 503), "status 503"),
        (always(b"hello"), "not JSON"), (always([]), "not a JSON object"), (always({"data": [1]}), "not a list"),
        (always({"data": []}), "no model"),
    ],
)  # fmt: skip
def test_upstream_that_is_not_ready_states_why(answer: Answer, words: str) -> None:
    with engines({"/v1/models": answer}) as (fake,), pytest.raises(ProbeFailed, match=words):
        probed(fake)


def test_key_is_sent_to_the_upstream() -> None:
    with engines(llama_routes()) as (fake,):
        client = EngineClient(fake.address, "secret")
        assert client.ask("/health")[0] == 200
        client.close()
        assert fake.seen[0].headers["Authorization"] == "Bearer secret"
