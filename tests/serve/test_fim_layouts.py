"""Layouts of fill-in-the-middle prompts: the choice of a model's layout, and prompts that clients have framed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.prompt.bound_layout import tokens_of
from serve.prompt.context_file import ContextFile
from serve.prompt.fim import PromptBuilder
from serve.prompt.framed_prompt import PIECE, Prompt, find_frame
from serve.prompt.layout_choice import choose_layouts
from serve.prompt.layouts import LAYOUTS, NAMES, FimLayout
from tests.support.fakes import EOG, FakeDecoder, fake_layouts
from turbopilot.base.errors import InvalidInput
from turbopilot.catalog import MODELS
from turbopilot.formats.gguf.metadata import FIM_ORDER_KEY

BY_NAME = {layout.name: layout for layout in LAYOUTS}


def names_of(layout: FimLayout) -> list[str]:
    """Return the tokens of a vocabulary for this layout."""
    return list(dict.fromkeys(tokens_of(layout.infill + layout.project + layout.file)))


def decoder_of(name: str) -> FakeDecoder:
    names = names_of(BY_NAME[name])
    return FakeDecoder(fim=fake_layouts(name, names), names=[n.removeprefix("▁") for n in names])


def vocabulary(names: Sequence[str], **keys: object) -> dict[str, object]:
    return {"tokenizer.ggml.tokens": ["a", *names], **keys}


def chosen(names: Sequence[str], known: str = "", keys: Mapping[str, object] | None = None) -> str:
    found = choose_layouts(vocabulary(names, **(keys or {})), known=known)  # type: ignore[arg-type]
    return found.chosen.name if found else ""


def test_names_are_unique_and_every_layout_has_prefix_suffix_and_source() -> None:
    assert len(set(NAMES)) == len(NAMES)
    for layout in LAYOUTS:
        for template in filter(None, (layout.infill, layout.project)):
            assert template.count("{prefix}") == template.count("{suffix}") == 1
        assert "{text}" in layout.file
        assert layout.source
        assert layout.models


def test_layouts_of_the_catalogue_exist() -> None:
    assert {m.fim for m in MODELS} - {""} <= set(NAMES)


# Layouts whose tokens are also those of another one, which is preferred.
SAME_TOKENS = {
    "starcoder-spm": "starcoder", "santacoder-spm": "santacoder", "codellama-spm": "codellama", "refact": "starcoder",
    "granite": "starcoder",
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_model_without_keys_is_recognized_by_the_names_of_its_tokens(layout: FimLayout) -> None:
    names = [*names_of(layout), *layout.signs, *layout.stops]
    assert chosen(names) == SAME_TOKENS.get(layout.name, layout.name)


def test_catalogue_decides_between_layouts_with_the_same_tokens() -> None:
    names = names_of(BY_NAME["mellum"])
    assert chosen(names, "mellum") == "mellum"
    assert chosen(names, "starcoder") == "starcoder"
    assert chosen(names, "qwen") == chosen(names), "the vocabulary does not have its tokens"


def test_order_in_the_file_overrides_the_catalogue() -> None:
    names = names_of(BY_NAME["starcoder"])
    assert chosen(names, "starcoder", {FIM_ORDER_KEY: "spm"}) == "spm"
    assert chosen(names, "starcoder", {FIM_ORDER_KEY: "unknown"}) == "starcoder"


def test_ids_of_the_file_give_a_layout_for_tokens_with_unknown_names() -> None:
    keys = {"fim_pre": 1, "suffix": 2, "fim_mid": 3, "fim_rep": 4, "fim_sep": 5}
    ids = {f"tokenizer.ggml.{key}_token_id": token for key, token in keys.items()}
    found = choose_layouts(vocabulary(["<a>", "<b>", "<c>", "<d>", "<e>"], **ids))  # type: ignore[arg-type]
    assert found
    assert found.chosen.text == "psm: <a>…<b>…<c>"
    assert found.chosen.project[:1] == (4,)
    assert found.chosen.separator == 5
    del ids["tokenizer.ggml.fim_mid_token_id"]
    assert chosen(["<a>", "<b>", "<c>"], keys=ids) == ""


@pytest.mark.parametrize("value", [-1, 4, "1", True, None, [1]])
def test_unusable_ids_of_the_file_are_ignored(value: object) -> None:
    ids: dict[str, object] = {f"tokenizer.ggml.fim_{r}_token_id": 1 for r in ("pre", "suf")}
    ids["tokenizer.ggml.fim_mid_token_id"] = value
    assert chosen(["<a>", "<b>", "<c>"], keys=ids) == ""


def test_control_characters_of_a_token_are_not_shown() -> None:
    ids = {f"tokenizer.ggml.fim_{r}_token_id": i + 1 for i, r in enumerate(("pre", "suf", "mid"))}
    found = choose_layouts(vocabulary(["\x1b[31m", "x" * 9999, "<c>"], **ids))  # type: ignore[arg-type]
    assert found
    assert found.chosen.text.isprintable()
    assert len(found.chosen.text) < 200


def test_plain_vocabulary_has_no_layout() -> None:
    assert choose_layouts({}) is None
    assert chosen(["<fim_prefix>", "<fim_suffix>"]) == ""


def test_spelling_without_sentencepiece_space_is_accepted() -> None:
    found = choose_layouts({"tokenizer.ggml.tokens": ["<PRE>", "<SUF>", "<MID>"]})
    assert found
    assert found.chosen.text == "codellama: <PRE>…<SUF>…<MID>"


def test_unusable_layout_is_an_error_that_names_the_token_and_the_usable_layouts() -> None:
    with pytest.raises(
        InvalidInput, match=r"--fim-layout codestral: a\.gguf has no token \[SUFFIX\]"
    ) as e:
        choose_layouts(vocabulary(names_of(BY_NAME["qwen"])), wanted="codestral", file="a.gguf")  # type: ignore[arg-type]
    assert "qwen" in e.value.hint
    assert "--fim-layout" in e.value.hint
    with pytest.raises(InvalidInput, match="names no tokens for prefix, suffix and middle") as e:
        choose_layouts(vocabulary([]), wanted="psm")  # type: ignore[arg-type]
    assert "no tokens for fill-in-the-middle" in e.value.hint


# Prompts of each layout, written by hand: around a prefix "ab" and a suffix "cd" in "here.py", alone and with "far.py".
# "." stands for a token; their names follow in order.
PROMPTS: dict[str, tuple[str, str]] = {
    "starcoder": (
        "<fim_prefix>ab<fim_suffix>cd<fim_middle>",
        "<reponame>code\n<filename>far.py\nfar = 1\n<filename>here.py\n<fim_prefix>ab<fim_suffix>cd<fim_middle>",
    ),
    "starcoder-spm": (
        "<fim_prefix><fim_suffix>cd<fim_middle>ab",
        "<reponame>code\n<filename>far.py\nfar = 1\n<filename>here.py\n<fim_prefix><fim_suffix>cd<fim_middle>ab",
    ),
    "starcoder2": (
        "<fim_prefix>ab<fim_suffix>cd<fim_middle>",
        "<repo_name>code<file_sep>far.py\nfar = 1\n<file_sep><fim_prefix>here.py\nab<fim_suffix>cd<fim_middle>",
    ),
    "refact": (
        "<fim_prefix>ab<fim_suffix>cd<fim_middle>",
        "# far.py\nfar = 1\n\n<fim_prefix>ab<fim_suffix>cd<fim_middle>",
    ),
    "granite": (
        "<fim_prefix>ab<fim_suffix>cd<fim_middle>",
        "# far.py\nfar = 1\n\n<fim_prefix>ab<fim_suffix>cd<fim_middle>",
    ),
    "mellum": (
        "<filename>here.py\n<fim_suffix>cd<fim_prefix>ab<fim_middle>",
        "<filename>far.py\nfar = 1\n<filename>here.py\n<fim_suffix>cd<fim_prefix>ab<fim_middle>",
    ),
    "santacoder": (
        "<fim-prefix>ab<fim-suffix>cd<fim-middle>",
        "# far.py\nfar = 1\n\n<fim-prefix>ab<fim-suffix>cd<fim-middle>",
    ),
    "santacoder-spm": (
        "<fim-prefix><fim-suffix>cd<fim-middle>ab",
        "# far.py\nfar = 1\n\n<fim-prefix><fim-suffix>cd<fim-middle>ab",
    ),
    "qwen": (
        "<|fim_prefix|>ab<|fim_suffix|>cd<|fim_middle|>",
        "<|repo_name|>code\n<|file_sep|>far.py\nfar = 1\n<|file_sep|>here.py\n"
        "<|fim_prefix|>ab<|fim_suffix|>cd<|fim_middle|>",
    ),
    "codegemma": (
        "<|fim_prefix|>ab<|fim_suffix|>cd<|fim_middle|>",
        "# far.py\nfar = 1\n<|file_separator|><|fim_prefix|>ab<|fim_suffix|>cd<|fim_middle|>",
    ),
    "deepseek": (
        "<｜fim▁begin｜>ab<｜fim▁hole｜>cd<｜fim▁end｜>",
        "<｜fim▁begin｜>#far.py\nfar = 1\n\n#here.py\nab<｜fim▁hole｜>cd<｜fim▁end｜>",
    ),
    "codellama": ("<PRE>ab<SUF>cd<MID>", "# far.py\nfar = 1\n\n<PRE>ab<SUF>cd<MID>"),
    "codellama-spm": ("<PRE><SUF>cd<MID>ab", "# far.py\nfar = 1\n\n<PRE><SUF>cd<MID>ab"),
    "glm": (
        "<|code_prefix|>ab<|code_suffix|>cd<|code_middle|>",
        "# far.py\nfar = 1\n\n<|code_prefix|>ab<|code_suffix|>cd<|code_middle|>",
    ),
    "seed-coder": (
        "<[fim-suffix]>cd<[fim-prefix]>ab<[fim-middle]>",
        "# far.py\nfar = 1\n\n<[fim-suffix]>cd<[fim-prefix]>ab<[fim-middle]>",
    ),
    "codestral": (
        "[SUFFIX]cd[PREFIX]ab",
        "[SUFFIX]cd[PREFIX]+++++ far.py \nfar = 1\n\n+++++ here.py\nab",
    ),
}  # fmt: skip
each_layout = pytest.mark.parametrize("name", PROMPTS)


def test_every_layout_is_tested() -> None:
    assert list(PROMPTS) == [layout.name for layout in LAYOUTS]


@each_layout
def test_prompt_is_written_as_the_models_authors_write_it(name: str) -> None:
    decoder = decoder_of(name)
    builder = PromptBuilder(decoder, 400)
    alone, among_files = (tuple(decoder.tokenize(t, parse_special=True)) for t in PROMPTS[name])
    assert builder.build("ab", "cd", max_tokens=9, name="here.py").tokens == alone
    files = [ContextFile("far.py", "far = 1\n\n")]
    made = builder.build("ab", "cd", max_tokens=9, name="here.py", files=files)
    assert made.tokens == among_files
    assert (bytes(made.before), bytes(made.after)) == (b"ab", b"cd")
    assert bytes(made.tokens[made.window :][:2]) in (b"ab", b"cd")


def test_lone_file_without_a_name_has_no_header() -> None:
    tokens = PromptBuilder(decoder_of("mellum"), 400).build("ab", "cd", max_tokens=9).tokens
    decoder = decoder_of("mellum")
    by_hand = "<fim_suffix>cd<fim_prefix>ab<fim_middle>"
    assert list(tokens) == decoder.tokenize(by_hand, parse_special=True)


@each_layout
def test_frame_of_a_client_is_found_in_every_layout(name: str) -> None:
    decoder = decoder_of(name)
    for text in PROMPTS[name]:
        tokens = decoder.tokenize(text, parse_special=True)
        found = find_frame([], tokens, decoder.fim)
        assert list(found.tokens) == tokens
        assert bytes(found.before).endswith(b"ab")
        assert bytes(found.after) == b"cd"
        assert found.n_structure >= 2


@each_layout
def test_long_prompt_of_a_client_keeps_every_token_of_its_frame(name: str) -> None:
    decoder = decoder_of(name)
    text = PROMPTS[name][1].replace("ab", "x" * 300 + "NEAR").replace("cd", "near" + "y" * 300)
    text = text.replace("far = 1", "far = 1 # " + "z" * 300)
    prompt = PromptBuilder(decoder, 200).build(text, max_tokens=20)
    assert len(prompt.tokens) <= 180
    assert prompt.truncated == ("prompt",)
    assert decoder.fim
    markers = [t for t in prompt.tokens if t in decoder.fim.chosen.frame]
    assert tuple(markers) == decoder.fim.chosen.frame
    assert b"NEAR" in bytes(t for t in prompt.tokens if t < EOG)
    assert b"near" in bytes(t for t in prompt.tokens if t < EOG)


@each_layout
def test_text_longer_than_the_tokenized_limit_keeps_its_frame(name: str) -> None:
    decoder = decoder_of(name)
    text = PROMPTS[name][0].replace("ab", "x" * 9000 + "NEAR").replace("cd", "near" + "y" * 9000)
    prompt = PromptBuilder(decoder, 200).build(text, max_tokens=20)
    assert decoder.fim
    assert {*decoder.fim.chosen.frame} <= {*prompt.tokens}
    assert bytes(prompt.before).endswith(b"NEAR")
    assert bytes(prompt.after).startswith(b"near")
    assert len(prompt.tokens) <= 180


def test_context_in_front_of_a_frame_loses_whole_files_but_not_the_header() -> None:
    decoder = decoder_of("qwen")
    files = "".join(f"<|file_sep|>{i}.py\n{'f' * 50}\n" for i in range(9))
    text = (
        f"<|repo_name|>mine\n{files}<|file_sep|>here.py\n"
        f"<|fim_prefix|>{'x' * 200}<|fim_suffix|>{'y' * 90}<|fim_middle|>"
    )
    prompt = PromptBuilder(decoder, 320).build(text, max_tokens=20)
    kept = bytes(t for t in prompt.tokens if t < EOG).decode()
    assert kept.startswith("mine\n8.py\nfff")
    assert "here.py\nxxx" in kept
    assert len(prompt.tokens) <= 300


def test_long_context_without_file_tokens_loses_its_beginning() -> None:
    decoder = decoder_of("seed-coder")
    context = "".join(f"{i:03} " for i in range(200))
    prompt = PromptBuilder(decoder, 400).build(
        f"{context}<[fim-suffix]>cd<[fim-prefix]>ab<[fim-middle]>", max_tokens=20
    )
    kept = bytes(t for t in prompt.tokens if t < EOG).decode()
    assert kept.endswith("199 cdab")
    assert 380 - PIECE <= len(prompt.tokens) <= 380
    assert prompt.truncated == ("prompt",)


@pytest.mark.parametrize(
    "text",
    ["ab", "<fim_prefix>ab", "<fim_suffix>ab<fim_middle>", "<fim_middle>a<fim_suffix>b<fim_prefix>c",
     "<fim_prefix>a<fim_suffix>b<fim_suffix>c<fim_middle>", "<fim_prefix>a<fim_prefix>b<fim_suffix>c<fim_middle>", ""],
)  # fmt: skip
def test_unframed_prompt_is_all_prefix(text: str) -> None:
    decoder = decoder_of("starcoder")
    tokens = decoder.tokenize(text, parse_special=True)
    found = find_frame([], tokens, decoder.fim)
    assert (found.before, found.after, found.n_structure) == (tokens, [], 0)


def test_start_of_the_completion_after_the_frame_is_kept() -> None:
    decoder = decoder_of("qwen")
    text = "<|fim_prefix|>" + "x" * 300 + "<|fim_suffix|>cd<|fim_middle|>begun"
    tokens = PromptBuilder(decoder, 100).build(text, max_tokens=10).tokens
    assert bytes(tokens[-5:]) == b"begun"


SPOKEN = {
    "codellama": ("<PRE> {} <SUF>{} <MID>", "<PRE> ab<SUF>cd<MID>"),
    "codellama-spm": ("<PRE> <SUF>{1} <MID> {0}", "<PRE><SUF>cd<MID> ab"),
    "codestral": ("[SUFFIX]{1}[PREFIX]{0}", "[SUFFIX]cd[PREFIX] ab"),
}


@pytest.mark.parametrize("name", SPOKEN)
def test_sentencepiece_prompts_of_clients_have_the_spaces_of_the_layout(name: str) -> None:
    """Meta and Mistral put SentencePiece's space before the prefix alone; Zed and Continue send these texts."""
    names = names_of(BY_NAME[name])
    decoder = FakeDecoder(fim=fake_layouts(name, names))
    decoder.adds_space = True
    written, meant = SPOKEN[name]
    built = PromptBuilder(decoder, 400).build("ab", "cd", max_tokens=9).tokens
    sent = PromptBuilder(decoder, 400).build(written.format("ab", "cd"), max_tokens=9).tokens
    by_hand = decoder_of(name).tokenize(meant, parse_special=True)
    assert list(built) == list(sent) == by_hand


def frame_of(prompt: Prompt) -> list[int]:
    return [token for token in prompt.tokens if token > EOG]


@given(
    st.sampled_from(list(PROMPTS)), st.text("ab\n ", max_size=60), st.text("cd\n ", max_size=60),
    st.lists(st.text("ef", max_size=99), max_size=4), st.integers(40, 200),
)  # fmt: skip
def test_framing_then_finding_returns_the_parts_also_when_cut(
    name: str, before: str, after: str, files: list[str], n_ctx: int
) -> None:
    decoder = decoder_of(name)
    extra = [ContextFile(f"{i}", text) for i, text in enumerate(files)]
    made = PromptBuilder(decoder, 4096).build(before, after, max_tokens=1, files=extra)
    found = find_frame([], list(made.tokens), decoder.fim)
    assert found.tokens == made.tokens
    assert bytes(found.before).endswith(before.encode())
    assert bytes(found.after) == after.encode()
    cut = PromptBuilder(decoder, n_ctx).build(made.tokens, max_tokens=4)
    assert len(cut.tokens) + cut.max_tokens <= n_ctx
    assert decoder.fim
    wanted = list(decoder.fim.chosen.frame)
    kept = frame_of(cut)
    assert [token for token in kept if token in wanted] == wanted
    text = bytes(cut.before)
    assert bytes(found.before).endswith(text)
    assert after.encode().startswith(bytes(cut.after))


def test_prefix_ends_before_the_suffix_in_every_layout() -> None:
    for name, (alone, _) in PROMPTS.items():
        decoder = decoder_of(name)
        tokens = decoder.tokenize(alone, parse_special=True)
        assert decoder.fim
        end = decoder.fim.prefix_end(tokens)
        text = bytes(t for t in tokens[:end] if t < EOG)
        assert text.endswith(b"ab"), name


def test_known_layouts_with_adjacent_tokens_are_tried_first() -> None:
    known = fake_layouts().known
    joined = [bool(layout.joined) for layout in known]
    assert all(a >= b for a, b in pairwise(joined))
    assert joined[0]
