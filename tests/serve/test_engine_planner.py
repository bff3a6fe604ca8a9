"""The planner's choice of tokens for each step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.engine.planner import GIVES_WAY, LEAST_CHUNK, OLDEST_TURN, Planner
from serve.engine.sequence import Sequence
from serve.engine.slots import Slots
from serve.request import Rank
from tests.support.fakes import sequence


def planner(*sequences: Sequence, pooled: bool = False, n_batch: int = 512) -> Planner:
    slots = Slots(len(sequences), pooled=pooled)
    for i, s in enumerate(sequences):
        slots.occupy(i, s, None)
    return Planner(slots, n_batch=n_batch, most_drafted=4)


def prompt(i: int, n: int) -> Sequence:
    return sequence(i, [i] * n, n)


def generating(i: int) -> Sequence:
    return sequence(i, [i], 19)


def sizes(step: list[Sequence]) -> list[tuple[int, int]]:
    return [(s.id, s.stop - s.n_past) for s in step]


def compute(step: list[Sequence]) -> list[tuple[int, int]]:
    computed = sizes(step)
    for s in step:
        s.n_past = s.stop
        if s.is_complete:
            s.tokens.append(7)
    return computed


def test_pooled_prefill_joins_a_decode_step() -> None:
    p = planner(generating(0), prompt(1, 9), pooled=True, n_batch=4)
    assert sizes(p.plan()) == [(0, 1), (1, 3)]


def test_prefill_and_decode_alternate_with_separate_cells() -> None:
    p = planner(generating(0), prompt(1, 9), n_batch=4)
    assert [sizes(p.plan()) for _ in range(4)] == [[(1, 4)], [(0, 1)], [(1, 4)], [(0, 1)]]


def test_prompts_are_prefilled_one_by_one_without_small_pieces() -> None:
    p = planner(prompt(0, 300), prompt(1, 310), pooled=True)
    assert compute(p.plan(alone=256)) == [(0, 300)]
    assert compute(p.plan(beside=256)) == [(0, 1), (1, 310)]


def test_prompts_with_separate_cells_share_a_step_equally() -> None:
    p = planner(prompt(0, 300), prompt(1, 40), prompt(2, 500))
    assert compute(p.plan(alone=400)) == [(0, 180), (1, 40), (2, 180)]
    assert compute(p.plan(alone=400, beside=400)) == [(0, 120), (2, 280)]
    assert compute(p.plan(alone=400, beside=400)) == [(0, 1), (1, 1)]


def test_short_prompts_are_prefilled_in_one_step() -> None:
    p = planner(*(prompt(i, 20) for i in range(16)))
    assert len(p.plan(alone=400)) == 16


def test_long_prompt_is_prefilled_in_pieces_of_the_budget() -> None:
    p = planner(prompt(0, 1000))
    assert [compute(p.plan(alone=300))[0][1] for _ in range(3)] == [300, 300, 400]


def test_shortest_prompt_goes_first_without_starving_a_long_one() -> None:
    long = prompt(0, 10_000)
    p = planner(long, *(prompt(i, 200) for i in range(1, 9)), pooled=True)
    pieces = [c for _ in range(40) for c in compute(p.plan(200, 200)) if c[1] > 1]
    assert [i for i, _ in pieces[: 2 * OLDEST_TURN]] == [1, 2, 3, 0, 4, 5, 6, 0]


def test_no_prompt_is_starved_if_shares_would_be_too_small() -> None:
    p = planner(prompt(0, 10_000), *(prompt(i, 200) for i in range(1, 9)))
    steps = [[i for i, _ in compute(p.plan(100, 100))] for _ in range(OLDEST_TURN)]
    assert [0 in step for step in steps] == [False, False, False, True]


@pytest.mark.parametrize("rank", [Rank.WARM_UP, Rank.LOW, Rank.AHEAD])
def test_steps_of_sequences_that_give_way_are_short(rank: Rank) -> None:
    s = prompt(0, 5000)
    p = planner(s)
    p.observe(500, 0.5)  # a millisecond per token
    assert sizes(p.plan()) == [(0, 512)]
    s.rank = rank
    assert sizes(p.plan()) == [(0, round(1000 * GIVES_WAY))]
    p.observe(500, 500.0)  # ignored
    assert sizes(planner(s).plan()) == [(0, 4 * LEAST_CHUNK)]  # nothing is measured yet


def test_drafts_are_computed_with_the_last_token() -> None:
    one, two = generating(0), prompt(1, 9)
    one.draft, two.draft = [1, 2, 3], [7, 7, 7]
    step = planner(one, two, pooled=True).plan()
    assert [(s.id, s.n_past, s.stop) for s in step] == [(0, 0, 1), (1, 0, 9)]
    assert (one.draft, two.draft) == ([1, 2, 3], [7])


@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=8),
    st.integers(8, 64),
    st.integers(1, 64),
    st.integers(1, 64),
    st.booleans(),
)
def test_every_prompt_is_prefilled_within_the_batch_size(
    sent: list[int], n_batch: int, beside: int, alone: int, pooled: bool
) -> None:
    sequences = [prompt(i, n) for i, n in enumerate(sent)]
    p = planner(*sequences, pooled=pooled, n_batch=n_batch)
    for _ in range(2000):
        if all(s.generates for s in sequences):
            break
        step = p.plan(beside, alone)
        assert step
        assert sum(s.stop - s.n_past for s in step) <= n_batch
        assert all(s.n_past < s.stop for s in step)
        for s in step:
            s.n_past = min(s.stop, len(s.tokens) - 1)
    assert all(s.generates for s in sequences)
