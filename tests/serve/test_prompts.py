from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.prompt.fim import WINDOW_STEPS, PromptBuilder
from serve.prompt.framed_prompt import Prompt
from tests.support.fakes import EOG, FIM, FakeDecoder


def build(
    prefix: str,
    suffix: str | None = None,
    *,
    max_tokens: int = 10,
    n_ctx: int = 100,
    **model: object,
) -> Prompt:
    decoder = FakeDecoder()
    for name, value in model.items():
        setattr(decoder, name, value)
    return PromptBuilder(decoder, n_ctx).build(prefix, suffix, max_tokens=max_tokens)


def ids(text: str) -> tuple[int, ...]:
    return tuple(text.encode())


def test_prompt_that_fits_is_unchanged() -> None:
    prompt = build("def f():")
    assert (prompt.tokens, prompt.max_tokens, prompt.truncated) == (ids("def f():"), 10, ())


def test_suffix_gives_a_fill_in_the_middle_prompt() -> None:
    assert build("ab", "cd").tokens == (FIM.prefix, *ids("ab"), FIM.suffix, *ids("cd"), FIM.middle)


def test_model_without_fim_gets_only_the_prefix() -> None:
    assert build("ab", "cd", fim=None).tokens == ids("ab")


def test_special_token_names_in_prefix_and_suffix_stay_text() -> None:
    tokens = build("a <fim_suffix> b", "<fim_middle>").tokens
    assert tokens.count(FIM.suffix) == tokens.count(FIM.middle) == 1


def test_fim_tokens_in_a_raw_prompt_are_parsed() -> None:
    tokens = build("<fim_prefix>ab<fim_suffix>cd<fim_middle>").tokens
    assert tokens == build("ab", "cd").tokens


def test_start_token_begins_empty_prompts_and_those_of_bos_models() -> None:
    assert build("").tokens == (EOG,)
    assert build("", adds_bos=True).tokens == (EOG,)
    assert build("x", adds_bos=True).tokens == (EOG, *ids("x"))


def test_long_prompt_is_truncated_at_its_beginning() -> None:
    prompt = build("a" * 200 + "the end", max_tokens=20)
    n_dropped = 200 + len("the end") - 80
    step = 80 // WINDOW_STEPS
    n_dropped = -(-n_dropped // step) * step
    assert prompt.tokens == ids("a" * (200 - n_dropped) + "the end")
    assert prompt.truncated == ("prompt",)
    assert prompt.max_tokens == 20


def test_large_max_tokens_is_clamped_to_the_remaining_context() -> None:
    prompt = build("a" * 60, max_tokens=4096)
    assert (prompt.max_tokens, prompt.truncated) == (40, ("max_tokens",))


def test_long_prompt_and_large_max_tokens_share_the_context() -> None:
    prompt = build("a" * 500, max_tokens=4096)
    assert 75 - 75 // WINDOW_STEPS < len(prompt.tokens) <= 75
    assert prompt.max_tokens == 25
    assert prompt.truncated == ("prompt", "max_tokens")


@pytest.mark.parametrize("after", [None, "the suffix"])
def test_window_begins_at_the_same_text_while_the_user_types(after: str | None) -> None:
    document = "".join(f"{i:04}" for i in range(1000))
    starts = []
    for n in range(2000, 2020):
        tokens = build(document[:n], after, n_ctx=512, max_tokens=12).tokens
        text = bytes(t for t in tokens if t < EOG).decode().removesuffix(after or "")
        starts.append(n - len(text))
    assert len(set(starts)) <= 2
    assert starts == sorted(starts)


@pytest.mark.parametrize("written_by_client", [False, True])
def test_truncation_keeps_fim_tokens_and_text_near_the_cursor(written_by_client: bool) -> None:
    before, after = "a" * 300 + "NEAR", "near" + "b" * 300
    if written_by_client:
        prompt = build(f"<fim_prefix>{before}<fim_suffix>{after}<fim_middle>")
    else:
        prompt = build(before, after)
    tokens = list(prompt.tokens)
    assert 90 - 90 // WINDOW_STEPS <= len(tokens) <= 90
    at = tokens.index(FIM.suffix)
    assert tokens[0] == FIM.prefix
    assert tokens[-1] == FIM.middle
    assert bytes(tokens[1:at]).endswith(b"NEAR")
    assert bytes(tokens[at + 1 : -1]).startswith(b"near")
    assert at > len(tokens) - at  # the prefix gets the larger share


def test_suffix_uses_the_room_that_a_short_prefix_leaves() -> None:
    prompt = build("ab", "c" * 300)
    assert len(prompt.tokens) == 90
    assert ids("ab") == prompt.tokens[1:3]


def test_only_the_end_of_a_very_long_prompt_is_tokenized() -> None:
    seen = []

    class Counting(FakeDecoder):
        def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
            seen.append(len(text))
            return super().tokenize(text, parse_special=parse_special)

    prompt = PromptBuilder(Counting(), 100).build("x" * 5_000_000, "", max_tokens=10)
    assert 90 - 90 // WINDOW_STEPS <= len(prompt.tokens) <= 90
    assert max(seen) <= 3200


@given(
    st.text(st.sampled_from("ab<"), max_size=80),
    st.text(st.sampled_from("cd>"), max_size=80),
    st.integers(0, 5000),
    st.integers(2, 120),
    st.booleans(),
)
def test_prompt_and_max_tokens_always_fit_the_context(
    prefix: str, suffix: str, max_tokens: int, n_ctx: int, bos: bool
) -> None:
    prompt = build(prefix, suffix, max_tokens=max_tokens, n_ctx=n_ctx, adds_bos=bos)
    assert len(prompt.tokens) >= 1
    assert len(prompt.tokens) + prompt.max_tokens <= n_ctx
    assert prompt.max_tokens <= max_tokens
    assert prompt.max_tokens > 0 or max_tokens == 0
    assert ("max_tokens" in prompt.truncated) == (prompt.max_tokens < max_tokens)
