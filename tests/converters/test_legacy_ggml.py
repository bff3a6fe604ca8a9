"""Old ggml files: blocks are copied, logits equal those of a new GGUF, and tokens equal the original tokenizer's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from tokenizers import Tokenizer

from converters import ConversionOptions, convert, dry_run
from converters.legacy_ggml import TokenizerNeeded
from converters.legacy_ggml.vocabulary import recover_merges
from tests.support.old_ggml import Array, encoded, old_gptj, old_neox, old_starcoder, token_bytes
from tests.support.tiny import tiny_checkpoint
from tests.support.verify_lab import logits_of
from turbopilot.base.errors import InvalidInput, TokenizerMismatch
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.verify.gguf_candidate import GgufCandidate

DTYPES = ("F32", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
HOSTILE = (
    "def f(x):\n\treturn 12345 + 'é中😀'  # \u200b\r\n"
    + " " * 31
    + "x"
    + "\t" * 9
    + "<|endoftext|>y  z\n\n\n"
)


def dequantized(path: Path) -> dict[str, Array]:
    """Return every tensor of a GGUF in F32, with shapes outermost first."""
    return {
        t.name: dequantize(t.data, t.tensor_type).reshape(tuple(int(n) for n in t.shape)[::-1])
        for t in GGUFReader(path).tensors
    }


def through(values: Array, dtype: str) -> Array:
    """Return the values after encoding them to `dtype` and decoding them."""
    raw = encoded(values, dtype)
    values_again: Array = dequantize(raw, GGMLQuantizationType[dtype]).reshape(values.shape)
    return values_again


@pytest.fixture(scope="module")
def gptj(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("gptj", tmp_path_factory.mktemp("gptj"))


@pytest.fixture(scope="module")
def starcoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(
        "gptbigcode", tmp_path_factory.mktemp("starcoder"), tie_word_embeddings=True
    )


@pytest.fixture(scope="module")
def neox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("gptneox", tmp_path_factory.mktemp("neox"), intermediate_size=1024)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["gptj", "starcoder", "neox"])
def test_every_block_is_copied_unchanged(
    family: str, dtype: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Compare with an F32 GGUF of the same weights, after encoding its tensors to the block type."""
    folder = request.getfixturevalue(family)
    write = {"gptj": old_gptj, "starcoder": old_starcoder, "neox": old_neox}[family]
    old = write(folder, tmp_path / "old.bin", dtype)
    options = ConversionOptions(tokenizer=folder if family == "neox" else None)
    report = convert(old, tmp_path / "old.gguf", options)
    convert(folder, tmp_path / "new.gguf", dtype="f32")
    mine, exact = dequantized(tmp_path / "old.gguf"), dequantized(tmp_path / "new.gguf")
    assert mine.keys() == exact.keys()
    assert report.dtype == dtype
    for name, values in exact.items():
        kind = dtype if values.ndim == 2 and not name.startswith("position") else "F32"
        assert np.array_equal(mine[name], through(values, kind)), name
    assert (
        read_gguf(tmp_path / "old.gguf").metadata["general.architecture"]
        == report.gguf_architecture
    )


def test_logits_equal_those_of_a_new_gguf_with_the_same_blocks(gptj: Path, tmp_path: Path) -> None:
    convert(old_gptj(gptj, tmp_path / "old.bin", "Q8_0"), tmp_path / "old.gguf")
    convert(gptj, tmp_path / "new.gguf", dtype="q8_0")
    logits = []
    for name in ("old", "new"):
        with GgufCandidate(tmp_path / f"{name}.gguf") as candidate:
            logits.append(logits_of(candidate, [5, 6, 7, 8, 9, 300, 301, 20]))
    assert np.array_equal(logits[0], logits[1])


@pytest.mark.parametrize("family", ["gptj", "starcoder", "neox"])
def test_tokens_equal_those_of_the_original_tokenizer(
    family: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(family)
    write = {"gptj": old_gptj, "starcoder": old_starcoder, "neox": old_neox}[family]
    options = ConversionOptions(tokenizer=folder if family == "neox" else None)
    convert(write(folder, tmp_path / "old.bin", "F32"), tmp_path / "old.gguf", options)
    text = HOSTILE + Path(__file__).read_text("utf-8")
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with GgufCandidate(tmp_path / "old.gguf") as candidate:
        assert candidate.tokenize(text) == reference.encode(text, add_special_tokens=False).ids


def test_merges_are_recovered_from_the_vocabulary(gptj: Path) -> None:
    """Recover all merges, in order, from the vocabulary alone."""
    import json

    model = json.loads((gptj / "tokenizer.json").read_text("utf-8"))["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    assert [list(m) for m in recover_merges(tokens) if m] == model["merges"]


def test_whitespace_runs_of_codegen_are_added_tokens(tmp_path: Path) -> None:
    folder = tiny_checkpoint("codegen", tmp_path / "codegen")
    from converters import export_gptj

    export_gptj(folder, tmp_path / "gptj")
    convert(old_gptj(tmp_path / "gptj", tmp_path / "old.bin", "Q4_0"), tmp_path / "old.gguf")
    convert(folder, tmp_path / "new.gguf")
    old, new = (read_gguf(tmp_path / f"{n}.gguf").metadata for n in ("old", "new"))
    for key in ("tokens", "merges", "token_type", "bos_token_id", "eos_token_id", "add_bos_token"):
        assert old[f"tokenizer.ggml.{key}"] == new[f"tokenizer.ggml.{key}"], key
    assert {k: v for k, v in old.items() if k.startswith("phi2.")} == {
        k: v for k, v in new.items() if k.startswith("phi2.")
    }


def test_repeated_key_and_value_heads_of_starcoder_become_one(
    starcoder: Path, tmp_path: Path
) -> None:
    convert(old_starcoder(starcoder, tmp_path / "old.bin", "Q4_1"), tmp_path / "old.gguf")
    header = read_gguf(tmp_path / "old.gguf")
    assert header.metadata["starcoder.attention.head_count_kv"] == 1
    assert "output.weight" not in {t.name for t in header.tensors}
    assert header.metadata["tokenizer.ggml.fim_pre_token_id"] == 700


def test_different_key_heads_are_kept(starcoder: Path, tmp_path: Path) -> None:
    """Flip one bit in one copy of the key head, so that the copies differ."""
    old = old_starcoder(starcoder, tmp_path / "old.bin", "F16")
    from converters.legacy_ggml import open_old

    fused = open_old(old).checkpoint.tensors["transformer.h.1.attn.k.weight"]
    data = bytearray(old.read_bytes())
    data[fused.offset + 5 * fused.n_bytes] ^= 1
    old.write_bytes(data)
    convert(old, tmp_path / "old.gguf")
    assert read_gguf(tmp_path / "old.gguf").metadata["starcoder.attention.head_count_kv"] == 8


def test_parallel_residual_flag_is_read_from_the_header(tmp_path: Path) -> None:
    values: dict[str, Any] = {"use_parallel_residual": False, "intermediate_size": 1024}
    folder = tiny_checkpoint("gptneox", tmp_path / "neox", **values)
    old = old_neox(folder, tmp_path / "old.bin", "F32")
    convert(old, tmp_path / "old.gguf", ConversionOptions(tokenizer=folder))
    assert read_gguf(tmp_path / "old.gguf").metadata["gptneox.use_parallel_residual"] is False


def test_lossy_vocabulary_needs_the_original_tokenizer(neox: Path, tmp_path: Path) -> None:
    old = old_neox(neox, tmp_path / "old.bin", "F16")
    with pytest.raises(TokenizerNeeded, match="lost"):
        convert(old, tmp_path / "old.gguf")
    other = tiny_checkpoint("codegen", tmp_path / "other")
    with pytest.raises(TokenizerMismatch, match=r"token [\d,]+ is .*, but"):
        convert(old, tmp_path / "old.gguf", ConversionOptions(tokenizer=other))
    whole = old_neox(
        neox, tmp_path / "whole.bin", "F16", tokens=lambda f, n: token_bytes(f, n, "<|endoftext|>")
    )
    convert(whole, tmp_path / "whole.gguf")
    convert(old, tmp_path / "old.gguf", ConversionOptions(tokenizer=neox))
    mine, theirs = (read_gguf(tmp_path / f"{n}.gguf").metadata for n in ("whole", "old"))
    assert mine["tokenizer.ggml.merges"] == theirs["tokenizer.ggml.merges"]
    assert mine["tokenizer.ggml.tokens"] == theirs["tokenizer.ggml.tokens"]


def test_options_for_old_files_are_checked(gptj: Path, tmp_path: Path) -> None:
    old = old_gptj(gptj, tmp_path / "old.bin", "Q5_1")
    assert "Q5_1" in dry_run(old)
    with pytest.raises(InvalidInput, match="block for block"):
        convert(old, tmp_path / "x.gguf", dtype="f16")
    with pytest.raises(InvalidInput, match="no such type"):
        convert(old, tmp_path / "x.gguf", ConversionOptions(model_type="starcoda"))
    convert(old, tmp_path / "x.gguf", ConversionOptions(model_type="codegen"))
    assert read_gguf(tmp_path / "x.gguf").metadata["turbopilot.source.files"] == ["old.bin"]
