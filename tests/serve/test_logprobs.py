"""Log probabilities, echo, token offsets and best_of in every API, compared with PyTorch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from serve.api.tokens import PlacedTokens, token_text
from serve.decoder import Logits
from serve.engine import Engine, EngineOptions
from serve.http.app import create_app
from serve.llama import load
from serve.models.service import CompletionService
from serve.models.status import ModelInfo
from serve.request import ChosenToken, TokenLogprob
from serve.runner import EngineRunner
from serve.settings import ModelOptions
from tests.support.fakes import N_VOCAB, FakeDecoder
from tests.support.serving import MakeClient, pool_of

PROMPT = "abcd"


def likely(history: Sequence[int]) -> Logits:
    """Return logits of letters that depend on the last three tokens."""
    rng = np.random.default_rng(list(history[-3:]))
    row = np.full(N_VOCAB, -30.0, dtype=np.float32)
    row[ord("a") : ord("g")] = rng.normal(size=6) * 2
    return row


def expected(history: str, token: str) -> float:
    row = likely(history.encode()).astype(np.float64)
    return float(row[ord(token)] - np.log(np.exp(row).sum()))


@pytest.fixture
def client(make_client: MakeClient) -> FlaskClient:
    return make_client(decoder=FakeDecoder(row=likely, n_seq=4, n_batch=64))


def ask(client: FlaskClient, path: str = "/v1/completions", **body: Any) -> Any:
    sent = {"prompt": PROMPT, "max_tokens": 5, "temperature": 0, **body}
    response = client.post(path, json=sent)
    assert response.status_code == 200, response.text
    if not body.get("stream"):
        return response.json
    data = (line.removeprefix("data: ") for line in response.text.splitlines() if line)
    return [json.loads(d) for d in data if d != "[DONE]"]


def check_legacy(logprobs: dict[str, Any], text: str, before: str, offset: int) -> None:
    """Check the log probabilities of `text`, which follows `before` and begins at `offset`."""
    assert "".join(logprobs["tokens"]) == text
    assert logprobs["text_offset"] == list(range(offset, offset + len(text)))
    for i, (token, told, top) in enumerate(
        zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
    ):
        if not before + text[:i]:
            assert told is None
            assert top is None
            continue
        assert told == pytest.approx(expected(before + text[:i], token))
        assert top[token] == told
        assert len(top) in (2, 3)  # includes the chosen token even if it is not among the two best
        assert max(top.values()) == pytest.approx(
            max(expected(before + text[:i], c) for c in "abcdef")
        )


def test_completion_logprobs_have_the_legacy_shape(client: FlaskClient) -> None:
    (choice,) = ask(client, logprobs=2)["choices"]
    check_legacy(choice["logprobs"], choice["text"], PROMPT, len(PROMPT))


def test_zero_logprobs_returns_no_top_logprobs(client: FlaskClient) -> None:
    (choice,) = ask(client, logprobs=0)["choices"]
    assert choice["logprobs"]["top_logprobs"] is None
    assert len(choice["logprobs"]["token_logprobs"]) == 5
    (choice,) = ask(client)["choices"]
    assert choice["logprobs"] is None


def test_echo_scores_the_prompt(client: FlaskClient) -> None:
    (choice,) = ask(client, logprobs=2, echo=True)["choices"]
    assert choice["text"].startswith(PROMPT)
    assert len(choice["text"]) == len(PROMPT) + 5
    check_legacy(choice["logprobs"], choice["text"], "", 0)


def test_prompt_is_scored_with_zero_max_tokens(client: FlaskClient) -> None:
    text = "abacadaeaf" * 9  # more than one step's rows of logits
    answer = ask(client, prompt=text, max_tokens=0, logprobs=2, echo=True)
    (choice,) = answer["choices"]
    assert choice["text"] == text
    check_legacy(choice["logprobs"], text, "", 0)
    assert answer["usage"]["completion_tokens"] == 0


def test_echo_without_logprobs_returns_none(client: FlaskClient) -> None:
    (choice,) = ask(client, echo=True)["choices"]
    assert choice["text"].startswith(PROMPT)
    assert choice["logprobs"] is None


def test_streamed_logprobs_equal_the_whole_answer(client: FlaskClient) -> None:
    (whole,) = ask(client, logprobs=2, echo=True)["choices"]
    chunks = ask(client, logprobs=2, echo=True, stream=True)
    choices = [c["choices"][0] for c in chunks]
    assert "".join(c["text"] for c in choices) == whole["text"]
    told = [c["logprobs"] for c in choices if c["logprobs"]]
    for key, values in whole["logprobs"].items():
        assert [v for t in told for v in t[key]] == values


def test_logprobs_exclude_tokens_cut_off_by_a_stop_string(client: FlaskClient) -> None:
    (whole,) = ask(client, logprobs=2)["choices"]
    stop = whole["text"][2:4]
    at = whole["text"].index(stop)
    (cut,) = ask(client, logprobs=2, stop=stop)["choices"]
    assert cut["text"] == whole["text"][:at]
    assert len(cut["logprobs"]["tokens"]) == at
    chunks = ask(client, logprobs=2, stop=stop, stream=True)
    streamed = [t for c in chunks if (p := c["choices"][0]["logprobs"]) for t in p["tokens"]]
    assert streamed == cut["logprobs"]["tokens"]


def test_best_of_returns_the_likeliest_choices(client: FlaskClient) -> None:
    more: dict[str, Any] = {
        "temperature": 2.0, "top_p": 1, "seed": 7, "max_tokens": 6, "logprobs": 0,
    }  # fmt: skip
    every = ask(client, n=6, **more)["choices"]
    answer = ask(client, n=2, best_of=6, **more)
    means = {c["text"]: np.mean(c["logprobs"]["token_logprobs"]) for c in every}
    best = sorted(means, key=lambda text: -means[text])[:2]
    assert [c["text"] for c in answer["choices"]] == best
    assert [c["index"] for c in answer["choices"]] == [0, 1]
    assert answer["usage"]["completion_tokens"] == 36  # all of them were computed
    no_probabilities = ask(client, n=2, best_of=6, **{**more, "logprobs": None})["choices"]
    assert [c["text"] for c in no_probabilities] == best
    assert no_probabilities[0]["logprobs"] is None


@pytest.mark.parametrize(
    ("body", "param"),
    [({"n": 3, "best_of": 2}, "best_of"), ({"best_of": 2, "stream": True}, "best_of")],
)
def test_invalid_best_of_returns_400(client: FlaskClient, body: dict[str, Any], param: str) -> None:
    response = client.post("/v1/completions", json={"prompt": "a", **body})
    assert response.status_code == 400
    assert response.json
    assert response.json["error"]["param"] == param


def test_token_id_prompts_are_accepted(client: FlaskClient) -> None:
    ids = list(PROMPT.encode())
    text = ask(client)["choices"][0]["text"]
    assert ask(client, prompt=ids)["choices"][0]["text"] == text
    assert [c["text"] for c in ask(client, prompt=[ids, ids])["choices"]] == [text, text]
    (echoed,) = ask(client, prompt=ids, echo=True, logprobs=2)["choices"]
    check_legacy(echoed["logprobs"], PROMPT + text, "", 0)


@pytest.mark.parametrize(
    "prompt",
    [[1, "a"], [[1], "a"], [True], [-1], [1.5], [[1], [2.0]], [{}], [1, 99999]],  # the vocabulary is smaller
)  # fmt: skip
def test_malformed_token_id_prompt_returns_400(client: FlaskClient, prompt: object) -> None:
    response = client.post("/v1/completions", json={"prompt": prompt})
    assert response.status_code == 400


def test_n_probs_returns_llama_cpp_probabilities(client: FlaskClient) -> None:
    for path in ("/completion", "/infill"):
        body = {"n_probs": 2, "n_predict": 5}
        answer = ask(client, path, input_prefix="" if path == "/infill" else None, **body)
        told = answer["completion_probabilities"]
        assert "".join(t["token"] for t in told) == answer["content"]
        for t in told:
            assert t["id"] == ord(t["token"])
            assert t["bytes"] == list(t["token"].encode())
            assert t["top_logprobs"][0]["logprob"] == t["logprob"]  # greedy


def test_partial_character_is_shown_as_bytes() -> None:
    assert token_text("é".encode()[:1]) == "bytes:\\xc3"
    assert token_text("é".encode()) == "é"


@given(st.text(min_size=1, max_size=12), st.lists(st.integers(1, 4), min_size=50, max_size=50))
def test_token_offsets_count_characters_for_any_tokenization(text: str, sizes: list[int]) -> None:
    data, pieces = text.encode(errors="replace"), []
    for n in sizes:
        if data:
            pieces.append(data[:n])
            data = data[n:]
    shown = b"".join(pieces).decode()
    tokens = [ChosenToken(TokenLogprob(0, p, -1.0), ()) for p in pieces]
    placed = PlacedTokens().feed(tokens, len(shown))
    done = b""
    for p, piece in zip(placed, pieces, strict=False):
        assert p.offset == len(done.decode(errors="ignore"))
        done += piece
    assert len(placed) == sum(
        len(b"".join(pieces[:i]).decode(errors="ignore")) < len(shown) for i in range(len(pieces))
    )


@pytest.fixture(scope="module")
def real(demo_gguf: Path) -> Iterator[FlaskClient]:
    options = ModelOptions(threads=2, ctx=512, n_seq=2, cache_type="f32", flash_attention=False)
    decoder, _ = load(demo_gguf, options)
    runner = EngineRunner(Engine(decoder, EngineOptions(n_slots=2)), max_open=9)
    runner.start()
    model = ModelInfo(decoder.name, decoder.n_ctx, decoder.n_vocab, 0)
    yield create_app(pool_of(CompletionService(runner, decoder, model))).test_client()
    runner.close()
    decoder.close()


CODE = "def add(a, b):\n    return a + b\n\n\nclass Naïve🙂:\n    pass\n"


def test_log_probabilities_equal_pytorch(real: FlaskClient) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = Path(__file__).parents[2] / "turbopilot/demo_model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    answer = ask(real, prompt=CODE, max_tokens=8, echo=True, logprobs=3)
    (choice,) = answer["choices"]
    told = choice["logprobs"]
    ids = tokenizer(choice["text"], add_special_tokens=False)["input_ids"]
    n_prompt = len(tokenizer(CODE, add_special_tokens=False)["input_ids"])
    assert answer["usage"]["prompt_tokens"] == n_prompt
    with torch.no_grad():
        rows = model(torch.tensor([ids])).logits[0].double().log_softmax(-1).numpy()
    # Generated text may consist of other tokens than the tokenizer returns, so only the prompt's tokens are compared.
    assert told["token_logprobs"][0] is None
    for i in range(1, n_prompt):
        assert told["token_logprobs"][i] == pytest.approx(rows[i - 1, ids[i]], abs=0.02)
        best = np.sort(rows[i - 1])[::-1][:3]
        top = sorted(told["top_logprobs"][i].values(), reverse=True)[:3]
        assert top == pytest.approx(list(best), abs=0.02)
    # Each token's text is at its offset.
    data = choice["text"].encode()
    at = 0
    for token, offset in zip(told["tokens"], told["text_offset"], strict=True):
        raw = eval(f'b"{token[6:]}"') if token.startswith("bytes:") else token.encode()
        assert data[at : at + len(raw)] == raw
        assert offset == len(data[:at].decode(errors="ignore"))
        at += len(raw)
    assert at == len(data)
    assert not math.isnan(sum(told["token_logprobs"][1:]))
