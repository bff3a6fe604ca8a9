"""PyTorch's files: the same GGUF as from safetensors, and nothing of a hostile one runs or passes."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from converters import convert
from converters.torch_file import read_pickle
from tests.test_converters import model_of
from tests.tiny import tiny_checkpoint
from turbopilot.errors import CorruptCheckpoint, InvalidInput, TurboPilotError

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture(scope="module")
def codegen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("codegen", tmp_path_factory.mktemp("pt") / "codegen")


def folder_of(source: Path, target: Path) -> dict[str, torch.Tensor]:
    """A copy of a checkpoint without its weights, which are returned."""
    target.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (target / file.name).write_bytes(file.read_bytes())
    return load_file(source / "model.safetensors")


def values_of(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """What the reader finds, read from where it says."""
    found = {}
    for name, t in read_pickle(path).items():
        raw = path.read_bytes()[t.offset : t.offset + t.n_bytes]
        assert t.dtype == "F32"
        found[name] = np.frombuffer(raw, "<f4").reshape(t.shape)
    return found


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_gguf_as_from_safetensors(
    codegen: Path, tmp_path: Path, dtype: str, sharded: bool
) -> None:
    from safetensors.torch import save_file

    state = folder_of(codegen, tmp_path / "st")
    state = {n: t.to(DTYPES[dtype]) for n, t in state.items()}
    save_file(state, tmp_path / "st/model.safetensors")
    folder_of(codegen, tmp_path / "pt")
    if sharded:
        names = sorted(state)
        files = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
        where = {n: files[i % 2] for i, n in enumerate(names)}
        for file in files:
            part = {n: state[n] for n in names if where[n] == file}
            torch.save(part, tmp_path / "pt" / file)
        index = json.dumps({"weight_map": where})
        (tmp_path / "pt/pytorch_model.bin.index.json").write_text(index)
    else:
        torch.save(state, tmp_path / "pt/pytorch_model.bin")
    for source in ("st", "pt"):
        convert(tmp_path / source, tmp_path / f"{source}.gguf", dtype="auto", name="x")
    assert model_of(tmp_path / "st.gguf") == model_of(tmp_path / "pt.gguf")


def test_tensors_that_share_a_storage(tmp_path: Path) -> None:
    whole = torch.arange(24, dtype=torch.float32).reshape(6, 4)
    state = {"whole": whole, "tied": whole, "slice": whole[2:4], "row": whole[5]}
    torch.save(state, tmp_path / "x.bin")
    found = values_of(tmp_path / "x.bin")
    assert set(found) == set(state)
    for name, values in found.items():
        np.testing.assert_array_equal(values, state[name].numpy(), name)


@pytest.mark.parametrize("view", [lambda t: t.T, lambda t: t[:, ::2], lambda t: t[:, 1:]])
def test_a_view_that_is_not_in_one_piece(
    tmp_path: Path, view: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    torch.save({"w": view(torch.ones(4, 6))}, tmp_path / "x.bin")
    with pytest.raises(InvalidInput, match="'w' as a view"):
        read_pickle(tmp_path / "x.bin")


def test_the_state_beside_an_optimizer(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}, "step": 3}, tmp_path / "x.bin")
    assert set(read_pickle(tmp_path / "x.bin")) == {"w"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "one list"),
        ({"w": 3}, "'w' is no tensor but int"),
        ({3: torch.ones(1)}, "names a tensor 3"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "complex64"),
        ({"w": torch.ones(2, 2).to_sparse()}, "sparse"),
    ],
)
def test_what_is_no_table_of_tensors(tmp_path: Path, content: object, words: str) -> None:
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises((CorruptCheckpoint, InvalidInput), match=words):
        read_pickle(tmp_path / "x.bin")


def test_files_older_than_zips(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(InvalidInput, match=r"older than 1\.6") as caught:
        read_pickle(tmp_path / "x.bin")
    assert "save_pretrained" in caught.value.hint


def rezipped(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """The same zip with some entries' bytes changed (None: left out)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            data = change(entry.filename.partition("/")[2], old.read(entry))
            if data is not None:
                new.writestr(entry.filename, data)
    return target


def with_pickle(tmp_path: Path, data: bytes) -> Path:
    torch.save({"w": torch.ones(2)}, tmp_path / "good.bin")
    return rezipped(
        tmp_path / "good.bin", tmp_path / "x.bin", lambda n, b: data if n == "data.pkl" else b
    )


class Runs:
    """Pickles into a call."""

    def __init__(self, call: Callable[..., Any], *arguments: object) -> None:
        self._call = call, arguments

    def __reduce__(self) -> Any:
        return self._call


def test_nothing_of_a_pickle_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    touch = f"open({str(mark)!r}, 'w').close()"
    shell = f"touch {mark}"
    line = shell.encode()
    hostile = {
        "os.system": pickle.dumps({"w": Runs(os.system, shell)}, 2),
        "eval": pickle.dumps({"w": Runs(eval, touch)}, 2),
        "exec": pickle.dumps({"w": Runs(exec, touch)}, 2),
        "subprocess": pickle.dumps({"w": Runs(subprocess.call, ["touch", str(mark)])}, 2),
        "torch.load": pickle.dumps({"w": Runs(torch.load, str(mark))}, 2),
        "INST": b"(S'" + line + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + line + b"'\no.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c" + bytes([len(line)]) + line + b"\x85R.",
        "NEWOBJ": b"\x80\x02cos\nsystem\n(S'" + line + b"'\nt\x81.",
        "BUILD": b"\x80\x02cos\nsystem\nS'" + line + b"'\nb.",
        "EXT": b"\x80\x02\x82\x01.",
        "persistent id": b"\x80\x02U\x02osQ.",
        "no stop": b"\x80\x02}",
        "empty stack": b"\x80\x02R.",
        "memo": b"\x80\x02j\xff\xff\xff\x7f.",
        "deep": b"\x80\x02" + b"]" * 100_000 + b".",
        "nothing": b"",
    }  # fmt: skip
    for name, data in hostile.items():
        with pytest.raises(CorruptCheckpoint) as caught:
            read_pickle(with_pickle(tmp_path, data))
        assert "x.bin: damaged or hostile" in caught.value.message, name
        assert not mark.exists(), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda n, b: None if n == "data.pkl" else b, "PyTorch file"),
        (lambda n, b: None if n == "data/0" else b, "PyTorch file"),
        (lambda n, b: b[:-4] if n == "data/0" else b, "needs 8 bytes, its storage has 4"),
        (lambda n, b: b"big" if n == "byteorder" else b, "big-endian"),
    ],
)
def test_a_zip_that_lacks_something(
    tmp_path: Path, change: Callable[[str, bytes], bytes | None], words: str
) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "good.bin")
    with pytest.raises((CorruptCheckpoint, InvalidInput), match=words):
        read_pickle(rezipped(tmp_path / "good.bin", tmp_path / "x.bin", change))


def test_a_compressed_zip_and_an_entry_that_stands_twice(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "good.bin")
    with zipfile.ZipFile(tmp_path / "good.bin") as old:
        entries = [(e.filename, old.read(e)) for e in old.infolist()]
    with zipfile.ZipFile(tmp_path / "z.bin", "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in entries:
            new.writestr(name, data)
    with pytest.raises(InvalidInput, match="compressed"):
        read_pickle(tmp_path / "z.bin")
    with zipfile.ZipFile(tmp_path / "t.bin", "w") as new:
        for name, data in entries:
            new.writestr(name, data)
        with pytest.warns(UserWarning, match="Duplicate"):
            new.writestr(*entries[0])
    with pytest.raises(CorruptCheckpoint, match="stands twice"):
        read_pickle(tmp_path / "t.bin")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_files_are_refused_or_read_alike(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A flipped byte or a cut: the tensors have their old shapes and lie in the file, or it is an error of ours."""
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4).half()}, buffer)
    raw = bytearray(buffer.getvalue())
    if data.draw(st.booleans()):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    path = tmp_path_factory.getbasetemp() / "fuzzed.bin"
    path.write_bytes(raw)
    try:
        found = read_pickle(path)
    except TurboPilotError as e:
        found, said = {}, e.message
    else:
        said = ""
    assert not said or str(path) in said
    for tensor in found.values():
        assert 0 <= tensor.offset <= tensor.offset + tensor.n_bytes <= len(raw)


@pytest.mark.parametrize("torch_is", ["absent", "old"])
def test_without_a_torch_that_can(tmp_path: Path, torch_is: str) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "x.bin")
    (tmp_path / "torch.py").write_text(
        "raise ImportError('no torch')" if torch_is == "absent" else "__version__ = '2.4.1'"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from pathlib import Path\nfrom converters.torch_file import read_pickle\n"
        "from turbopilot.errors import InvalidInput\n"
        f"try: read_pickle(Path({str(tmp_path / 'x.bin')!r}))\n"
        "except InvalidInput as e: print(e.message, e.hint)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "safetensors" in done.stdout
    assert ("cannot be imported" if torch_is == "absent" else "torch 2.4.1") in done.stdout


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("../../etc/passwd", "etc/passwd"),
        ("/etc/passwd", "etc/passwd"),
        ("absent.bin", "absent.bin"),
    ],
)
def test_an_index_that_names_other_files(
    codegen: Path, tmp_path: Path, file: str, words: str
) -> None:
    state = folder_of(codegen, tmp_path / "x")
    index = {"weight_map": dict.fromkeys(state, file)}
    (tmp_path / "x/pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(TurboPilotError, match=words):
        convert(tmp_path / "x", tmp_path / "out.gguf")
    assert not list(tmp_path.glob("out.gguf*"))
