"""Special token ids of every family, as real llama.cpp reads them from the file, and chat templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from converters.tokenizer.looks import other_texts
from converters.tokenizer.special import FIM_SPELLINGS
from tests.support.tokenizer_samples import (
    EOS,
    N_BASE,
    N_VOCAB,
    PREPEND,
    byte_level,
    llama_vocab,
    pieces_json,
    read,
    save,
    save_byte_level,
    sentencepiece_bytes,
)
from turbopilot.base.errors import CorruptCheckpoint, TokenizerMismatch

# family → its special tokens fim_pre, fim_suf, fim_mid, fim_pad, fim_rep, fim_sep ("" if it has none)
FIM = {
    "santacoder": ("<fim-prefix>", "<fim-suffix>", "<fim-middle>", "<fim-pad>", "", ""),
    "starcoder": ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>", "<reponame>", "<filename>"),
    "starcoder2": ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>", "<repo_name>", "<file_sep>"),
    "qwen2.5-coder": (
        "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"
    ),
    "codellama": ("▁<PRE>", "▁<SUF>", "▁<MID>", "", "", ""),
    "deepseek-coder": ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "", "", ""),
    "seed-coder": ("<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>", "", "", ""),
    "mellum": ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>", "<reponame>", "<filename>"),
    "codestral": ("[PREFIX]", "[SUFFIX]", "[MIDDLE]", "", "", ""),
    "codegemma": ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "", "", "<|file_separator|>"),
    "codegen": ("", "", "", "", "", ""),
}  # fmt: skip
ROLES = tuple(FIM_SPELLINGS)


def with_special(folder: Path, *texts: str, **config: Any) -> dict[str, int]:
    """Save a tokenizer like GPT-2's with these special tokens; return text → id."""
    data = json.loads(byte_level("gpt2"))
    texts = tuple(text for text in texts if text)
    data["added_tokens"] = [
        {"id": N_BASE + i, "content": text, "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False} for i, text in enumerate(texts)
    ]  # fmt: skip
    save(folder, data, **config)
    return {text: N_BASE + i for i, text in enumerate(texts)}


def as_llama_cpp_has_it(tokenizer: Any, folder: Path) -> dict[str, int]:
    names = {"bos": "bos", "eos": "eos", "pad": "pad", **{role: role for role in ROLES}}
    with llama_vocab(tokenizer, folder) as vocab:
        found = {role: getattr(llama_cpp, f"llama_vocab_{n}")(vocab) for role, n in names.items()}
    return {role: row for role, row in found.items() if row >= 0}


@pytest.mark.parametrize("family", FIM)
def test_fim_ids_are_written_and_llama_cpp_adds_none(family: str, tmp_path: Path) -> None:
    ids = with_special(tmp_path, EOS, *FIM[family])
    tokenizer = read(tmp_path)
    wanted = {role: ids[text] for role, text in zip(ROLES, FIM[family], strict=True) if text}
    assert {role: row for role, row in tokenizer.ids.items() if role in ROLES} == wanted
    assert tokenizer.has_fim == (family != "codegen")
    assert as_llama_cpp_has_it(tokenizer, tmp_path) == {**wanted, "bos": ids[EOS], "eos": ids[EOS]}


@pytest.mark.parametrize("family", ["codegemma", "mellum"])
def test_start_of_another_file_ends_generation(family: str, tmp_path: Path) -> None:
    ids = with_special(tmp_path, EOS, *FIM[family])
    with llama_vocab(read(tmp_path), tmp_path) as vocab:
        ends = {text for text, row in ids.items() if llama_cpp.llama_vocab_is_eog(vocab, row)}
    assert ends == {EOS, *(text for text in FIM[family][3:] if text)}


def test_wizardcoder_padding_token_does_not_end_generation(tmp_path: Path) -> None:
    ids = with_special(tmp_path, EOS, *FIM["starcoder"][:3], "[PAD]", pad_token="[PAD]")
    tokenizer = read(tmp_path)
    assert tokenizer.ids["pad"] == ids["[PAD]"]
    with llama_vocab(tokenizer, tmp_path) as vocab:
        ends = [row for row in range(N_VOCAB) if llama_cpp.llama_vocab_is_eog(vocab, row)]
    assert ends == [ids[EOS]]


@pytest.mark.parametrize(
    ("family", "texts", "config", "generation", "eos", "also"),
    [
        ("qwen2.5", (EOS, "<|im_start|>", "<|im_end|>"), 0, [2, 0], 0, {"eot": 2}),
        ("qwen2.5 base", (EOS, "<|im_start|>", "<|im_end|>"), 0, None, 0, {"eot": 2}),
        ("llama3", ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"), [1, 3, 2], None, 1,
         {"eot": 2, "eom": 3}),
        ("deepseek-coder", ("<｜end▁of▁sentence｜>", "<|EOT|>"), 0, None, 0, {"eot": 1}),
        ("deepseek-coder-instruct", ("<｜end▁of▁sentence｜>", "<|EOT|>"), 1, None, 1, {}),
        ("codegen", (EOS,), 0, None, 0, {}),
        ("unnamed", ("<|x|>", "<|end_of_text|>"), None, None, 1, {}),
        ("ends in two files", (EOS, "<a>", "<b>"), [0, 1], [1, 2], 0, {"eot": 1, "eom": 2}),
    ],
)  # fmt: skip
def test_end_tokens_are_those_in_the_files_and_the_end_of_turn(
    family: str, texts: tuple[str, ...], config: Any, generation: Any, eos: int, also: dict[str, int], tmp_path: Path
) -> None:  # fmt: skip
    def rows(value: Any) -> Any:
        return [N_BASE + v for v in value] if isinstance(value, list) else N_BASE + value

    with_special(tmp_path, *texts, eos_token=None)
    if generation is not None:
        written = {"eos_token_id": rows(generation)}
        (tmp_path / "generation_config.json").write_text(json.dumps(written), "utf-8")
    tokenizer = read(tmp_path, **({} if config is None else {"eos_token_id": rows(config)}))
    found = {role: row for role, row in tokenizer.ids.items() if role in ("eos", "eot", "eom")}
    assert found == {"eos": rows(eos), **{role: rows(row) for role, row in also.items()}}
    with llama_vocab(tokenizer, tmp_path) as vocab:
        assert llama_cpp.llama_vocab_eos(vocab) == rows(eos)
        assert all(llama_cpp.llama_vocab_is_eog(vocab, row) for row in found.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eos_token_id": N_VOCAB}, "config.json: eos_token_id"),
        ({"eos_token_id": [0, -1]}, "config.json: eos_token_id"),
        ({"eos_token_id": True}, "config.json: eos_token_id"),
        ({"bos_token_id": 10**30}, "config.json: bos_token_id"),
        ({"eos_token_id": "0"}, "config.json: eos_token_id"),
        ({}, "no file names the end-of-text token"),
    ],
)
def test_missing_eos_and_ids_outside_the_vocabulary_are_rejected(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with_special(tmp_path, "<|x|>", eos_token=None)
    with pytest.raises(TokenizerMismatch) as caught:
        read(tmp_path, **change)
    assert message in caught.value.message
    assert str(tmp_path) in caught.value.message


def test_padding_token_outside_the_vocabulary_is_dropped(tmp_path: Path) -> None:
    with_special(tmp_path, EOS)
    assert "pad" not in read(tmp_path, pad_token_id=-1).ids


def template(first: str) -> dict[str, Any]:
    parts: list[Any] = [{"Sequence": {"id": "A", "type_id": 0}}]
    if first:
        parts.insert(0, {"SpecialToken": {"id": first, "type_id": 0}})
    return {"type": "TemplateProcessing", "single": parts, "pair": [], "special_tokens": {}}


@pytest.mark.parametrize(
    ("first", "setting", "adds"),
    [
        (None, None, False), (None, True, True), ("<bos>", None, True), ("<bos>", False, False), ("", None, False),
        ("", True, True), (EOS, None, False),
    ],
)  # fmt: skip
def test_add_bos_follows_the_setting_then_the_template(
    first: str | None, setting: bool | None, adds: bool, tmp_path: Path
) -> None:
    ids = with_special(tmp_path, EOS, "<bos>")
    data = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    data["post_processor"] = None if first is None else template(first)
    save(tmp_path, data, bos_token="<bos>", **({} if setting is None else {"add_bos_token": setting}))  # fmt: skip
    tokenizer = read(tmp_path)
    assert (tokenizer.add_bos, tokenizer.ids["bos"]) == (adds, ids["<bos>"])
    with llama_vocab(tokenizer, tmp_path) as vocab:
        assert bool(llama_cpp.llama_vocab_get_add_bos(vocab)) == adds
        assert llama_cpp.llama_vocab_bos(vocab) == ids["<bos>"]


def test_bos_is_read_from_the_template_if_no_file_names_it(tmp_path: Path) -> None:
    data = {**pieces_json(sentencepiece_bytes()), "normalizer": PREPEND}
    save(tmp_path, {**data, "post_processor": template("<s>")}, eos_token="</s>")
    tokenizer = read(tmp_path)
    assert (tokenizer.ids["bos"], tokenizer.ids["unk"], tokenizer.add_bos) == (1, 0, True)


def test_token_types_are_those_of_llama_cpp(tmp_path: Path) -> None:
    save_byte_level(tmp_path, "gpt2")
    tokenizer = read(tmp_path)
    kinds = dict(zip(tokenizer.tokens, tokenizer.types, strict=True))
    assert [kinds[t] for t in (EOS, "<think>", "    ", "a", f"[PAD{N_VOCAB - 1}]")] == [
        3,
        4,
        4,
        1,
        5,
    ]
    (tmp_path / "pieces").mkdir()
    (tmp_path / "pieces" / "tokenizer.model").write_bytes(sentencepiece_bytes())
    assert read(tmp_path / "pieces").types[:4] == [2, 3, 3, 6]


def test_replacement_text_of_a_token_is_unused() -> None:
    assert other_texts(["</s>"], {"</s>": 3, "[</s>]": 4}) == {3: "[[</s>]]"}


def test_chat_templates_are_read_from_every_file(tmp_path: Path) -> None:
    with_special(tmp_path, EOS, chat_template="plain")
    assert read(tmp_path).metadata()["tokenizer.chat_template"] == "plain"
    named = [{"name": "default", "template": "d"}, {"name": "tool-use", "template": "t"}]
    with_special(tmp_path, EOS, chat_template=named)
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("r", "utf-8")
    values = read(tmp_path).metadata()
    assert values["tokenizer.chat_template"] == "d"
    assert values["tokenizer.chat_template.tool_use"] == "t"
    assert values["tokenizer.chat_templates"] == ["rag", "tool_use"]
    (tmp_path / "chat_template.jinja").write_text("{{ file }}\r\n", "utf-8", newline="")
    assert read(tmp_path).metadata()["tokenizer.chat_template"] == "{{ file }}\r\n"


@pytest.mark.parametrize(
    "value", [1, {"a": "b"}, [1], [{"name": "x"}], [{"name": 1, "template": "x"}], "\ud800",
              [{"name": ["x"], "template": "x"}]]
)  # fmt: skip
def test_invalid_chat_template_is_rejected(value: Any, tmp_path: Path) -> None:
    with_special(tmp_path, EOS, chat_template=value)
    with pytest.raises(CorruptCheckpoint, match="chat_template"):
        read(tmp_path)
