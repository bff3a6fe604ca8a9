"""Output of a conversion: types, split files, vocabulary only, and provenance."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import quantize as gguf_quantize
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from converters import ConversionOptions, convert, dry_run, export_gptj
from converters.encode import encode
from converters.plan import plan
from converters.provenance import read_provenance
from converters.registry import find
from converters.scan import BUFFER_BYTES, Scan
from quantize import quantize
from tests.converters.test_converters import model_of
from tests.support.published import published
from tests.support.tiny import tiny_checkpoint
from tests.support.verify_lab import logits_of, verdict
from turbopilot.base.errors import (
    CorruptCheckpoint,
    CorruptModel,
    InvalidInput,
    TensorMismatch,
    UnsupportedModel,
)
from turbopilot.base.file_digest import stated_digest
from turbopilot.cli import app
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.verify.gguf_candidate import GgufCandidate

PROMPTS = ["def f(x):\n    return x + 12345\n" * 8, "class A:\n\tpass\n" * 10]


@pytest.fixture(scope="session")
def codegen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("codegen", tmp_path_factory.mktemp("output") / "codegen")


@pytest.fixture(scope="session")
def f32(codegen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("f32") / "out.gguf"
    convert(codegen, path, ConversionOptions(name="x"), dtype="f32")
    return path


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
def test_each_dtype_passes_verification(codegen: Path, tmp_path: Path, dtype: str) -> None:
    report = convert(codegen, tmp_path / "out.gguf", dtype=dtype)
    assert report.dtype == dtype.upper()
    types = {len(t.shape): t.type_name for t in read_gguf(tmp_path / "out.gguf").tensors}
    assert types == {1: "F32", 2: dtype.upper()}
    proof = verdict(tmp_path / "out.gguf", codegen, PROMPTS)
    assert proof.passed, proof.failures


def test_q8_0_blocks_equal_those_of_llama_cpp(f32: Path, codegen: Path, tmp_path: Path) -> None:
    """Compare with a conversion to F32 that llama.cpp quantizes; tensors that it leaves unquantized are skipped."""
    convert(codegen, tmp_path / "ours.gguf", dtype="q8_0")
    quantize(f32, tmp_path / "theirs.gguf", "Q8_0")
    ours = {t.name: t for t in read_gguf(tmp_path / "ours.gguf").tensors}
    compared = 0
    for t in read_gguf(tmp_path / "theirs.gguf").tensors:
        if t.type_name == "Q8_0":
            o = ours[t.name]
            raw = [x.path.read_bytes()[x.offset : x.offset + x.n_bytes] for x in (o, t)]
            assert raw[0] == raw[1], t.name
            compared += 1
    assert compared > 15


@pytest.mark.parametrize("source", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("target", ["F32", "F16", "BF16", "Q8_0"])
def test_encoding_equals_torch_and_gguf(source: str, target: str) -> None:
    torch_types = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    values = (torch.randn(7, 96, generator=torch.Generator().manual_seed(0)) * 3).to(
        torch_types[source]
    )
    values[0, 0], values[0, 1], values[1, :32] = 0.0, -0.0, 0.0
    given = values.view(torch.uint16).numpy() if source == "BF16" else values.numpy()
    got = encode(given, source, target)
    if target == "Q8_0":
        expected = gguf_quantize(values.float().numpy(), GGMLQuantizationType.Q8_0)
        np.testing.assert_array_equal(got, expected)
        return
    cast = values.float().to(torch_types[target])
    bits = cast.view(torch.uint16 if cast.element_size() == 2 else torch.uint32).numpy()
    np.testing.assert_array_equal(got.view(bits.dtype), bits)


@pytest.mark.parametrize("own", ["float32", "float16", "bfloat16"])
def test_auto_dtype_keeps_the_type_of_the_source(tmp_path: Path, own: str) -> None:
    folder = tiny_checkpoint("gptj", tmp_path / "gptj")
    model = AutoModelForCausalLM.from_pretrained(folder).to(getattr(torch, own))
    model.save_pretrained(folder)
    report = convert(folder, tmp_path / "out.gguf", dtype="auto")
    expected = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[own]
    assert report.dtype == expected
    assert {t.type_name for t in read_gguf(tmp_path / "out.gguf").tensors if len(t.shape) == 2} == {
        expected
    }


def test_position_embeddings_are_not_quantized(tmp_path: Path) -> None:
    folder = tiny_checkpoint("gptbigcode", tmp_path / "b")
    convert(folder, tmp_path / "out.gguf", dtype="q8_0")
    types = {t.name: t.type_name for t in read_gguf(tmp_path / "out.gguf").tensors}
    assert types["position_embd.weight"] == "F16"
    assert types["token_embd.weight"] == "Q8_0"


def test_rows_with_partial_blocks_stay_f16(tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama", tmp_path / "l", intermediate_size=776)
    convert(folder, tmp_path / "out.gguf", dtype="q8_0")
    types = {t.name: t.type_name for t in read_gguf(tmp_path / "out.gguf").tensors}
    assert types["blk.0.ffn_down.weight"] == "F16"
    assert types["blk.0.ffn_up.weight"] == "Q8_0"
    assert verdict(tmp_path / "out.gguf", folder, PROMPTS).passed


def test_unchanged_tensors_keep_every_bit(tmp_path: Path) -> None:
    """Check that tensors are copied without looking at their values: even the payload of a NaN is kept."""
    folder = tiny_checkpoint("gptbigcode", tmp_path / "b", dtype="f16")
    state = load_file(folder / "model.safetensors")
    source = state["transformer.h.0.mlp.c_fc.weight"]
    source.view(torch.int16)[0, 0] = 0x7D55
    save_file(state, folder / "model.safetensors")
    with pytest.raises(TensorMismatch, match="NaN"):
        convert(folder, tmp_path / "refused.gguf")
    convert(folder, tmp_path / "out.gguf", ConversionOptions(force=True))
    copied = dict(model_of(tmp_path / "out.gguf")[1])["blk.0.ffn_up.weight"]
    assert copied == source.numpy().tobytes()


def test_split_model_equals_the_single_file(codegen: Path, f32: Path, tmp_path: Path) -> None:
    report = convert(
        codegen,
        tmp_path / "m.gguf",
        ConversionOptions(split_max_size=3_000_000, name="x"),
        dtype="f32",
    )
    parts = sorted(tmp_path.iterdir())
    assert [p.name for p in parts] == [
        f"m-{i + 1:05d}-of-{len(parts):05d}.gguf" for i in range(len(parts))
    ]
    assert len(parts) == report.n_files > 3
    assert report.path == parts[0]
    header, whole = read_gguf(parts[0]), read_gguf(f32)
    assert header.n_files == len(parts)
    assert [t.name for t in header.tensors] == [t.name for t in whole.tensors]
    for a, b in zip(header.tensors, whole.tensors, strict=True):
        left = a.path.read_bytes()[a.offset : a.offset + a.n_bytes]
        assert left == f32.read_bytes()[b.offset : b.offset + b.n_bytes], a.name
    assert max(p.stat().st_size for p in parts[1:]) < 3_100_000
    # llama.cpp runs it, and verify and quantize accept its first part
    with GgufCandidate(parts[0]) as split, GgufCandidate(f32) as one:
        ids = one.tokenize(PROMPTS[0])
        np.testing.assert_array_equal(logits_of(split, ids), logits_of(one, ids))
    assert verdict(parts[0], codegen, PROMPTS).passed
    quantize(parts[0], tmp_path / "q.gguf", "Q4_0")
    quantize(f32, tmp_path / "q1.gguf", "Q4_0")
    theirs, ours = model_of(tmp_path / "q1.gguf")[1], model_of(tmp_path / "q.gguf")[1]
    assert dict(ours) == dict(theirs)


def test_missing_and_misplaced_parts_are_rejected(codegen: Path, tmp_path: Path) -> None:
    report = convert(codegen, tmp_path / "m.gguf", ConversionOptions(split_max_size=2_000_000))
    first, second = report.path, tmp_path / report.path.name.replace("-00001-", "-00002-")
    with pytest.raises(InvalidInput, match="is part 2 of") as e:
        read_gguf(second)
    assert first.name in e.value.hint
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(InvalidInput, match="missing: m-00002"):
        read_gguf(first)
    second.write_bytes(first.read_bytes())
    with pytest.raises(CorruptModel, match="part 2"):
        read_gguf(first)
    second.write_bytes(kept)
    renamed = tmp_path / "else.gguf"
    shutil.copyfile(first, renamed)
    with pytest.raises(CorruptModel, match="not named like one"):
        read_gguf(renamed)


def test_model_below_the_split_size_is_one_file(codegen: Path, tmp_path: Path) -> None:
    convert(codegen, tmp_path / "m.gguf", ConversionOptions(split_max_size=1 << 30))
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]


def test_failed_split_leaves_no_files(codegen: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(codegen, tmp_path / "nan"))
    state = load_file(folder / "model.safetensors")
    state["lm_head.bias"][5] = float("nan")
    save_file(state, folder / "model.safetensors")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(TensorMismatch, match=r"lm_head\.bias"):
        convert(folder, out / "m.gguf", ConversionOptions(split_max_size=2_000_000))
    assert not list(out.iterdir())


def test_vocab_only_needs_no_weights(codegen: Path, f32: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(codegen / name, folder / name)
    report = convert(folder, tmp_path / "v.gguf", ConversionOptions(vocab_only=True))
    assert report.n_tensors == 0
    header, whole = read_gguf(tmp_path / "v.gguf"), read_gguf(f32)
    same = [k for k in whole.metadata if k.startswith(("tokenizer.", "phi2."))]
    assert len(same) > 10
    assert all(header.metadata[k] == whole.metadata[k] for k in same)
    with pytest.raises(CorruptModel, match="tensors"):
        GgufCandidate(tmp_path / "v.gguf")


def test_metadata_has_the_digest_of_every_source_file(codegen: Path, f32: Path) -> None:
    said = read_gguf(f32).metadata
    names, digests = said["turbopilot.source.files"], said["turbopilot.source.sha256"]
    assert isinstance(names, list)
    assert isinstance(digests, list)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(map(str, names))
    for name, digest in zip(names, digests, strict=True):
        assert digest == hashlib.sha256((codegen / str(name)).read_bytes()).hexdigest(), name


CARD = """---
license: other
license_name: "big-code"
license_link: https://example.org/license
language:
- code
base_model:
- bigcode/starcoder
- evil
tags: [a, b]
---
# A model
license: mit
"""


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (CARD, ("other", "big-code", ("bigcode/starcoder",))),
        ("---\nlicense: bsd-3-clause\nbase_model: a/b\n---\n", ("bsd-3-clause", "", ("a/b",))),
        ("# no front matter\nlicense: mit\n", ("", "", ())),
        ("---\nlicense: mit\nnever ends\n", ("", "", ())),
        ("\x00\xff---", ("", "", ())),
    ],
)
def test_licence_is_read_from_the_model_card(
    tmp_path: Path, card: str, expected: tuple[Any, ...]
) -> None:
    (tmp_path / "README.md").write_bytes(card.encode("latin-1"))
    p = read_provenance(tmp_path)
    assert (p.license, p.license_name, p.base_models) == expected


def test_metadata_has_the_repository_and_revision(codegen: Path, tmp_path: Path) -> None:
    """Read both from the note that `download` writes, or else from the folder names in the Hub's cache."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--Salesforce--codegen-350M-mono" / "snapshots" / commit
    shutil.copytree(codegen, cached)
    (cached / "README.md").write_text("---\nlicense: bsd-3-clause\nbase_model: a/b\n---\n")
    convert(cached, tmp_path / "out.gguf", ConversionOptions(vocab_only=True))
    said = read_gguf(tmp_path / "out.gguf").metadata
    assert said["general.source.repo_url"] == "https://huggingface.co/Salesforce/codegen-350M-mono"
    assert said["turbopilot.source.revision"] == commit
    assert said["general.license"] == "bsd-3-clause"
    assert said["general.base_model.0.repo_url"] == "https://huggingface.co/a/b"
    assert said["general.base_model.count"] == 1
    (cached / "turbopilot-source.json").write_text(
        json.dumps({"repository": "own/model", "revision": "abc"})
    )
    assert read_provenance(cached).repository == "own/model"
    (cached / "turbopilot-source.json").write_text("[" * 100_000)
    assert read_provenance(cached).repository == "Salesforce/codegen-350M-mono"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, BUFFER_BYTES // 2 - 1, BUFFER_BYTES // 2, -1])
def test_scan_finds_nan_and_infinity_at_any_position(
    tmp_path: Path, dtype: torch.dtype, value: float, place: int
) -> None:
    from converters.safetensors_file import read_header

    state = {
        "a": torch.full((300,), 65504.0 if dtype == torch.float16 else 3e38).to(dtype),
        "b": torch.zeros(2 * BUFFER_BYTES + 77, dtype=dtype),
    }
    path = tmp_path / "x.safetensors"
    save_file(state, path)
    tensors = read_header(path)
    with Scan(tensors.values(), [path], keep_nonfinite=False) as scan:
        assert scan.sha256() == {path: hashlib.sha256(path.read_bytes()).hexdigest()}
    state["b"][place] = value
    save_file(state, path)
    with Scan(tensors.values(), [path], keep_nonfinite=False) as scan:  # noqa: SIM117
        with pytest.raises(TensorMismatch, match="'b'"):
            scan.sha256()
    with Scan([tensors["a"]], [path], keep_nonfinite=False) as scan:
        assert scan.sha256(), "an unused tensor is not checked"
    with Scan(tensors.values(), [path], keep_nonfinite=True) as scan:
        assert scan.sha256() == {path: hashlib.sha256(path.read_bytes()).hexdigest()}


def test_names_of_a_hub_cache_replace_hashing(tmp_path: Path) -> None:
    from converters.safetensors_file import read_header

    blobs, snapshot = (tmp_path / "models--me--x" / name for name in ("blobs", "snapshots"))
    blobs.mkdir(parents=True)
    snapshot.mkdir()
    stated, link = "a" * 64, snapshot / "x.safetensors"
    save_file({"a": torch.zeros(1000)}, blobs / stated)
    link.symlink_to(blobs / stated)
    digest = hashlib.sha256(link.read_bytes()).hexdigest()
    tensors = read_header(link)
    for rehash, expected in ((False, stated), (True, digest)):
        with Scan(tensors.values(), [link], keep_nonfinite=False, rehash=rehash) as scan:
            assert scan.sha256() == {link: expected}
    save_file({"a": torch.full((1000,), torch.nan)}, blobs / stated)
    with Scan(tensors.values(), [link], keep_nonfinite=False) as scan:  # noqa: SIM117
        with pytest.raises(TensorMismatch):
            scan.sha256()
    other = tmp_path / "elsewhere.safetensors"
    other.symlink_to(blobs.parent)
    assert not stated_digest(other)
    assert not stated_digest(blobs / stated), "not a link of the cache"


def test_scan_rejects_a_file_that_shrank(tmp_path: Path) -> None:
    from converters.safetensors_file import read_header

    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1000)}, path)
    tensors = read_header(path)
    path.write_bytes(path.read_bytes()[:-100])
    with Scan(tensors.values(), [], keep_nonfinite=False) as scan:  # noqa: SIM117
        with pytest.raises(CorruptCheckpoint, match="ended early"):
            scan.sha256()


def codegen2(folder: Path, source: Path, *, blocks: int = 8, **config: Any) -> Path:
    """Write the same weights in CodeGen2's layout, which has more blocks in the fused matrix."""
    shutil.copytree(source, folder)
    state = load_file(folder / "model.safetensors")
    for name, fused in state.items():
        if "qkv_proj" in name:
            d = fused.shape[1]
            q, v, k = (
                fused.view(4, 3, d // 4, d)[:, i].reshape(blocks, d // blocks, d) for i in range(3)
            )
            state[name] = torch.stack((q, v, k), 1).reshape(3 * d, d).contiguous()
    save_file(state, folder / "model.safetensors")
    values = json.loads((folder / "config.json").read_text()) | {"head_dim": 32, **config}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_codegen2_layout_gives_the_same_gguf_as_codegen(
    codegen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from converters.families import codegen2 as family

    folder = codegen2(tmp_path / "codegen2", codegen)
    with pytest.raises(UnsupportedModel, match=r"known for 1B and 3\.7B"):
        convert(folder, tmp_path / "b.gguf")
    monkeypatch.setitem(family.KNOWN, (256, 3, 8), "tiny")
    convert(codegen, tmp_path / "a.gguf", ConversionOptions(name="x"), dtype="f32")
    convert(folder, tmp_path / "b.gguf", ConversionOptions(name="x"), dtype="f32")
    assert model_of(tmp_path / "a.gguf") == model_of(tmp_path / "b.gguf")
    report = verdict(tmp_path / "b.gguf", folder, ["def f(x):\n    return x + 1\n" * 9])
    assert report.passed, report.failures
    export_gptj(codegen, tmp_path / "gptj")
    export_gptj(folder, tmp_path / "gptj2")
    left, right = (load_file(tmp_path / n / "model.safetensors") for n in ("gptj", "gptj2"))
    assert all(torch.equal(left[n], right[n]) for n in left)


def test_published_codegen2_1b_is_planned_with_eight_blocks() -> None:
    model = published("codegen2-1B")
    made = plan(find(model.config), model.config, model.sources, "F16")
    q = next(t for t in made.tensors if t.name == "blk.0.attn_q.weight")
    rows = q.parts[0].rows
    assert rows is not None
    # a block contains two heads of q, so the third head is the first in the second block
    assert rows[0] == 0
    assert rows[128] == 128
    assert rows[256] == 3 * 2048 // 8


def test_dry_run_shows_the_sizes(codegen: Path) -> None:
    text = dry_run(codegen, dtype="q8_0")
    assert "token_embd.weight  Q8_0 [1024, 256] 278.5 kB" in text
    assert "million weights: Q8_0 3.1 MB" in text


@pytest.mark.parametrize("size", ["0", "-1", "many", "4XB", ""])
def test_invalid_split_size_is_rejected(codegen: Path, tmp_path: Path, size: str) -> None:
    arguments = ["convert", str(codegen), "-o", str(tmp_path / "m.gguf"), "--json"]
    done = CliRunner().invoke(app, [*arguments, "--split-max-size", size])
    if not size:  # an empty value means the default
        assert done.exit_code == 0
        return
    assert done.exit_code == 2
    assert "--split-max-size" in done.stderr
    assert not list(tmp_path.iterdir())


def test_convert_command_splits_the_model(codegen: Path, tmp_path: Path) -> None:
    arguments = ["convert", str(codegen), "-o", str(tmp_path / "m.gguf"), "--json"]
    done = CliRunner().invoke(app, [*arguments, "--split-max-size", "2MB", "--dtype", "auto"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["n_files"] == len(list(tmp_path.iterdir()))
    assert said["dtype"] == "F32"
