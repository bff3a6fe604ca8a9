"""Comparison of a checkpoint's tokenizer files with a GGUF's metadata: each fault is found and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters import expected
from tests.support.tiny import FAMILY, tiny_checkpoint
from turbopilot.verify.tokenizer_files import TokenizerFiles, differences, of_folder, of_gguf

Metadata = dict[str, Any]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("llama"), num_hidden_layers=1)


@pytest.fixture(scope="module")
def metadata(llama: Path) -> Metadata:
    with expected(llama) as whole:
        return dict(whole.metadata)


@pytest.mark.parametrize("family", FAMILY)
def test_converted_tokenizer_has_no_difference(family: str, tmp_path: Path) -> None:
    folder = tiny_checkpoint(family, tmp_path)
    files = of_folder(folder)
    assert files.tokens
    assert files.merges
    assert files.adds_bos is False
    with expected(folder) as whole:
        assert differences(files, whole.metadata) == []


def test_bundled_model_has_no_difference(demo_checkpoint: Path) -> None:
    files = of_folder(demo_checkpoint)
    assert files.tokens
    with expected(demo_checkpoint) as whole:
        assert differences(files, whole.metadata) == []


def _without_merge(metadata: Metadata) -> None:
    del metadata["tokenizer.ggml.merges"][77]


def _merges_in_other_order(metadata: Metadata) -> None:
    merges = metadata["tokenizer.ggml.merges"]
    merges[5], merges[9] = merges[9], merges[5]


def _one_more_merge(metadata: Metadata) -> None:
    metadata["tokenizer.ggml.merges"].append("q z")


def _padded(metadata: Metadata) -> None:
    metadata["tokenizer.ggml.tokens"][690:700] = [f"[PAD{i}]" for i in range(690, 700)]


def _swapped_infilling(metadata: Metadata) -> None:
    before, after = "tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.fim_suf_token_id"
    metadata[before], metadata[after] = metadata[after], metadata[before]


def _adds(end: str) -> Callable[[Metadata], None]:
    def edit(metadata: Metadata) -> None:
        metadata[f"tokenizer.ggml.add_{end}_token"] = True

    return edit


@pytest.mark.parametrize(
    ("edit", "check", "words"),
    [
        (_without_merge, "merges", "1 of"),
        (_merges_in_other_order, "merges", "another order from merge 5 on"),
        (_one_more_merge, "merges", "'q z'"),
        (_padded, "vocabulary", "token 690 is '[PAD690]'"),
        (_swapped_infilling, "fill-in-the-middle", "fim_pre_token_id"),
        (_adds("bos"), "tokenizer.ggml.add_bos_token", "add_bos_token is True"),
        (_adds("eos"), "tokenizer.ggml.add_eos_token", "add_eos_token is True"),
    ],
)
def test_fault_of_the_tokenizer_is_named(
    llama: Path, metadata: Metadata, edit: Callable[[Metadata], None], check: str, words: str
) -> None:
    faulty = {k: list(v) if isinstance(v, list) else v for k, v in metadata.items()}
    edit(faulty)
    found = differences(of_folder(llama), faulty)
    assert {f.check for f in found} == {check}
    assert words in found[0].message


def _folder(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text, "utf-8")
    return folder


def test_files_of_gpt2_are_read(tmp_path: Path) -> None:
    folder = _folder(
        tmp_path, vocab__json={"a": 0, "b": 1}, merges__txt="#version: 0.2\na b\nb c\na b\n"
    )
    files = of_folder(folder)
    assert files.tokens == {0: "a", 1: "b"}
    assert files.merges == ("b c", "a b")


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
}


@pytest.mark.parametrize(
    ("processor", "setting", "adds"),
    [
        (TEMPLATE, None, True),
        (TEMPLATE, True, True),
        (TEMPLATE, False, None),  # contradictory
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, TEMPLATE]}, None, True),
        ({"type": "BertProcessing"}, None, None),
        ({"type": "Sequence", "processors": [{"type": "BertProcessing"}]}, None, None),
        (None, None, False),
        ({"type": "BertProcessing"}, True, True),
    ],
)
def test_added_beginning_is_read_from_settings_and_template(
    tmp_path: Path, processor: Any, setting: bool | None, adds: bool | None
) -> None:
    settings = {} if setting is None else {"add_bos_token": setting}
    model = {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}
    folder = _folder(
        tmp_path,
        tokenizer__json={"model": model, "post_processor": processor},
        tokenizer_config__json=settings,
    )
    files = of_folder(folder)
    assert files.adds_bos is adds
    assert files.merges == ("a b",)


def test_missing_and_damaged_files_are_unknown(tmp_path: Path) -> None:
    nothing = TokenizerFiles()
    assert of_folder(tmp_path) == nothing
    _folder(tmp_path, tokenizer__json="[" * 100_000)
    assert of_folder(tmp_path) == nothing
    assert (
        differences(nothing, {"tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.add_bos_token": True})
        == []
    )


def test_renamed_tokens_and_spaces_are_accepted() -> None:
    files = TokenizerFiles({0: "</s>", 1: "▁a", 2: "b"})
    given = {"tokenizer.ggml.tokens": ["[</s>]", " a", "b"]}
    assert differences(files, given) == []
    assert differences(files, {"tokenizer.ggml.tokens": ["[</s>]", " a", "c"]})


@given(
    st.lists(st.text("abc", min_size=1, max_size=2), unique=True, min_size=2, max_size=30),
    st.data(),
)
def test_any_lost_merge_is_found(merges: list[str], data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, len(merges) - 1))
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.merges": merges[:lost] + merges[lost + 1 :],
    }
    files = TokenizerFiles(merges=tuple(merges))
    found = differences(files, metadata)
    assert [f.check for f in found] == ["merges"]
    assert repr(merges[lost]) in found[0].message
    assert of_gguf({**metadata, "tokenizer.ggml.merges": merges}).merges == files.merges
