"""Fill-in-the-middle: both orders, other files, what is given up first, texts that begin amid another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from serve.prompt.fim import ContextFile, Prompt, PromptBuilder, PromptText, find_frame
from serve.settings import FimOrder
from tests.support.fakes import EOG, FIM, FakeDecoder

REPOSITORY, FILE = 258 + 0x100, 259 + 0x100
NAMING = replace(FIM, repository=REPOSITORY, file=FILE)


def build(
    before: PromptText = "ab",
    after: str | None = "cd",
    *,
    files: Sequence[ContextFile] = (),
    n_ctx: int = 400,
    max_tokens: int = 10,
    order: FimOrder = "psm",
    name: str = "",
    **model: object,
) -> Prompt:
    decoder = FakeDecoder()
    for key, value in model.items():
        setattr(decoder, key, value)
    builder = PromptBuilder(decoder, n_ctx, order=order)
    return builder.build(before, after, max_tokens=max_tokens, files=files, name=name)


def test_suffix_first() -> None:
    tokens = build(order="spm").tokens
    assert tokens == (FIM.prefix, FIM.suffix, *b"cd", FIM.middle, *b"ab")


def test_suffix_first_keeps_what_is_before_the_typing_cursor() -> None:
    """What is typed comes at the end: all before it stays computed."""
    one, two = build("ab", order="spm").tokens, build("abc", order="spm").tokens
    assert two[: len(one)] == one


def test_a_frame_of_either_order_is_found_and_kept_when_shortened() -> None:
    for order, text in (
        ("psm", "<fim_prefix>{}<fim_suffix>{}<fim_middle>"),
        ("spm", "<fim_prefix><fim_suffix>{1}<fim_middle>{0}"),
    ):
        made = build("ab", "cd", order=order)  # type: ignore[arg-type]
        assert build(text.format("ab", "cd"), None).tokens == made.tokens
        before, after = "x" * 300 + "NEAR", "near" + "y" * 300
        long = build(text.format(before, after), None, n_ctx=100).tokens
        assert long == build(before, after, n_ctx=100, order=order).tokens  # type: ignore[arg-type]
        assert len(long) == 90
        assert b"NEAR" in bytes(t for t in long if t < EOG)
        assert b"near" in bytes(t for t in long if t < EOG)


def test_token_ids_are_taken_as_they_are() -> None:
    assert build((1, 2, 3), None, adds_bos=True).tokens == (1, 2, 3)


def test_a_start_that_is_there_is_not_doubled() -> None:
    class Starting(FakeDecoder):
        def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
            start = [EOG] if text.startswith("<s>") and parse_special else []
            return start + super().tokenize(text.removeprefix("<s>"), parse_special=parse_special)

    decoder = Starting()
    decoder.adds_bos = True
    for text in ("<s>ab", "ab"):
        prompt = PromptBuilder(decoder, 100).build(text, max_tokens=1)
        assert prompt.tokens == (EOG, *b"ab")


FILES = (ContextFile("far.py", "far = 1\n\n"), ContextFile("near.py", "near = 2"))


def test_other_files_in_the_models_own_words() -> None:
    tokens = build(files=FILES, fim=NAMING, name="here.py", adds_bos=True).tokens
    assert tokens == (
        EOG, REPOSITORY, *b"code\n", FILE, *b"far.py\nfar = 1\n", FILE, *b"near.py\nnear = 2\n",
        FILE, *b"here.py\n", FIM.prefix, *b"ab", FIM.suffix, *b"cd", FIM.middle,
    )  # fmt: skip


def test_other_files_without_words_for_them() -> None:
    comments = b"# far.py\nfar = 1\n\n# near.py\nnear = 2\n\n"
    assert build(files=FILES).tokens == (
        *comments, FIM.prefix, *b"ab", FIM.suffix, *b"cd", FIM.middle,
    )  # fmt: skip
    assert build(files=FILES, fim=None).tokens == (*comments, *b"ab")


def test_the_block_alone_changes_while_somebody_types() -> None:
    """So that files stay a computed beginning."""
    one, two = build("a", files=FILES).tokens, build("ax", files=FILES).tokens
    n = len(b"# far.py\nfar = 1\n\n# near.py\nnear = 2\n\n")
    assert one[: n + 2] == two[: n + 2]


def test_whole_files_go_the_first_of_them_first() -> None:
    many = [ContextFile(f"{i}", "x" * 40) for i in range(9)]
    prompt = build("a" * 200, "b" * 200, files=many, n_ctx=300)
    text = bytes(t for t in prompt.tokens if t < EOG)
    kept = [i for i in range(9) if b"# %d\n" % i in text]
    assert kept == [8]  # a quarter of the room
    assert len(prompt.tokens) <= 290
    assert prompt.truncated == ("prompt", "input_extra")
    prompt = build("a", "b", files=many, n_ctx=300)  # all the room that is left
    assert prompt.truncated == ("input_extra",)
    assert len(bytes(t for t in prompt.tokens if t < EOG)) > 200


def test_a_text_amid_another_gets_no_space() -> None:
    tokens = build("ab", "cd", adds_space=True).tokens
    assert tokens == (FIM.prefix, *b" ab", FIM.suffix, *b"cd", FIM.middle)


@given(
    st.text("ab", max_size=60), st.text("cd", max_size=60), st.lists(st.text("ef", max_size=30), max_size=4),
    st.integers(0, 90), st.integers(8, 150), st.sampled_from(["psm", "spm"]),
)  # fmt: skip
def test_whatever_is_asked_it_fits_and_is_framed(
    before: str, after: str, files: list[str], max_tokens: int, n_ctx: int, order: FimOrder
) -> None:
    prompt = build(
        before,
        after,
        files=[ContextFile(str(i), text) for i, text in enumerate(files)],
        max_tokens=max_tokens,
        n_ctx=n_ctx,
        order=order,
    )
    assert len(prompt.tokens) + prompt.max_tokens <= n_ctx
    frame = find_frame([], list(prompt.tokens), FIM)
    assert frame.n_structure >= 3
    text = bytes(t for t in frame.before if t < EOG).decode()
    assert before.endswith(text)
    assert after.startswith(bytes(frame.after).decode())
