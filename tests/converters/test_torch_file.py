"""PyTorch files give the same GGUF as safetensors, in every form in which weights are saved."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file

from converters import ConversionOptions, convert
from converters.checkpoint import Checkpoint
from converters.torch_file import read_pickle
from tests.support.tiny import tiny_checkpoint
from tests.support.torch_files import refused
from turbopilot.base.errors import CorruptCheckpoint, InvalidInput, TensorMismatch

ROOT = Path(__file__).parents[2]
State = dict[str, torch.Tensor]
TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Factory of tiny checkpoints, one per family; Llama's output matrix is tied to its embedding."""
    root = tmp_path_factory.mktemp("torch-file")

    def make(family: str) -> Path:
        folder = root / family
        if not folder.exists():
            tiny_checkpoint(family, folder, tie_word_embeddings=family == "llama")
        return folder

    return make


def pickled(folder: Path, to: Path, state: dict[str, Any], n_shards: int = 1) -> Path:
    """Write a copy of the checkpoint with the weights `state` in PyTorch files."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors"))
    if n_shards == 1:
        torch.save(state, to / "pytorch_model.bin")
        return to
    shards = [f"pytorch_model-{i + 1:05}-of-{n_shards:05}.bin" for i in range(n_shards)]
    weight_map = {name: shards[i % n_shards] for i, name in enumerate(state)}
    for shard in shards:
        torch.save({n: t for n, t in state.items() if weight_map[n] == shard}, to / shard)
    (to / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return to


def content(folder: Path, out: Path, dtype: str) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
    """Convert, and return the GGUF's metadata, except names and digests of source files, and its tensors in order."""
    convert(folder, out, ConversionOptions(name="x", force=True), dtype=dtype)
    reader = GGUFReader(out)
    about = ("turbopilot.source.files", "turbopilot.source.sha256")
    keys = {n: f.contents() for n, f in reader.fields.items() if n not in about}
    tensors = [(t.name, t.tensor_type, *t.shape, t.data.tobytes()) for t in reader.tensors]
    assert min(len(keys), len(tensors)) > 20
    return keys, tensors


@pytest.mark.parametrize("n_shards", [1, 2])
@pytest.mark.parametrize("dtype", TYPES)
def test_pytorch_files_give_the_same_gguf_as_safetensors(
    checkpoints: Callable[[str], Path], tmp_path: Path, dtype: str, n_shards: int
) -> None:
    folder = checkpoints("codegen")
    state = {n: t.to(TYPES[dtype]) for n, t in load_file(folder / "model.safetensors").items()}
    safe = Path(shutil.copytree(folder, tmp_path / "safe"))
    save_file(state, safe / "model.safetensors")
    ours = pickled(folder, tmp_path / "torch", state, n_shards)
    assert content(ours, tmp_path / "1", "auto") == content(safe, tmp_path / "2", "auto")


def slices(state: State) -> State:
    """Return all tensors as views of one buffer."""
    buffer = torch.cat([t.flatten() for t in state.values()])
    parts = torch.split(buffer, [t.numel() for t in state.values()])
    return {n: part.view(t.shape) for (n, t), part in zip(state.items(), parts, strict=True)}


def parameters(state: State) -> dict[str, Any]:
    """Return the weights as a trainer saves them: parameters with attributes, and other values next to them."""
    found = {n: torch.nn.Parameter(t) for n, t in state.items()}
    for parameter in found.values():
        vars(parameter)["sharded"] = False
    steps = {
        "state": {0: {"step": torch.tensor(1.0)}},
        "betas": (0.9, 0.99),
        7: {1, 2},
        "raw": b"x",
    }
    return {"epoch": 2**40, "optimizer": steps, "state_dict": found}


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + n: t for n, t in state.items()}


def bare(prefix: str) -> Callable[[State], State]:
    return lambda state: {n.removeprefix(prefix): t for n, t in state.items()}


def module(state: State) -> Any:
    """Return the weights as a module's state dict, which is an OrderedDict with attributes."""
    nested = torch.nn.Linear(1, 1).state_dict()
    nested.clear()
    nested.update(state)
    assert vars(nested)["_metadata"]
    return nested


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("llama", lambda s: {**s, "lm_head.weight": s["model.embed_tokens.weight"]}),
        ("llama", bare("model.")),
        ("llama", prefixed("model.")),
        ("gptbigcode", bare("transformer.")),
        ("gptbigcode", prefixed("transformer.")),
        ("codegen", slices),
        ("codegen", parameters),
        ("codegen", module),
    ],
)
def test_other_forms_of_state_dict_give_the_same_gguf(
    checkpoints: Callable[[str], Path], tmp_path: Path, family: str, change: Callable[[State], Any]
) -> None:
    folder = checkpoints(family)
    state = change(load_file(folder / "model.safetensors"))
    ours = pickled(folder, tmp_path / "torch", state)
    assert content(ours, tmp_path / "1", "f32") == content(folder, tmp_path / "2", "f32")


def test_reader_does_not_import_torch(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    folder = checkpoints("codegen")
    ours = pickled(folder, tmp_path / "torch", load_file(folder / "model.safetensors"), 2)
    script = (
        "import sys; sys.modules.update(torch=None, transformers=None, safetensors=None)\n"
        "from pathlib import Path; from converters import convert\n"
        f"convert(Path({str(ours)!r}), Path({str(tmp_path / 'out.gguf')!r}))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
    assert (tmp_path / "out.gguf").read_bytes()[:4] == b"GGUF"


def test_noncontiguous_views_must_be_saved_again(tmp_path: Path) -> None:
    path, matrix = tmp_path / "pytorch_model.bin", torch.arange(12.0).reshape(3, 4)
    views = {"transposed": matrix.T, "column": matrix[:, 1], "expanded": matrix[:1].expand(2, 4)}
    others = {
        "negated": torch._neg_view(matrix), "complex": matrix.to(torch.complex64),
        "sparse": matrix.to_sparse(),
    }  # fmt: skip
    for name, view in {**views, **others}.items():
        torch.save({"whole": matrix, name: view}, path)
        refused(path, InvalidInput, name)
    torch.save({"one": matrix[:, :1][:1], "none": matrix[:0].T, "number": matrix[1, 2]}, path)
    assert [t.shape for t in read_pickle(path).values()] == [(1, 1), (4, 0), ()]


def test_files_from_before_torch_1_6_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"x": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    refused(path, InvalidInput, "older than 1.6")
    path.write_bytes(pickle.dumps({"x": 1}, 2))
    refused(path, CorruptCheckpoint, "not a zip")


@pytest.mark.parametrize("short", ["transformer.h.0.ln_1.bias", "transformer.ln_f.bias"])
def test_nan_outside_an_overlapping_view_is_found(
    checkpoints: Callable[[str], Path], tmp_path: Path, short: str
) -> None:
    """Save the view before or after the tensor with the NaN, which shares its data."""
    folder = checkpoints("codegen")
    state = load_file(folder / "model.safetensors")
    long = state["transformer.h.0.mlp.fc_in.bias"]
    state[short] = long[: len(state[short])]
    long[-1] = torch.nan
    with pytest.raises(TensorMismatch, match=r"fc_in.bias.*NaN"):
        convert(pickled(folder, tmp_path / "torch", state), tmp_path / "out.gguf")


@pytest.fixture
def sharded(checkpoints: Callable[[str], Path], tmp_path: Path) -> Path:
    folder = checkpoints("codegen")
    return pickled(folder, tmp_path / "torch", load_file(folder / "model.safetensors"), 2)


@pytest.mark.parametrize(
    ("name", "shard", "word"),
    [
        ("lm_head.bias", "../../etc/passwd", "not a file in its folder"),
        ("lm_head.bias", "/etc/passwd", "not a file in its folder"),
        ("lm_head.bias", "x" * 300, "not a file in its folder"),
        ("lm_head.bias", "a\0b", "missing"),
        ("lm_head.bias", "\ud800", "missing"),
        ("lm_head.bias", "pytorch_model-00003-of-00003.bin", "missing"),
        ("lm_head.bias", "config.json", "not a zip"),
        ("ghost", "pytorch_model-00001-of-00002.bin", "lists 'ghost' in"),
    ],
)
def test_wrong_shard_index_is_rejected(sharded: Path, name: str, shard: str, word: str) -> None:
    index = sharded / "pytorch_model.bin.index.json"
    weight_map = {**json.loads(index.read_text())["weight_map"], name: shard}
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CorruptCheckpoint, match=word) as e:
        convert(sharded, sharded.parent / "out.gguf")
    assert e.value.hint
    assert e.value.message.isprintable()
    assert len(e.value.message) < 1000


@pytest.mark.parametrize("equal", [True, False])
def test_tensor_in_two_shards_is_rejected_even_if_equal(sharded: Path, equal: bool) -> None:
    first, second = sorted(sharded.glob("*.bin"))
    name, tensor = next(iter(torch.load(first).items()))
    torch.save({**torch.load(second), name: tensor if equal else tensor + 1}, second)
    with pytest.raises(CorruptCheckpoint, match=rf"{second.name}.*{name}.* also in {first.name}"):
        convert(sharded, sharded.parent / "out.gguf")


def test_tensor_missing_from_the_index_is_read(sharded: Path) -> None:
    index = sharded / "pytorch_model.bin.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    del weight_map["lm_head.bias"]
    index.write_text(json.dumps({"weight_map": weight_map}))
    convert(sharded, sharded.parent / "out.gguf")
    assert "lm_head.bias" in Checkpoint.open(sharded).tensors


def test_safetensors_are_preferred_to_pytorch_files(
    sharded: Path, checkpoints: Callable[[str], Path]
) -> None:
    for shard in sharded.glob("*.bin"):
        shard.write_bytes(b"would fail")
    shutil.copy(checkpoints("codegen") / "model.safetensors", sharded)
    convert(sharded, sharded.parent / "out.gguf")
