from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.decoder import BatchItem, Logits
from serve.engine import Emitted, Engine, EngineOptions
from serve.engine.planner import Planner
from serve.engine.prefix_store import PrefixStore
from serve.engine.scheduler import Scheduler
from serve.request import (
    Event,
    Finished,
    GenerationRequest,
    PromptScored,
    SamplingParams,
    StopRules,
    TextDelta,
)
from tests.support.fakes import N_VOCAB, FakeDecoder, letters, script, sequence
from turbopilot.base.errors import ContextLengthExceeded, DecoderFailed, NoKvSlot

GREEDY = SamplingParams(temperature=0)


def request(text: str, max_tokens: int = 8, stop: tuple[str, ...] = ()) -> GenerationRequest:
    return GenerationRequest(tuple(text.encode()), max_tokens, StopRules(stop), GREEDY)


def run(engine: Engine, events: list[Emitted] | None = None) -> dict[int, list[Event]]:
    by_request: dict[int, list[Event]] = defaultdict(list)
    events = list(events or [])
    for _ in range(10_000):
        if not engine.has_work:
            break
        events += engine.step()
        engine.check_integrity()
    assert not engine.has_work
    for request_id, event in events:
        by_request[request_id].append(event)
    return by_request


def run_in_order(engine: Engine) -> list[Emitted]:
    events = []
    while engine.has_work:
        events += engine.step()
    return events


def text_of(events: list[Event]) -> str:
    return "".join(e.text for e in events if isinstance(e, TextDelta))


def last(events: list[Event]) -> Finished:
    *before, end = events
    assert isinstance(end, Finished)
    assert not any(isinstance(e, Finished) for e in before)
    return end


def expected(prompt: str, n: int) -> str:
    history = list(prompt.encode())
    for _ in range(n):
        history.append(letters(history))
    return bytes(history[len(prompt.encode()) :]).decode()


def test_generation_ends_at_max_tokens() -> None:
    engine = Engine(FakeDecoder())
    events = run(engine, engine.submit(1, request("def f():", 5)))[1]
    assert text_of(events) == expected("def f():", 5)
    end = last(events)
    assert (end.reason, end.usage.prompt_tokens, end.usage.completion_tokens) == ("length", 8, 5)


def test_end_token_gives_finish_reason_stop() -> None:
    engine = Engine(FakeDecoder(script("yes")))
    events = run(engine, engine.submit(1, request("well?", 50)))[1]
    assert text_of(events) == "yes"
    assert last(events).reason == "stop"


def test_stop_string_ends_the_text_and_is_left_out() -> None:
    engine = Engine(FakeDecoder(script("one\ntwo")))
    events = run(engine, engine.submit(1, request("well?", 50, ("\nt", "zzz"))))[1]
    assert text_of(events) == "one"
    assert last(events).reason == "stop"


def test_partial_stop_string_is_returned_at_the_end() -> None:
    engine = Engine(FakeDecoder(script("one\n")))
    events = run(engine, engine.submit(1, request("well?", 50, ("\nt",))))[1]
    assert text_of(events) == "one\n"


def test_second_request_reuses_the_common_prefix() -> None:
    decoder = FakeDecoder(n_batch=64)
    engine = Engine(decoder)
    run(engine, engine.submit(1, request("import os\ndef f():", 4)))
    decoder.batches.clear()
    events = run(engine, engine.submit(2, request("import os\ndef g():", 4)))[2]
    assert last(events).usage.cached_tokens == len("import os\ndef ")
    assert decoder.batches[0] == len("g():")
    assert text_of(events) == expected("import os\ndef g():", 4)


def test_repeated_request_is_answered_from_the_answer_cache() -> None:
    decoder = FakeDecoder(n_batch=64)
    engine = Engine(decoder)
    run(engine, engine.submit(1, request("import os", 6)))
    decoder.batches.clear()
    events = run(engine, engine.submit(2, request("import os", 4)))[2]
    assert text_of(events) == expected("import os", 4)
    assert last(events).usage.cached_tokens == len("import os")
    assert decoder.batches == []
    # The user typed two tokens of the completion: four are in the answer cache, the rest is computed.
    typed = "import os" + expected("import os", 2)
    events = run(engine, engine.submit(3, request(typed, 6)))[3]
    assert text_of(events) == expected(typed, 6)
    assert engine.metrics.known_tokens == 4 + 4
    assert sum(decoder.batches) <= 1 + 2 + engine.metrics.drafted_tokens


def test_answer_cache_is_not_used_with_penalties_or_log_probabilities() -> None:
    decoder = FakeDecoder(n_batch=64)
    engine = Engine(decoder)
    run(engine, engine.submit(1, request("import os", 4)))
    penalized = replace(GREEDY, repeat_penalty=1.1)
    prompt = tuple(b"import os")
    for more in ({"sampling": penalized}, {"n_logprobs": 2}):
        decoder.batches.clear()
        run(engine, engine.submit(2, replace(request("import os", 4), **more)))
        assert sum(decoder.batches) >= 4
    assert engine.metrics.known_tokens == 0
    assert prompt


def test_model_that_cannot_cut_a_sequence_computes_the_whole_prompt() -> None:
    engine = Engine(FakeDecoder(can_cut=False))
    run(engine, engine.submit(1, request("import os\ndef f():", 4)))
    events = run(engine, engine.submit(2, request("import os\ndef g():", 4)))[2]
    assert last(events).usage.cached_tokens == 0
    assert text_of(events) == expected("import os\ndef g():", 4)


def test_zero_max_tokens_warms_the_cache() -> None:
    decoder = FakeDecoder(n_batch=64)
    engine = Engine(decoder)
    events = run(engine, engine.submit(1, request("import os\n", 0)))[1]
    assert (last(events).reason, text_of(events)) == ("length", "")
    events = run(engine, engine.submit(2, request("import os\nx", 2)))[2]
    assert last(events).usage.cached_tokens == len("import os\n")


def test_cache_warming_waits_for_a_completion() -> None:
    decoder = FakeDecoder(n_seq=2, n_batch=4, n_cells=512)
    engine = Engine(decoder, EngineOptions(n_slots=2))
    engine.submit(1, request("w" * 40, 0))
    engine.step()
    engine.submit(2, request("r" * 20, 3))
    ended = [i for i, e in run_in_order(engine) if isinstance(e, Finished)]
    assert ended == [2, 1]


def test_request_larger_than_the_context_is_rejected() -> None:
    engine = Engine(FakeDecoder(n_ctx=64))
    ((_, event),) = engine.submit(1, request("x" * 60, 5))
    assert isinstance(last([event]).error, ContextLengthExceeded)


def test_empty_prompt_and_out_of_vocabulary_ids_are_rejected() -> None:
    engine = Engine(FakeDecoder())
    for prompt in ((), (5000,), (-1,)):
        ((_, event),) = engine.submit(1, GenerationRequest(prompt, 5))
        assert last([event]).reason == "error"


def test_cancelled_request_ends_once_and_frees_its_slot() -> None:
    engine = Engine(FakeDecoder())
    assert engine.submit(1, request("a", 100)) == engine.submit(2, request("b", 3)) == []
    engine.step()
    (*_, (_, end)) = engine.cancel(1)
    assert last([end]).reason == "cancelled"
    assert engine.cancel(1) == []
    assert text_of(run(engine)[2]) == expected("b", 3)


def test_queued_request_can_be_cancelled() -> None:
    engine = Engine(FakeDecoder())
    engine.submit(1, request("a", 3))
    engine.submit(2, request("b", 3))
    engine.step()
    assert [last([e]).reason for _, e in engine.cancel(2)] == ["cancelled"]
    assert list(run(engine)) == [1]


def test_full_kv_cache_clears_idle_slots_before_ending_a_request() -> None:
    refuse: list[bool] = []

    def fail(_: object) -> NoKvSlot | None:
        return NoKvSlot("full") if refuse and refuse.pop() else None

    decoder = FakeDecoder(n_seq=2, fail=fail)
    engine = Engine(decoder, EngineOptions(n_slots=2))
    run(engine, engine.submit(1, request("aaaa", 3)))
    refuse.append(True)
    events = run(engine, engine.submit(2, request("bbbb", 3)))
    assert text_of(events[2]) == expected("bbbb", 3)

    decoder.kv.update({0: [], 1: []})
    engine = Engine(decoder, EngineOptions(n_slots=2))
    refuse.extend([True] * 3)
    events = run(engine, engine.submit(3, request("cccc", 3)))
    assert isinstance(last(events[3]).error, NoKvSlot)


def test_server_seed_makes_completions_repeatable() -> None:
    def outputs(seed: int) -> list[str]:
        decoder = FakeDecoder()
        engine = Engine(decoder, EngineOptions(random_seed=seed))
        hot = SamplingParams(temperature=100.0, top_p=1.0)
        texts = []
        for i in range(3):
            events = run(engine, engine.submit(i, GenerationRequest((65,), 10, sampling=hot)))[i]
            texts.append(text_of(events))
        return texts

    assert outputs(1) == outputs(1)
    assert outputs(1) != outputs(2)
    assert len(set(outputs(1))) == 3  # equal requests differ


@settings(deadline=None, max_examples=150)
@given(
    n_seq=st.integers(1, 4),
    n_batch=st.integers(4, 24),
    can_cut=st.booleans(),
    is_split=st.booleans(),
    drafts=st.booleans(),
    stored=st.sampled_from([0, 600, 10**6]),
    jobs=st.lists(
        st.tuples(
            st.text(st.sampled_from("ab"), min_size=1, max_size=30),
            st.integers(0, 12),
            st.one_of(st.none(), st.integers(0, 30)),
        ),
        min_size=1,
        max_size=10,
    ),
    seed=st.integers(0, 2**16),
)
def test_each_request_ends_once_with_text_independent_of_other_requests(
    n_seq: int,
    n_batch: int,
    can_cut: bool,
    is_split: bool,
    drafts: bool,
    stored: int,
    jobs: list[tuple[str, int, int | None]],
    seed: int,
) -> None:
    rng = random.Random(seed)
    n_cells = 64 * n_seq if is_split else 64
    decoder = FakeDecoder(n_ctx=64, n_cells=n_cells, n_seq=n_seq, n_batch=n_batch, can_cut=can_cut)
    options = EngineOptions(n_slots=n_seq, drafts=drafts, prefix_cache_bytes=stored)
    engine = Engine(decoder, options)
    events: list[Emitted] = []
    due = {i: cancel_at for i, (_, _, cancel_at) in enumerate(jobs) if cancel_at is not None}
    pending = list(enumerate(jobs))
    for step in range(3000):
        while pending and rng.random() < 0.5:
            i, (prompt, n, _) = pending.pop(0)
            events += engine.submit(i, request(prompt, n))
        for i in [i for i, at in due.items() if at == step]:
            events += engine.cancel(i)
        events += engine.step()
        engine.check_integrity()
        if not pending and not engine.has_work:
            break
    assert not engine.has_work
    by_request: dict[int, list[Event]] = defaultdict(list)
    for i, event in events:
        by_request[i].append(event)
    assert set(by_request) == set(range(len(jobs)))
    for i, (prompt, n, _) in enumerate(jobs):
        end = last(by_request[i])
        assert expected(prompt, n).startswith(text_of(by_request[i]))
        if end.reason == "length":
            assert text_of(by_request[i]) == expected(prompt, n)
            assert end.usage.completion_tokens == n
        else:
            assert end.reason == "cancelled"
            assert i in due


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(4, 12),
)
def test_scheduler_keeps_its_limits_and_order(
    sizes: list[tuple[int, int]], n_slots: int, n_batch: int
) -> None:
    scheduler = Scheduler(
        FakeDecoder(n_ctx=64, n_batch=n_batch, n_seq=n_slots), n_slots, PrefixStore(0)
    )
    planner = Planner(scheduler.slots, n_batch=n_batch, most_drafted=0)
    for i, (n_prompt, n_more) in enumerate(sizes):
        scheduler.add(sequence(i, [i] * n_prompt, n_more))
    order: list[int] = []
    for _ in range(3000):
        if not scheduler.has_work:
            break
        order += [s.id for s in scheduler.admit()]
        step = planner.plan()
        assert 1 <= sum(s.stop - s.n_past for s in step) <= n_batch
        assert len(scheduler.slots.running) <= n_slots
        for s in step:
            scheduler.slots.computed(s, s.stop)
            if s.is_complete and len(s.tokens) == s.n_reserved:
                scheduler.remove(s)
            elif s.is_complete:
                s.tokens.append(99)
        scheduler.check_integrity()
    assert order == list(range(len(sizes)))  # first come, first served, and none is lost


@pytest.mark.parametrize(("n_slots", "n_batch"), [(0, 4), (5, 4)])
def test_more_slots_than_the_batch_size_are_rejected(n_slots: int, n_batch: int) -> None:
    with pytest.raises(ValueError, match="slots"):
        Scheduler(FakeDecoder(n_ctx=64, n_batch=n_batch), n_slots, PrefixStore(0))


def test_fake_decoder_rejects_a_skipped_position() -> None:
    with pytest.raises(AssertionError, match="position"):
        FakeDecoder().decode([BatchItem(1, 1, 0, True)])


def spread(history: Sequence[int]) -> Logits:
    """Return logits with several likely letters that depend on the last two tokens.

    Texts repeat, so drafts are often accepted.
    """
    rng = np.random.default_rng([*history[-2:], 7])
    row = np.full(N_VOCAB, -30.0, dtype=np.float32)
    row[ord("a") : ord("e")] = rng.normal(size=4) * 3
    return row


@settings(deadline=None, max_examples=60)
@given(
    prompt=st.text("abcd", min_size=1, max_size=20),
    temperature=st.sampled_from([0.3, 1.0]),
    more=st.sampled_from(
        [{}, {"top_k": 2}, {"repeat_penalty": 1.3}, {"min_p": 0.2}, {"top_p": 0.7}]
    ),
    seed=st.integers(0, 100),
)
def test_drafts_do_not_change_sampled_text(
    prompt: str, temperature: float, more: dict[str, float], seed: int
) -> None:
    sampling = SamplingParams(temperature=temperature, **{"top_p": 1.0, **more}, seed=seed)  # type: ignore[arg-type]
    sent = GenerationRequest(tuple(prompt.encode()), 40, sampling=sampling)
    texts = []
    for drafts in (False, True):
        decoder = FakeDecoder(row=spread, n_batch=64)
        engine = Engine(decoder, EngineOptions(drafts=drafts))
        for i in range(3):  # the later ones can draft from an earlier completion
            texts.append(text_of(run(engine, engine.submit(i, sent))[i]))
    assert len(set(texts)) == 1
    assert engine.metrics.accepted_tokens > 0


def test_each_token_has_log_probabilities() -> None:
    engine = Engine(FakeDecoder(row=spread))
    sent = GenerationRequest(tuple(b"abc"), 6, sampling=GREEDY, n_logprobs=2)
    events = run(engine, engine.submit(1, sent))[1]
    tokens = [t for e in events if isinstance(e, TextDelta) for t in e.tokens]
    assert b"".join(t.token.data for t in tokens).decode() == text_of(events)
    assert len(tokens) == 6
    for t in tokens:
        assert t.top[0].id == t.token.id  # greedy
        assert len(t.top) == 2
        assert t.top[1].logprob <= t.token.logprob < 0


def test_looking_ahead_computes_the_next_completion() -> None:
    decoder = FakeDecoder(n_batch=64)
    engine = Engine(decoder, EngineOptions(looks_ahead=True))
    assert not engine.can_look_ahead
    run(engine, engine.submit(1, request("import os", 6)))
    ready = [engine.can_look_ahead]
    engine.look_ahead()
    assert engine.has_work
    assert run(engine) == {}  # no events
    ready.append(engine.can_look_ahead)
    assert ready == [True, False]  # only once
    decoder.batches.clear()
    taken = "import os" + expected("import os", 6)
    events = run(engine, engine.submit(2, request(taken, 6)))[2]
    assert text_of(events) == expected(taken, 6)
    assert decoder.batches == []
    assert engine.metrics.finished == {"length": 2}
    assert engine.metrics.ahead_tokens == 6


def test_new_request_cancels_looking_ahead() -> None:
    decoder = FakeDecoder(n_batch=64)
    engine = Engine(decoder, EngineOptions(looks_ahead=True, drafts=False))
    run(engine, engine.submit(1, request("import os", 6)))
    engine.look_ahead()
    engine.step()
    engine.step()
    taken = "import os" + expected("import os", 6)
    decoder.batches.clear()
    events = run(engine, engine.submit(2, request(taken, 6)))[2]
    assert text_of(events) == expected(taken, 6)
    assert sum(decoder.batches) == 4  # two were in the answer cache
    assert engine.metrics.running == 0


def test_looking_ahead_stops_at_the_end_of_the_context() -> None:
    engine = Engine(FakeDecoder(n_ctx=32), EngineOptions(looks_ahead=True))
    run(engine, engine.submit(1, request("x" * 20, 10)))
    engine.look_ahead()
    assert not engine.has_work
    assert not Engine(FakeDecoder()).can_look_ahead


@pytest.mark.parametrize("max_tokens", [0, 3])
def test_prompt_tokens_are_scored_despite_cache_and_failures(max_tokens: int) -> None:
    lost: list[DecoderFailed] = []
    decoder = FakeDecoder(
        row=spread, n_batch=64, n_seq=2, fail=lambda _: lost.pop() if lost else None
    )
    engine = Engine(decoder, EngineOptions(n_slots=2))
    text = "abcdabcadbacdbacbd" * 4
    run(engine, engine.submit(0, request(text, 4)))  # cached tokens are scored, too
    sent = replace(request(text, max_tokens), n_logprobs=2, scores_prompt=True)
    events = engine.submit(1, sent)
    engine.submit(2, request("dcba" * 9, 5))
    events += engine.step()
    lost.append(DecoderFailed("rebuilt"))
    told = run(engine, events)[1]
    judged = [t for e in told if isinstance(e, PromptScored) for t in e.tokens]
    assert bytes(t.token.id for t in judged).decode() == text
    assert np.isnan(judged[0].token.logprob)
    for i in range(1, len(text)):
        row = spread(text.encode()[:i]).astype(np.float64)
        row -= np.log(np.exp(row).sum())
        assert judged[i].token.logprob == pytest.approx(row[ord(text[i])])
        assert [t.id for t in judged[i].top] == list(np.argsort(-row)[:2])
    assert last(told).usage.completion_tokens == max_tokens
    assert last(told).usage.cached_tokens == 0
