"""Bad checkpoints: the error names the file and the tensor or field, and no output is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converters import ConversionOptions, convert, export_gptj
from converters.safetensors_file import read_header
from tests.support.tiny import tiny_checkpoint
from turbopilot.base.errors import (
    ConversionError,
    CorruptCheckpoint,
    InvalidInput,
    TensorMismatch,
    TokenizerMismatch,
    TurboPilotError,
    UnsupportedModel,
)

ROOT = Path(__file__).parents[2]
FIELDS = st.text(max_size=5) | st.sampled_from(["dtype", "shape", "data_offsets"])


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("codegen", tmp_path_factory.mktemp("pristine") / "tiny", dtype="f16")


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "tiny"))


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite the safetensors header; the data does not change."""
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    n = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + n])
    header = change(header) or header
    new = json.dumps(header).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + raw[8 + n :])


def fails(folder: Path, error: type[TurboPilotError], *words: str, dtype: str = "") -> None:
    out = folder.parent / "out.gguf"
    with pytest.raises(error) as e:
        convert(folder, out, dtype=dtype)
    for word in words:
        assert word in str(e.value) + e.value.hint, (
            f"{word!r} is not in: {e.value} / {e.value.hint}"
        )
    assert e.value.hint or isinstance(
        e.value, TensorMismatch | CorruptCheckpoint | TokenizerMismatch
    )
    assert not list(folder.parent.glob("out.gguf*")), "output was left"


def test_missing_folder_is_rejected(tmp_path: Path) -> None:
    fails(tmp_path / "nowhere", InvalidInput, "nowhere", "no such folder")


def test_folder_without_config_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", InvalidInput, "config.json")


@pytest.mark.parametrize("text", ["{", "[]", "\x00", "[" * 100_000])
def test_invalid_config_json_is_rejected(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    fails(folder, CorruptCheckpoint, "config.json")


def test_unknown_architecture_suggests_similar_names(folder: Path) -> None:
    edit_config(folder, architectures=["CodeGnForCausalLM"])
    fails(folder, UnsupportedModel, "CodeGnForCausalLM", "did you mean CodeGenForCausalLM")


def test_all_unsupported_values_are_listed_in_one_error(folder: Path) -> None:
    edit_config(
        folder, activation_function="relu", tie_word_embeddings=True, scale_attn_weights=False
    )
    fails(
        folder,
        UnsupportedModel,
        'activation_function is "relu"',
        "tie_word_embeddings",
        "scale_attn_weights",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_head": 7}, ["7", "does not divide", "256"]),
        ({"n_head": 2}, ["multiple of 4"]),
        ({"n_head": 0}, ["n_head is 0"]),
        ({"rotary_dim": 15}, ["15 rotary"]),
        ({"rotary_dim": 64}, ["64 rotary"]),
        ({"n_layer": -1}, ["n_layer is -1"]),
        ({"n_embd": "big"}, ['n_embd is "big"', "an integer from 1 to 65,536"]),
        ({"n_embd": True}, ["n_embd is true"]),
        ({"vocab_size": None}, ["vocab_size is missing"]),
    ],
)
def test_impossible_geometry_is_rejected(
    folder: Path, change: dict[str, Any], words: list[str]
) -> None:
    edit_config(folder, **change)
    fails(folder, UnsupportedModel, *words)


def test_shapes_that_contradict_the_config_are_rejected(folder: Path) -> None:
    edit_config(folder, n_inner=512)
    fails(
        folder,
        TensorMismatch,
        "misshapen: transformer.h.0.mlp.fc_in.weight is (1024, 256)",
        "(512, 256)",
    )


def test_missing_and_unknown_tensors_are_all_listed(folder: Path) -> None:
    def rename(header: dict[str, Any]) -> None:
        header["lm_head.bios"] = header.pop("lm_head.bias")

    edit_header(folder, rename)
    fails(folder, TensorMismatch, "missing: lm_head.bias", "unknown: lm_head.bios")


def test_more_layers_than_in_the_config_are_rejected(folder: Path) -> None:
    edit_config(folder, n_layer=2)
    fails(folder, TensorMismatch, "unknown: transformer.h.2.")


def test_truncated_safetensors_file_is_rejected(folder: Path) -> None:
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size - 1000)
    fails(folder, CorruptCheckpoint, "model.safetensors", "truncated")


@pytest.mark.parametrize("size", [0, 4, 8, 100])
def test_file_truncated_in_its_header_is_rejected(folder: Path, size: int) -> None:
    os.truncate(folder / "model.safetensors", size)
    fails(folder, CorruptCheckpoint, "model.safetensors")


def test_huge_header_length_is_rejected(folder: Path) -> None:
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[:8] = (2**60).to_bytes(8, "little")
    (folder / "model.safetensors").write_bytes(raw)
    fails(folder, CorruptCheckpoint, f"{2**60:,}")


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ({"dtype": "F16", "shape": [4096], "data_offsets": [0, 10]}, "needs 8,192 bytes"),
        ({"dtype": "F16", "shape": [-1], "data_offsets": [0, 2]}, "shape"),
        ({"dtype": "F13", "shape": [1], "data_offsets": [0, 2]}, "F13"),
        ({"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}, "overlap"),
        ({"dtype": "F16", "shape": [1], "data_offsets": [10**15, 10**15 + 2]}, "truncated"),
        ({"dtype": "F16", "shape": [True], "data_offsets": [0, 2]}, "shape"),
        ("nothing", "no description"),
    ],
)
def test_invalid_header_entries_are_rejected(folder: Path, entry: Any, word: str) -> None:
    edit_header(folder, lambda h: h.update({"evil": entry}))
    fails(folder, CorruptCheckpoint, "evil", word)


def test_duplicate_tensor_name_is_rejected(folder: Path) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    n = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + n].decode().rstrip()
    twin = header[:-1] + ', "lm_head.bias": ' + json.dumps(json.loads(header)["lm_head.bias"]) + "}"
    path.write_bytes(len(twin).to_bytes(8, "little") + twin.encode() + raw[8 + n :])
    fails(folder, CorruptCheckpoint, "'lm_head.bias' occurs twice")


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=300))
def test_random_header_bytes_do_not_crash_the_reader(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "fuzz.safetensors"
    for raw in (data, len(data).to_bytes(8, "little") + data):
        path.write_bytes(raw)
        with suppress(CorruptCheckpoint):
            read_header(path)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda x: st.lists(x, max_size=4) | st.dictionaries(FIELDS, x, max_size=4),
        max_leaves=15,
    )
)
def test_random_json_headers_do_not_crash_the_reader(tmp_path: Path, value: Any) -> None:
    data = json.dumps(value).encode()
    (tmp_path / "fuzz.safetensors").write_bytes(len(data).to_bytes(8, "little") + data + bytes(64))
    with suppress(CorruptCheckpoint):
        read_header(tmp_path / "fuzz.safetensors")


@pytest.fixture
def sharded(folder: Path) -> Path:
    """A checkpoint of two shards and an index, made from the single file."""
    names = list(read_header(folder / "model.safetensors"))
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    halves = {
        "model-00001-of-00002.safetensors": names[:10],
        "model-00002-of-00002.safetensors": names[10:],
    }
    for shard, part in halves.items():
        save_file({n: tensors[n] for n in part}, folder / shard)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {n: shard for shard, part in halves.items() for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def edit_index(folder: Path, name: str, shard: str) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"][name] = shard
    path.write_text(json.dumps(index))


def test_sharded_checkpoint_converts(sharded: Path, tmp_path: Path) -> None:
    convert(sharded, tmp_path / "ok.gguf")


def test_missing_shard_is_rejected(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    fails(sharded, CorruptCheckpoint, "model-00002-of-00002.safetensors", "missing")


@pytest.mark.parametrize(
    "shard", ["../../etc/passwd", "/etc/passwd", "..", "", "sub/model.safetensors"]
)
def test_index_that_names_files_elsewhere_is_rejected(sharded: Path, shard: str) -> None:
    edit_index(sharded, "lm_head.bias", shard)
    fails(sharded, CorruptCheckpoint, "index.json", repr(shard))


def test_index_that_lists_a_missing_tensor_is_rejected(sharded: Path) -> None:
    edit_index(sharded, "ghost", "model-00001-of-00002.safetensors")
    fails(sharded, CorruptCheckpoint, "'ghost'")


@pytest.mark.parametrize("text", ["{}", "[]", '{"weight_map": 3}', "{"])
def test_invalid_shard_index_is_rejected(sharded: Path, text: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(text)
    fails(sharded, CorruptCheckpoint, "index.json")


def poison(folder: Path, name: str, value: float) -> None:
    tensor = read_header(folder / "model.safetensors")[name]
    with (folder / "model.safetensors").open("r+b") as f:
        f.seek(tensor.offset + tensor.n_bytes // 2)
        f.write(np.array([value], np.float16).tobytes())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["transformer.h.1.attn.qkv_proj.weight", "lm_head.bias"])
def test_nan_and_infinity_are_rejected_unless_forced(folder: Path, name: str, value: float) -> None:
    poison(folder, name, value)
    fails(folder, TensorMismatch, name, "NaN or infinite", "--force")
    convert(folder, folder.parent / "kept.gguf", ConversionOptions(force=True))


def test_values_beyond_the_range_of_f16_are_rejected(tmp_path: Path) -> None:
    folder = tiny_checkpoint("codegen", tmp_path / "big")
    tensor = read_header(folder / "model.safetensors")["transformer.wte.weight"]
    with (folder / "model.safetensors").open("r+b") as f:
        f.seek(tensor.offset)
        f.write(np.array([1e6], np.float32).tobytes())
    fails(
        folder,
        TensorMismatch,
        "transformer.wte.weight",
        "65504",
        "--dtype bf16 or f32",
        dtype="f16",
    )
    convert(folder, tmp_path / "ok.gguf", dtype="f32")


def test_unknown_dtype_is_rejected(folder: Path) -> None:
    fails(folder, InvalidInput, "f23", "did you mean f32", dtype="f23")


def test_existing_output_is_kept_unless_forced(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.gguf"
    out.write_text("precious")
    with pytest.raises(InvalidInput, match="exists already"):
        convert(folder, out)
    assert out.read_text() == "precious"
    convert(folder, out, ConversionOptions(force=True))
    assert out.read_bytes()[:4] == b"GGUF"


def test_missing_output_folder_is_rejected(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such folder"):
        convert(folder, tmp_path / "no" / "where.gguf")


def edit_tokenizer(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        (lambda t: t["model"]["vocab"].update(beyond=5000), TokenizerMismatch, "'beyond' has id 5000"),
        (lambda t: t["model"]["vocab"].update(twin=5), TokenizerMismatch, "share the id 5"),
        (lambda t: t["model"]["vocab"].update(odd="x"), TokenizerMismatch, "'odd'"),
        (lambda t: t.update(normalizer={"type": "NFKC"}), TokenizerMismatch, "NFKC"),
        (lambda t: t["model"].update(type="Unigram"), TokenizerMismatch, "Unigram"),
        (lambda t: t.update(pre_tokenizer={"type": "Whitespace"}), TokenizerMismatch, "Whitespace"),
        (lambda t: t["pre_tokenizer"].update(add_prefix_space=True), TokenizerMismatch, "adds a space"),
        (lambda t: t["added_tokens"][1].update(lstrip=True), TokenizerMismatch, "strips whitespace"),
        (lambda t: t["model"].update(merges=["a b c"]), CorruptCheckpoint, "a b c"),
        (lambda t: t.pop("model"), CorruptCheckpoint, "tokenizer.json"),
    ],
)  # fmt: skip
def test_tokenizers_that_gguf_cannot_represent_are_rejected(
    folder: Path, change: Callable[[dict[str, Any]], Any], error: type[ConversionError], word: str
) -> None:
    edit_tokenizer(folder, change)
    fails(folder, error, word)


def test_missing_tokenizer_is_rejected(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    fails(folder, InvalidInput, "tokenizer.json")


def test_pytorch_file_with_other_content_is_rejected(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    fails(folder, CorruptCheckpoint, "not a zip")


def test_gptj_export_rejects_other_models_other_folders_and_nan(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="not CodeGen"):
        export_gptj(tiny_checkpoint("gptj", tmp_path / "gptj"), tmp_path / "x")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(InvalidInput, match="was not changed"):
        export_gptj(folder, mine, force=True)
    poison(folder, "lm_head.bias", np.nan)
    with pytest.raises(TensorMismatch):
        export_gptj(folder, tmp_path / "y")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gptj", "mine", "tiny"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_killed_conversion_leaves_no_file_under_the_final_name(
    folder: Path, tmp_path: Path, how: int
) -> None:
    """Let the child send itself the signal in the middle of writing, so that the test does not depend on timing."""
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom converters import convert\n"
        "def stop(done, total, what=''):\n"
        f"    if done > total / 2: os.kill(os.getpid(), {int(how)}); signal.pause()\n"
        f"convert(Path({str(folder)!r}), Path({str(tmp_path / 'out.gguf')!r}), progress=stop)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True)
    assert done.returncode != 0
    assert not (tmp_path / "out.gguf").exists()
    if how == signal.SIGINT:
        assert not list(tmp_path.glob("out.gguf*"))
    convert(folder, tmp_path / "out.gguf")  # leftovers do not disturb a second run
    assert [p.name for p in tmp_path.glob("out.gguf*")] == ["out.gguf"]
