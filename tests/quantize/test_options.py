"""Options of `quantize`: tensor types, split files, requantizing and plans; and the metadata that it writes."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pytest

from converters import ConversionOptions, convert
from quantize import (
    RECIPES,
    Override,
    QuantizeOptions,
    Recipe,
    find_tensor_type,
    parse_override,
    plan,
    quantize,
)
from quantize.imatrix import Entry, Imatrix, write_imatrix
from quantize.kernels import fast_on_cuda, repacked
from quantize.llama_quantize import _quantize as run_quantize_job
from quantize.recipes import TENSOR_TYPES, needs_imatrix
from tests.quantize.test_quantize import write
from turbopilot.base.errors import InvalidInput, QuantizationError
from turbopilot.formats.gguf.file import read_gguf


def types_of(path: Path) -> dict[str, str]:
    return {t.name: t.type_name for t in read_gguf(path).tensors}


@pytest.fixture
def split(demo_gguf: Path, demo_checkpoint: Path, tmp_path: Path) -> Path:
    """First file of the bundled model, split into several files."""
    report = convert(
        demo_checkpoint, tmp_path / "s-f16.gguf", ConversionOptions(split_max_size=4_000_000)
    )
    assert report.n_files > 2
    return report.path


def random_matrix(model: Path, path: Path) -> Path:
    """Write an importance matrix for the model's layers, with random values."""
    rng = np.random.default_rng(0)
    entries = {
        t.name: Entry(
            rng.uniform(0.5, 900, (1, t.shape[0])).astype(np.float32), np.array([100], np.int64)
        )
        for t in read_gguf(model).tensors
        if len(t.shape) == 2 and t.name.startswith("blk.")
    }
    write_imatrix(path, Imatrix(entries, ("text.txt",), 10, 10))
    return path


@pytest.fixture
def matrix(demo_gguf: Path, tmp_path: Path) -> Path:
    return random_matrix(demo_gguf, tmp_path / "matrix.gguf")


def test_overrides_set_the_types_of_single_tensors(demo_gguf: Path, tmp_path: Path) -> None:
    options = QuantizeOptions(
        overrides=(
            parse_override(r"blk\.0\.ffn_down=q6_k"),
            parse_override("ffn_down=F16"),
            parse_override("attn_(q|k)=q5_0"),
        ),
        output_type="Q4_0",
        embedding_type="Q5_1",
    )
    quantize(demo_gguf, tmp_path / "o.gguf", "Q4_0", options)
    found = types_of(tmp_path / "o.gguf")
    assert found["blk.0.ffn_down.weight"] == "Q6_K"
    assert found["blk.1.ffn_down.weight"] == "F16"
    assert found["blk.1.attn_q.weight"] == found["blk.2.attn_k.weight"] == "Q5_0"
    assert found["blk.1.ffn_up.weight"] == "Q4_0"
    assert found["output.weight"] == "Q4_0"
    assert found["token_embd.weight"] == "Q5_1"


def test_pure_writes_only_the_base_type(demo_gguf: Path, tmp_path: Path) -> None:
    quantize(demo_gguf, tmp_path / "mixed.gguf", "Q4_K_M")
    quantize(demo_gguf, tmp_path / "pure.gguf", "Q4_K_M", QuantizeOptions(pure=True))
    assert set(types_of(tmp_path / "mixed.gguf").values()) == {"F32", "Q4_K", "Q6_K"}
    assert set(types_of(tmp_path / "pure.gguf").values()) == {"F32", "Q4_K"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ffn_down", ["a pattern and a type", "ffn_down=q6_k"]),
        ("=q6_k", ["a pattern and a type"]),
        ("ffn_down=q6", ["no such tensor type", "Q6_K"]),
        ("ffn_down=q4_k_m", ["no such tensor type", "mixture", "Q4_K"]),
        ("ffn_down=q8_1", ["no such tensor type"]),
        ("blk.(=q6_k", ["not a regular expression", "blk.("]),
    ],
)
def test_invalid_override_is_rejected(text: str, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as e:
        parse_override(text)
    for word in words:
        assert word in e.value.message + e.value.hint


def test_override_without_effect_is_rejected(demo_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.gguf"
    with pytest.raises(InvalidInput, match=r"no tensor name matches 'fnn_down'") as e:
        quantize(demo_gguf, out, "Q4_0", QuantizeOptions(overrides=(Override("fnn_down", "Q6_K"),)))
    assert "ffn_down" in e.value.hint
    with pytest.raises(InvalidInput, match="ignores it"):
        quantize(demo_gguf, out, "BF16", QuantizeOptions(overrides=(Override("ffn_down", "Q6_K"),)))
    assert not out.exists()


def test_tensor_type_is_accepted_in_any_case() -> None:
    assert {find_tensor_type(name.lower(), "--output-type") for name in TENSOR_TYPES} == set(
        TENSOR_TYPES
    )


def test_plan_has_exact_types_and_sizes(demo_gguf: Path, tmp_path: Path) -> None:
    options = QuantizeOptions(overrides=(parse_override("attn_v=f16"),), pure=True)
    preview = plan(demo_gguf, "Q5_K_S", options)
    assert not list(tmp_path.iterdir())
    out = tmp_path / "o.gguf"
    report = quantize(demo_gguf, out, "Q5_K_S", options)
    written = {t.name: (t.type_name, t.n_bytes) for t in read_gguf(out).tensors}
    assert {t.name: (t.after, t.bytes_after) for t in preview.tensors} == written
    assert abs(preview.file_bytes - out.stat().st_size) < 2000
    assert preview.bits_per_weight == pytest.approx(report.bits_after)
    before = {t.name: (t.type_name, t.n_bytes) for t in read_gguf(demo_gguf).tensors}
    assert {t.name: (t.before, t.bytes_before) for t in preview.tensors} == before


def test_tensors_with_a_fallback_type_are_named(tmp_path: Path) -> None:
    names = ("attn_v", "attn_q")
    tensors = {f"blk.0.{n}.weight": np.ones((64, 64)) for n in names}
    write(tmp_path / "narrow.gguf", "llama", {**tensors, "blk.0.ffn_up.weight": np.ones((64, 256))})
    report = quantize(tmp_path / "narrow.gguf", tmp_path / "out.gguf", "Q4_K_S")
    assert len(report.fallbacks) == 2
    assert (
        "blk.0.attn_q.weight: row length 64 is not a multiple of 256 (Q4_K); Q5_0 was used"
        in report.fallbacks
    )
    planned = {t.name: t for t in plan(tmp_path / "narrow.gguf", "Q4_K_S").tensors}
    assert planned["blk.0.attn_q.weight"].wanted == "Q4_K"
    assert planned["blk.0.ffn_up.weight"].wanted == ""


def test_quantizing_twice_needs_allow_requantize(demo_q4_0: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.gguf"
    with pytest.raises(QuantizationError, match="loses more accuracy") as e:
        quantize(demo_q4_0, out, "Q8_0")
    assert "--allow-requantize" in e.value.hint
    assert not list(tmp_path.iterdir())
    assert plan(demo_q4_0, "Q8_0").requantized()
    quantize(demo_q4_0, out, "Q8_0", QuantizeOptions(allow_requantize=True))
    assert "Q4_0" not in types_of(out).values()
    quantize(demo_q4_0, tmp_path / "same.gguf", "Q4_0")  # no tensor changes its type
    assert types_of(tmp_path / "same.gguf") == types_of(demo_q4_0)


def test_split_model_is_joined_or_kept_split(split: Path, demo_gguf: Path, tmp_path: Path) -> None:
    n = read_gguf(split).n_files
    quantize(split, tmp_path / "one.gguf", "Q4_0")
    report = quantize(split, tmp_path / "many.gguf", "Q4_0", QuantizeOptions(keep_split=True))
    assert report.path.name == f"many-00001-of-0000{n}.gguf"
    assert read_gguf(report.path).n_files == n
    assert types_of(report.path) == types_of(tmp_path / "one.gguf")
    assert not [p for p in tmp_path.iterdir() if "part" in p.name]
    options = QuantizeOptions(keep_split=True)  # Q3_K_M depends on the order of tensors
    report = quantize(split, tmp_path / "order.gguf", "Q3_K_M", options)
    planned = {t.name: t.after for t in plan(split, "Q3_K_M", options).tensors}
    assert types_of(report.path) == planned
    with pytest.raises(InvalidInput, match="exists already"):
        quantize(split, tmp_path / "many.gguf", "Q4_0", QuantizeOptions(keep_split=True))
    (tmp_path / f"two-0000{n}-of-0000{n}.gguf").write_text("precious")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InvalidInput, match="exists already"):
        quantize(split, tmp_path / "two.gguf", "Q4_0", QuantizeOptions(keep_split=True))
    assert sorted(tmp_path.iterdir()) == before


def test_metadata_has_source_file_and_digests(split: Path, demo_gguf: Path, tmp_path: Path) -> None:
    options = QuantizeOptions(metadata={"turbopilot.quantize.note": 3})
    quantize(demo_gguf, tmp_path / "o.gguf", "Q4_0", options)
    said = read_gguf(tmp_path / "o.gguf").metadata
    digest = hashlib.sha256(demo_gguf.read_bytes()).hexdigest()
    assert said["turbopilot.quantize.source.sha256"] == digest
    assert said["turbopilot.quantize.source.file"] == demo_gguf.name
    assert said["turbopilot.quantize.note"] == 3
    assert re.fullmatch(r"\d+\.\d+\.\d+", str(said["turbopilot.quantize.llama_cpp"]))
    assert not [key for key in said if "imatrix" in key]
    quantize(split, tmp_path / "whole.gguf", "Q4_0")
    said = read_gguf(tmp_path / "whole.gguf").metadata
    parts = sorted(tmp_path.glob("s-f16-*.gguf"))
    for i, part in enumerate(parts):
        key = "turbopilot.quantize.source.sha256" + (f".{i + 1}" if i else "")
        assert said[key] == hashlib.sha256(part.read_bytes()).hexdigest()


def test_source_digest_is_cached(
    demo_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old.gguf"
    old.write_bytes(demo_gguf.read_bytes())
    os.utime(old, (0, 0))
    monkeypatch.setattr("turbopilot.base.file_digest._SETTLED", -1e9)
    options = QuantizeOptions(digests=tmp_path / "memory")
    quantize(old, tmp_path / "a.gguf", "Q8_0", options)
    monkeypatch.setattr("turbopilot.base.file_digest._digest", lambda _: pytest.fail("read again"))
    quantize(old, tmp_path / "b.gguf", "Q4_0", options)
    key = "turbopilot.quantize.source.sha256"
    a, b = (read_gguf(tmp_path / f"{name}.gguf").metadata[key] for name in "ab")
    assert a == b == hashlib.sha256(demo_gguf.read_bytes()).hexdigest()


def test_importance_matrix_changes_rounding_and_is_recorded(
    demo_gguf: Path, matrix: Path, tmp_path: Path
) -> None:
    quantize(demo_gguf, tmp_path / "plain.gguf", "Q3_K_M")
    quantize(demo_gguf, tmp_path / "weighed.gguf", "Q3_K_M", QuantizeOptions(imatrix=matrix))
    plain, weighed = (read_gguf(tmp_path / f"{n}.gguf") for n in ("plain", "weighed"))
    assert types_of(plain.path) == types_of(weighed.path)
    t = next(t for t in plain.tensors if t.name == "blk.0.ffn_up.weight")
    u = next(t for t in weighed.tensors if t.name == t.name and t.name == "blk.0.ffn_up.weight")
    a = plain.path.read_bytes()[t.offset : t.offset + t.n_bytes]
    b = weighed.path.read_bytes()[u.offset : u.offset + u.n_bytes]
    assert a != b
    said = weighed.metadata
    assert said["quantize.imatrix.file"] == "matrix.gguf"
    assert said["quantize.imatrix.dataset"] == "text.txt"
    assert said["quantize.imatrix.chunks_count"] == 10
    digest = hashlib.sha256(matrix.read_bytes()).hexdigest()
    assert said["turbopilot.quantize.imatrix.sha256"] == digest


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run llama.cpp without a child process, in which it would compute an IQ type's grid again for each file."""
    monkeypatch.setattr(
        "quantize.quantizer.run_child", lambda _module, job, **_: run_quantize_job(job)
    )


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("recipe", [r for r in RECIPES if r.needs_imatrix], ids=lambda r: r.name)
def test_type_that_needs_an_importance_matrix_is_rejected_without_one(
    small_gguf: Path, tmp_path: Path, recipe: Recipe
) -> None:
    out, matrix = tmp_path / "o.gguf", random_matrix(small_gguf, tmp_path / "matrix.gguf")
    with pytest.raises(QuantizationError, match="needs an importance matrix for") as e:
        quantize(small_gguf, out, recipe.name)
    assert "--imatrix auto" in e.value.hint
    assert not out.exists()
    assert plan(small_gguf, recipe.name).without_imatrix()
    quantize(small_gguf, out, recipe.name, QuantizeOptions(imatrix=matrix))
    assert recipe.base in types_of(out).values()


def test_unusable_importance_matrix_is_rejected(
    demo_gguf: Path, matrix: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o.gguf"
    other = Imatrix(
        {"blk.7.attn_q.weight": Entry(np.ones((1, 8), np.float32), np.array([1]))}, (), 1, 8
    )
    write_imatrix(tmp_path / "other.gguf", other)
    with pytest.raises(QuantizationError, match=r"blk\.7\.attn_q"):
        quantize(demo_gguf, out, "Q4_0", QuantizeOptions(imatrix=tmp_path / "other.gguf"))
    with pytest.raises(InvalidInput, match=r"absent\.gguf"):
        quantize(demo_gguf, out, "Q4_0", QuantizeOptions(imatrix=tmp_path / "absent.gguf"))
    partly = Imatrix(
        {"blk.0.attn_q.weight": Entry(np.ones((1, 256), np.float32), np.array([1]))}, (), 1, 8
    )
    write_imatrix(tmp_path / "partly.gguf", partly)
    with pytest.raises(QuantizationError, match="has no entry for") as e:
        quantize(demo_gguf, out, "IQ2_XXS", QuantizeOptions(imatrix=tmp_path / "partly.gguf"))
    assert "more" in e.value.message
    assert not out.exists()


@pytest.mark.parametrize("tensor", ["blk.0.attn_q.weight", "output.weight"])
@pytest.mark.parametrize("name", [n for n in TENSOR_TYPES if TENSOR_TYPES[n] > 1 and n != "BF16"])
def test_needs_imatrix_matches_llama_cpp(
    small_gguf: Path, tmp_path: Path, name: str, tensor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Disable our own check, so that llama.cpp decides, in a child process because it aborts for some types."""
    monkeypatch.setattr("quantize.preview.Preview.without_imatrix", lambda *_: ())
    options = QuantizeOptions(overrides=(Override(f"^{re.escape(tensor)}$", name),))
    try:
        quantize(small_gguf, tmp_path / "o.gguf", "Q8_0", options)
    except QuantizationError:
        assert needs_imatrix(tensor, name, "Q8_0")
    else:
        assert not needs_imatrix(tensor, name, "Q8_0")


def test_repacked_and_cuda_kernels_by_type() -> None:
    assert repacked("Q4_K", {"avx2", "fma"})
    assert not repacked("Q4_1", {"avx2", "avx512f", "neon", "dotprod", "i8mm"})
    assert not repacked("Q2_K", {"avx2"})
    assert repacked("Q6_K", {"neon", "dotprod"})
    assert {r.name for r in RECIPES if not fast_on_cuda(r.base)} == {"IQ1_M", "TQ1_0", "TQ2_0"}
