"""Tokenizers of unknown structure: they are compared with real llama.cpp, and refused unless all ids are equal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from converters.tokenizer import read_tokenizer, trial
from converters.tokenizer.files import SideFiles
from converters.tokenizer.metadata import GgufTokenizer, Vocabulary
from converters.tokenizer.pretokenizer import CANDIDATES, KNOWN
from converters.tokenizer.tokenizer_json import read_tokenizer_json
from converters.tokenizer.trial_texts import corpus, trial_texts
from tests.support.tokenizer_samples import (
    EOS,
    HOSTILE,
    N_BASE,
    N_VOCAB,
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


def doubted(folder: Path, names: tuple[str, ...], **changes: Any) -> tuple[Vocabulary, GgufTokenizer]:  # fmt: skip
    """Return a vocabulary with an unknown pre-tokenizer, and the GGUF tokenizer to write for it."""
    save_byte_level(folder, "qwen35", **changes)
    path = folder / "tokenizer.json"
    vocabulary = read_tokenizer_json(path, SideFiles.read(folder), N_VOCAB, "")
    assert vocabulary.doubts
    tokens = [f"[PAD{row}]" for row in range(N_VOCAB)]
    for text, row in vocabulary.ids.items():
        tokens[row] = text
    types = [vocabulary.types.get(row, 1) for row in range(N_VOCAB)]
    made = GgufTokenizer("gpt2", "", "", tokens, types, vocabulary.merges, ids={"eos": N_BASE})
    return replace(vocabulary, candidates=names), made


@pytest.mark.parametrize(
    ("cut", "names"),
    # llama.cpp's gpt-4o splits combining marks from letters, the other name does not
    [("qwen35", ["qwen35"]), ("gpt4o", ["gpt-4o", "granite-embed-multi-97m"])],
)
def test_matching_pre_tokenizer_is_found_by_trial(
    cut: str, names: list[str], tmp_path: Path
) -> None:
    save_byte_level(tmp_path, cut)
    tokenizer, wanted = read(tmp_path), Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.pre in names
    assert tokenizer.pre_origin.startswith("by trial of ")
    assert tokenizer.metadata()["turbopilot.tokenizer.pre_origin"] == tokenizer.pre_origin
    with llama_cpp_of(tokenizer, tmp_path) as encode:
        for text in [*HOSTILE, *source(40_000)]:
            assert encode(text) == wanted.encode(text).ids


def test_first_difference_is_shown_if_no_pre_tokenizer_matches(tmp_path: Path) -> None:
    save_byte_level(tmp_path, "letters by fours")
    with pytest.raises(TokenizerMismatch) as caught:
        read(tmp_path)
    message = caught.value.message
    wanted = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert str(tmp_path / "tokenizer.json") in message
    assert r"\p{L}{1,4}" in message, "the unknown expression is named"
    assert f"of {len(CANDIDATES)} pre-tokenizers tried" in message
    assert "llama.cpp gives" in message
    shown = message.split("and the tokenizer gives ")[1].split()
    assert wanted.id_to_token(int(shown[0])) == shown[1].strip("'")


def test_unusual_ignore_merges_setting_is_tried(tmp_path: Path) -> None:
    # llama.cpp has Qwen2's pre-tokenizer only without ignore_merges; the effect depends on the vocabulary.
    merges = json.loads(byte_level("qwen2"))["model"]["merges"]
    save_byte_level(tmp_path / "other", "qwen2", ignore_merges=True, merges=merges[::2])
    with pytest.raises(TokenizerMismatch, match="ignore_merges"):
        read(tmp_path / "other")
    letters = sorted(t for t in json.loads(byte_level("qwen2"))["model"]["vocab"] if len(t) == 1)
    pairs = [m for m in merges if len(m[0]) == len(m[1]) == 1]  # a word of two letters is one merge
    vocab = {t: i for i, t in enumerate([*letters, *map("".join, pairs)])}
    save_byte_level(
        tmp_path / "same", "qwen2", ignore_merges=True, merges=pairs, vocab=vocab, added_tokens=[]
    )
    assert read(tmp_path / "same", eos_token_id=0).pre_origin.startswith("by trial of ")


def test_added_tokens_of_other_files_are_part_of_the_trial(tmp_path: Path) -> None:
    data = save_byte_level(tmp_path, "qwen35")
    n = len(data["model"]["vocab"]) + len(data["added_tokens"])
    entry = {"content": "[PAD]", "special": True}
    save(tmp_path, data, pad_token="[PAD]", added_tokens_decoder={str(n): entry})
    tokenizer = read(tmp_path)
    assert (tokenizer.pre, tokenizer.ids["pad"], tokenizer.tokens[n]) == ("qwen35", n, "[PAD]")


def test_trial_without_tokenizers_installed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_byte_level(tmp_path, "qwen35")
    monkeypatch.setattr(trial, "find_spec", lambda name: None)
    with pytest.raises(TokenizerMismatch, match="tokenizers is not installed") as caught:
        read(tmp_path)
    assert caught.value.hint == "pip install tokenizers"
    assert r"\p{M}" in caught.value.message


def test_vocabulary_that_crashes_llama_cpp_is_refused(tmp_path: Path) -> None:
    vocabulary, tokenizer = doubted(tmp_path, ("qwen35", "qwen2"))
    tokens = ["twice" if row in (1, 2) else text for row, text in enumerate(tokenizer.tokens)]
    with pytest.raises(TokenizerMismatch, match=r"of 2 pre-tokenizers tried, none works"):
        trial.settle(vocabulary, replace(tokenizer, tokens=tokens))


def test_trial_continues_with_the_next_name_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary, tokenizer = doubted(tmp_path, ("qwen2", "dies", "qwen35", "never"))
    real, asked = trial._child, []

    def child(job: dict[str, Any], n_texts: int) -> Any:
        asked.append(job["names"])
        names = job["names"]
        living = names[: names.index("dies")] if "dies" in names else names
        return real({**job, "names": living}, n_texts)

    monkeypatch.setattr(trial, "_child", child)
    assert trial.settle(vocabulary, tokenizer).pre == "qwen35"
    assert asked == [["qwen2", "dies", "qwen35", "never"], ["qwen35", "never"]]


def test_name_that_llama_cpp_lacks_is_skipped(tmp_path: Path) -> None:
    vocabulary, tokenizer = doubted(tmp_path, ("no-such-cut", "qwen35"))
    assert trial.settle(vocabulary, tokenizer).pre_origin.startswith("by trial of 2: ")


def test_invalid_regular_expression_shows_the_error_of_tokenizers(tmp_path: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(["}, "behavior": "Isolated", "invert": False}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}  # fmt: skip
    steps = {"type": "Sequence", "pretokenizers": [split, bytes_]}
    save_byte_level(tmp_path, "qwen35", pre_tokenizer=steps)
    with pytest.raises(TokenizerMismatch, match=r"comparison with llama\.cpp failed: .*Oniguruma"):
        read(tmp_path)


def test_trial_has_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_PATIENCE", 0.001)
    save_byte_level(tmp_path, "qwen35")
    with pytest.raises(TokenizerMismatch, match="it took more than 0 seconds"):
        read(tmp_path)


def test_trial_imports_no_modules_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_byte_level(tmp_path, "qwen35")
    for name in ("tokenizers", "llama_cpp", "unicodedata"):
        (tmp_path / f"{name}.py").write_text("from pathlib import Path\nPath('ran').touch()\n", "utf-8")  # fmt: skip
    (tmp_path / "converters").mkdir()
    (tmp_path / "converters" / "__init__.py").write_text("raise SystemExit", "utf-8")
    monkeypatch.chdir(tmp_path)
    assert read(Path()).pre == "qwen35"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("change", ["merges", "spaces"])
def test_sentencepiece_bpe_with_different_ids_in_llama_cpp_is_refused(
    change: str, tmp_path: Path
) -> None:
    data = pieces_json(sentencepiece_bytes())
    data["pre_tokenizer"] = metaspace("never", split=change == "spaces")
    if change == "merges":
        data["model"]["merges"] = data["model"]["merges"][1::2]
    save(tmp_path, data, eos_token="</s>")
    with pytest.raises(TokenizerMismatch, match=r"of 1 pre-tokenizers tried, .* llama\.cpp gives"):
        read(tmp_path)


def test_trial_needs_a_tokenizer_json(tmp_path: Path) -> None:
    vocab = {**json.loads(byte_level("gpt2"))["model"]["vocab"], EOS: N_BASE}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), "utf-8")
    (tmp_path / "merges.txt").write_text("a b\n", "utf-8")
    (tmp_path / "vocab.json").write_text(json.dumps({**vocab, "ab": N_BASE + 1}), "utf-8")
    more = {"<a><b": N_BASE + 2, "<b>c": N_BASE + 3}  # "<a><b>c" would be split differently
    (tmp_path / "added_tokens.json").write_text(json.dumps(more), "utf-8")
    with pytest.raises(TokenizerMismatch, match="ends with the start of another") as caught:
        read_tokenizer(tmp_path, "gpt-2", N_VOCAB, {"eos_token_id": N_BASE})
    assert "tokenizer.json" in caught.value.hint


def test_trial_corpus_is_complete_and_candidate_names_are_unique(tmp_path: Path) -> None:
    assert sum(map(len, corpus())) > 10_000
    assert all(text.strip() for text in corpus())
    names = [name for cut in CANDIDATES for name in cut.names]
    assert len(set(names)) == len(names)
    assert {cut.names[0] for cuts in KNOWN.values() for cut in cuts} <= set(names)
    vocabulary, _ = doubted(tmp_path, ("qwen35",))
    texts = trial_texts(vocabulary)
    assert all(texts)
    assert texts == trial_texts(vocabulary)
    assert any("<think>" in text and EOS in text for text in texts)
