"""Every kind of tokenizer: llama.cpp's ids equal the reference's, on a megabyte of source and on hostile text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from converters.tokenizer import UNUSED, GgufTokenizer
from converters.tokenizer.looks import token_bytes
from tests.support.tokenizer_samples import (
    EOS,
    HOSTILE,
    N_BASE,
    N_VOCAB,
    PREPEND,
    SPACE,
    byte_level,
    llama_cpp_of,
    metaspace,
    pieces_json,
    read,
    save,
    save_byte_level,
    sentencepiece_bytes,
    source,
)
from turbopilot.base.errors import TokenizerMismatch

MEGABYTE = 1_000_000
# Bytes of source for kinds that need --slow for a megabyte: llama.cpp uses std::regex for most of these
SLOW = {
    "seed": 30_000, "deepseek-coder": 60_000, "deepseek-v3": 60_000, "cl100k": 60_000,
    "llama3": 150_000, "starcoder": 150_000,
}  # fmt: skip

# kind → the expected pre-tokenizer, and one with which llama.cpp splits differently
PRE = {
    "gpt2": ("gpt-2", "qwen2"),
    "starcoder": ("starcoder", "gpt-2"),
    "qwen2": ("qwen2", "llama-bpe"),
    "llama3": ("llama-bpe", "dbrx"),
    "cl100k": ("dbrx", "qwen2"),
    "seed": ("seed-coder", "qwen2"),
    "deepseek-coder": ("deepseek-coder", "deepseek-llm"),
    "deepseek-v3": ("deepseek-v3", "llama-bpe"),
}
MARKS = (
    EOS, f"a{EOS}b {EOS} c\n{EOS}{EOS}\n", "    x        y\n            z", " <think>a</think>\n", "<think><think>",
    f"<|fim_prefix|>def f(<|fim_suffix|>\n    {EOS}", "<|fim_prefix|", "a<|fim_prefix|>",
)  # fmt: skip


def assert_equal(
    encode: Callable[[str], list[int]], wanted: Callable[[str], list[int]], texts: Iterable[str]
) -> None:
    for text in texts:
        ours, theirs = wanted(text), encode(text)
        if ours != theirs:
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), -1)
            pytest.fail(f"{text[:200]!r}: id {at}: {ours[at:][:9]} against {theirs[at:][:9]}")


def reference(path: Path) -> Callable[[str], list[int]]:
    tokenizer = Tokenizer.from_file(str(path))
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def ignoring_merges(cut: str) -> list[list[str]]:
    """Return the merges without every fifth, so that some words can only be matched whole."""
    merges: list[list[str]] = json.loads(byte_level(cut))["model"]["merges"]
    return [merge for i, merge in enumerate(merges) if i % 5]


def parting_blanks(cut: str) -> list[list[str]]:
    """Return the merges without those that join whitespace beyond Latin-1, as in DeepSeek-Coder's published file.

    Merges that contain such a character's first byte, or join its last bytes with the text after it, are removed.
    """
    merges: list[list[str]] = json.loads(byte_level(cut))["model"]["merges"]
    joins = re.compile(rb"[\xe1-\xe3]|^[\x80-\xbf]+[^\x80-\xbf]")
    return [m for m in merges if not joins.search(token_bytes("".join(m)) or b"")]


def made(kind: str, folder: Path) -> None:
    if kind == "deepseek-coder":
        save_byte_level(folder, kind, merges=parting_blanks(kind))
    elif kind == "llama3":
        save_byte_level(folder, kind, ignore_merges=True, merges=ignoring_merges(kind))
    else:
        save_byte_level(folder, kind)


@pytest.mark.parametrize("kind", PRE)
def test_byte_level_bpe_gives_equal_ids_in_llama_cpp(kind: str, tmp_path: Path) -> None:
    made(kind, tmp_path)
    tokenizer, wanted = read(tmp_path), reference(tmp_path / "tokenizer.json")
    assert (tokenizer.pre, tokenizer.pre_origin) == (PRE[kind][0], "by structure")
    assert tokenizer.types.count(UNUSED) == N_VOCAB - N_BASE - 6
    with llama_cpp_of(tokenizer, tmp_path) as encode:
        assert_equal(encode, wanted, [*HOSTILE, *MARKS, *source(SLOW.get(kind, MEGABYTE))])
    with llama_cpp_of(replace(tokenizer, pre=PRE[kind][1]), tmp_path) as encode:
        assert any(encode(text) != wanted(text) for text in HOSTILE), "the texts do not differ"


# Characters that are equal in all versions of Unicode since 2015, and those that tokenizers treat specially
_LETTERS = (
    "aZéÉßжЖ中アあ각عह1٢²½_-.,'\"!?(){}<>=+/\\#@$€😀👍🏽\u200d\u0301\u0308\u00a0\u3000 \t\n\r"
)
_TEXTS = st.lists(
    st.one_of(st.text(_LETTERS, max_size=12), st.sampled_from([*MARKS, *HOSTILE[:60]])), max_size=6
).map("".join)


@pytest.fixture(scope="module", params=[*PRE, "pieces"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterable[tuple[Callable[[str], list[int]], Callable[[str], list[int]]]]:
    folder = tmp_path_factory.mktemp("any-text")
    if request.param == "pieces":
        save(
            folder, {**pieces_json(sentencepiece_bytes()), "normalizer": PREPEND}, eos_token="</s>"
        )
    else:
        made(request.param, folder)
    with llama_cpp_of(read(folder), folder) as encode:
        yield encode, reference(folder / "tokenizer.json")


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(text=_TEXTS)
def test_random_text_gives_equal_ids_in_llama_cpp(
    both: tuple[Callable[[str], list[int]], Callable[[str], list[int]]], text: str
) -> None:
    encode, wanted = both
    assert encode(text) == wanted(text)


def test_plain_token_that_resembles_an_end_token_stays_plain(tmp_path: Path) -> None:
    # Qwen2's vocabulary has "</s>", which its pre-tokenizer always splits; llama.cpp treats it as the end of text.
    data = json.loads(byte_level("qwen2"))
    vocab, merges = data["model"]["vocab"], data["model"]["merges"]
    for left, right in (("<", "/"), ("</", "s"), ("</s", ">")):
        vocab.setdefault(left + right, len(vocab))
        merges.append([left, right])
    vocab[EOS] = len(vocab)  # plain too, but named as the end of text
    save(tmp_path, data)
    tokenizer, wanted = read(tmp_path), Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    wanted.add_special_tokens([EOS])  # as transformers does
    assert tokenizer.tokens[vocab["</s>"]] == "[</s>]"
    assert tokenizer.tokens[vocab[EOS]] == EOS
    with llama_cpp_of(tokenizer, tmp_path) as encode:
        assert_equal(encode, lambda t: list(wanted.encode(t).ids), [f"<s>x</s>{EOS}</s>\n", "</s>"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", SLOW)
def test_byte_level_bpe_gives_equal_ids_on_a_megabyte(kind: str, tmp_path: Path) -> None:
    made(kind, tmp_path)
    with llama_cpp_of(read(tmp_path), tmp_path) as encode:
        assert_equal(encode, reference(tmp_path / "tokenizer.json"), source(MEGABYTE))


@pytest.mark.parametrize("family_pre", ["gpt-2", "qwen2"])
def test_vocab_and_merges_use_the_pre_tokenizer_of_the_family(
    family_pre: str, tmp_path: Path
) -> None:
    cut = {"gpt-2": "gpt2", "qwen2": "qwen2"}[family_pre]
    whole = tmp_path / "whole"
    data = save_byte_level(whole, cut)
    vocab = {**data["model"]["vocab"], EOS: N_BASE}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), "utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in data["model"]["merges"]), ""]
    (tmp_path / "merges.txt").write_text("\r\n".join(lines), "utf-8", newline="")
    added = {t["content"]: t["id"] for t in data["added_tokens"] if t["id"] > N_BASE}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added), "utf-8")
    names = {"eos_token": {"content": EOS}, "extra_special_tokens": ["<|fim_prefix|>", "<|fim_suffix|>"]}  # fmt: skip
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names), "utf-8")
    tokenizer = read(tmp_path, pre_name=family_pre)
    assert tokenizer.pre == family_pre
    assert "by the family" in tokenizer.pre_origin
    from_json = read(whole)
    assert (tokenizer.tokens, tokenizer.types, tokenizer.merges, tokenizer.ids) == (
        from_json.tokens, from_json.types, from_json.merges, from_json.ids,
    )  # fmt: skip
    with llama_cpp_of(tokenizer, tmp_path) as encode:
        assert_equal(encode, reference(whole / "tokenizer.json"), [*HOSTILE, *MARKS])


@pytest.mark.parametrize("form", ["prepend", "always", "first", "never", "replace only", "gemma"])
def test_sentencepiece_bpe_in_tokenizer_json_gives_equal_ids_in_llama_cpp(
    form: str, tmp_path: Path
) -> None:
    data = pieces_json(sentencepiece_bytes())
    replaced = PREPEND["normalizers"][1]
    if form == "prepend":
        data["normalizer"] = PREPEND
    elif form == "replace only":
        data["normalizer"] = replaced
    elif form == "gemma":
        data["normalizer"] = replaced
        split = {"type": "Split", "pattern": {"String": " "}, "invert": False}
        data["pre_tokenizer"] = {**split, "behavior": "MergedWithPrevious"}
    else:
        data["pre_tokenizer"] = metaspace(form)
    save(tmp_path, data, eos_token="</s>")
    tokenizer, wanted = read(tmp_path), reference(tmp_path / "tokenizer.json")
    assert tokenizer.pre_origin == "by structure"
    adds = form in ("prepend", "always", "first")
    assert tokenizer.metadata()["tokenizer.ggml.add_space_prefix"] == adds
    blank = form in ("always", "first")  # Metaspace adds no space before a space
    with llama_cpp_of(tokenizer, tmp_path) as encode:
        texts = [t for t in (*HOSTILE, *source(MEGABYTE)) if not (blank and t[:1] in (" ", SPACE))]
        assert_equal(encode, wanted, (t for t in texts if "<s>" not in t and "<unk>" not in t))


@pytest.mark.parametrize(
    "options", [{}, {"add_dummy_prefix": False, "user_defined_symbols": "<fim>,<x>"}]
)
def test_tokenizer_model_gives_the_ids_of_sentencepiece(
    options: dict[str, Any], tmp_path: Path
) -> None:
    model = sentencepiece_bytes(**options)
    (tmp_path / "tokenizer.model").write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokenizer = read(tmp_path)
    assert (tokenizer.ids["bos"], tokenizer.ids["eos"], tokenizer.ids["unk"]) == (1, 2, 0)
    assert tokenizer.add_bos
    texts = [*HOSTILE, "a<fim>b <fim> c", *source(MEGABYTE)]
    with llama_cpp_of(tokenizer, tmp_path, parse_special=False) as encode:
        assert_equal(
            encode, lambda t: list(processor.encode(t)), (t for t in texts if "\0" not in t)
        )


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"model_type": "unigram", "vocab_size": 800}, "unigram"),
        ({"normalization_rule_name": "nmt_nfkc"}, "normalises"),
        ({"remove_extra_whitespaces": True}, "drops repeated spaces"),
        ({"byte_fallback": False, "character_coverage": 1.0}, "byte tokens"),
        ({"user_defined_symbols": "<fim>"}, "user-defined"),
        ({"user_defined_symbols": "a b", "add_dummy_prefix": False}, "contains a space"),
        ({"treat_whitespace_as_suffix": True}, "▁"),
    ],
)
def test_tokenizer_model_with_different_ids_in_llama_cpp_is_refused(
    options: dict[str, object], word: str, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_bytes(**options))
    with pytest.raises(TokenizerMismatch, match=word) as caught:
        read(tmp_path)
    assert "tokenizer.model" in caught.value.message


def test_metadata_has_the_normalizer_and_pre_tokenizer(tmp_path: Path) -> None:
    made("qwen2", tmp_path)
    tokenizer: GgufTokenizer = read(tmp_path)
    values = tokenizer.metadata()
    assert values["turbopilot.tokenizer.normalizer"] == "NFC"
    assert values["turbopilot.tokenizer.pre_origin"] == "by structure"
    assert values["tokenizer.ggml.pre"] == "qwen2"
    assert all(value != [] for value in values.values())
