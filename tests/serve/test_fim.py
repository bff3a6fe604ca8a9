"""Fill-in-the-middle prompts: both orders, other files, truncation, and text that continues another text."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from serve.prompt.context_file import ContextFile
from serve.prompt.fim import WINDOW_STEPS, PromptBuilder, PromptText
from serve.prompt.framed_prompt import Prompt, find_frame
from tests.support.fakes import EOG, FIM, FIM_LAYOUTS, FIM_NAMES, FakeDecoder, fake_layouts

FILE_NAMES = (*FIM_NAMES, "<reponame>", "<filename>")
REPOSITORY, FILE = 260, 261


def build(
    before: PromptText = "ab",
    after: str | None = "cd",
    *,
    files: Sequence[ContextFile] = (),
    n_ctx: int = 400,
    max_tokens: int = 10,
    layout: str = "psm",
    name: str = "",
    **model: object,
) -> Prompt:
    decoder = FakeDecoder(fim=fake_layouts(layout))
    for key, value in model.items():
        setattr(decoder, key, value)
    builder = PromptBuilder(decoder, n_ctx)
    return builder.build(before, after, max_tokens=max_tokens, files=files, name=name)


def test_spm_order_puts_the_suffix_first() -> None:
    tokens = build(layout="spm").tokens
    assert tokens == (FIM.prefix, FIM.suffix, *b"cd", FIM.middle, *b"ab")


def test_spm_order_only_appends_tokens_while_typing() -> None:
    """Keep the KV cache of the rest of the prompt valid."""
    one, two = build("ab", layout="spm").tokens, build("abc", layout="spm").tokens
    assert two[: len(one)] == one


def test_client_framed_prompt_keeps_its_structure_when_cut() -> None:
    for layout, text in (
        ("psm", "<fim_prefix>{}<fim_suffix>{}<fim_middle>"),
        ("spm", "<fim_prefix><fim_suffix>{1}<fim_middle>{0}"),
    ):
        made = build("ab", "cd", layout=layout)
        assert build(text.format("ab", "cd"), None).tokens == made.tokens
        before, after = "x" * 300 + "NEAR", "near" + "y" * 300
        long = build(text.format(before, after), None, n_ctx=100).tokens
        assert long == build(before, after, n_ctx=100, layout=layout).tokens
        assert 90 - 90 // WINDOW_STEPS <= len(long) <= 90
        assert b"NEAR" in bytes(t for t in long if t < EOG)
        assert b"near" in bytes(t for t in long if t < EOG)


def test_token_ids_are_not_changed() -> None:
    assert build((1, 2, 3), None, adds_bos=True).tokens == (1, 2, 3)


def test_start_token_of_a_client_is_kept_when_the_prompt_is_cut() -> None:
    tokens = build((EOG, *b"x" * 300, *b"NEAR"), None, n_ctx=100).tokens
    assert tokens[0] == EOG
    assert bytes(tokens[-4:]) == b"NEAR"
    assert len(tokens) <= 90


def test_existing_start_token_is_not_doubled() -> None:
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


def test_other_files_use_the_models_file_tokens() -> None:
    layouts = fake_layouts(names=FILE_NAMES)
    tokens = build(files=FILES, fim=layouts, name="here.py", adds_bos=True).tokens
    assert tokens == (
        EOG, REPOSITORY, *b"code\n", FILE, *b"far.py\nfar = 1\n", FILE, *b"near.py\nnear = 2\n",
        FILE, *b"here.py\n", FIM.prefix, *b"ab", FIM.suffix, *b"cd", FIM.middle,
    )  # fmt: skip


def test_other_files_use_comments_without_file_tokens() -> None:
    comments = b"# far.py\nfar = 1\n\n# near.py\nnear = 2\n\n"
    assert build(files=FILES).tokens == (
        *comments, FIM.prefix, *b"ab", FIM.suffix, *b"cd", FIM.middle,
    )  # fmt: skip
    assert build(files=FILES, fim=None).tokens == (*comments, *b"ab")


def test_typing_does_not_change_the_tokens_of_other_files() -> None:
    """Keep the KV cache of the other files valid."""
    one, two = build("a", files=FILES).tokens, build("ax", files=FILES).tokens
    n = len(b"# far.py\nfar = 1\n\n# near.py\nnear = 2\n\n")
    assert one[: n + 2] == two[: n + 2]


def test_whole_files_are_dropped_beginning_with_the_first() -> None:
    many = [ContextFile(f"{i}", "x" * 40) for i in range(9)]
    prompt = build("a" * 200, "b" * 200, files=many, n_ctx=300)
    text = bytes(t for t in prompt.tokens if t < EOG)
    kept = [i for i in range(9) if b"# %d\n" % i in text]
    assert kept == [8]  # files get a quarter of the prompt
    assert len(prompt.tokens) <= 290
    assert prompt.truncated == ("prompt", "input_extra")
    prompt = build("a", "b", files=many, n_ctx=300)  # files get all the remaining room
    assert prompt.truncated == ("input_extra",)
    assert len(bytes(t for t in prompt.tokens if t < EOG)) > 200


def test_suffix_gets_no_leading_space() -> None:
    tokens = build("ab", "cd", adds_space=True).tokens
    assert tokens == (FIM.prefix, *b" ab", FIM.suffix, *b"cd", FIM.middle)


@given(
    st.text("ab", max_size=60), st.text("cd", max_size=60), st.lists(st.text("ef", max_size=30), max_size=4),
    st.integers(0, 90), st.integers(8, 150), st.sampled_from(["psm", "spm", "mellum"]),
)  # fmt: skip
def test_every_prompt_fits_the_context_and_is_framed(
    before: str, after: str, files: list[str], max_tokens: int, n_ctx: int, layout: str
) -> None:
    prompt = build(
        before,
        after,
        files=[ContextFile(str(i), text) for i, text in enumerate(files)],
        max_tokens=max_tokens,
        n_ctx=n_ctx,
        layout=layout,
    )
    assert len(prompt.tokens) + prompt.max_tokens <= n_ctx
    frame = find_frame([], list(prompt.tokens), FIM_LAYOUTS)
    assert frame.n_structure >= 3
    text = bytes(t for t in frame.before if t < EOG).decode()
    assert before.endswith(text)
    assert after.startswith(bytes(frame.after).decode())
