"""The `turbopilot inspect` command, for every kind of file, damaged and hostile files included."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from converters import ConversionOptions, convert
from converters.inspect import describe_checkpoint
from tests.support.tiny import FIM, tiny_checkpoint
from tests.test_architecture import modules_after
from turbopilot.base.errors import CorruptModel
from turbopilot.cli import app
from turbopilot.formats.gguf.description import describe_gguf
from turbopilot.formats.gguf.file import read_gguf


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["inspect", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def said(*arguments: object) -> dict[str, Any]:
    code, out, err = run(*arguments, "--json")
    assert (code, err) == (0, "")
    value: dict[str, Any] = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    return value


@pytest.fixture(scope="module")
def starcoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect") / "starcoder"
    tiny_checkpoint("gptbigcode", folder, tie_word_embeddings=True)
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model: bigcode/starcoder\n---\n")
    note = {"repository": "someone/starcoder", "revision": "0123abc"}
    (folder / "turbopilot-source.json").write_text(json.dumps(note))
    return folder


@pytest.fixture(scope="module")
def gguf(starcoder: Path) -> Path:
    return convert(starcoder, starcoder.parent / "starcoder.gguf").path


def test_gguf_as_json(starcoder: Path, gguf: Path) -> None:
    found, header = said(gguf), read_gguf(gguf)
    assert list(found) == [
        "kind", "path", "version", "architecture", "name", "shape", "n_weights", "n_bytes",
        "bits_per_weight", "main_type", "types", "tokenizer", "origin", "adapter", "quantized", "certificate", "parts",
        "tensors", "metadata",
    ]  # fmt: skip
    assert found["quantized"] is None  # it was converted only
    assert (found["kind"], found["architecture"]) == ("gguf", "starcoder")
    assert found["shape"] == {
        "n_layer": 3, "n_embd": 256, "n_head": 8, "n_head_kv": 1, "n_inner": 1024, "n_ctx": 512, "n_vocab": 1024,
        "rotary_dim": None, "rope_theta": None, "rope_scaling": "", "rope_factor": None,
    }  # fmt: skip
    state = load_file(starcoder / "model.safetensors")
    assert found["n_weights"] == sum(t.numel() for n, t in state.items() if n != "lm_head.weight")
    assert found["n_bytes"] == gguf.stat().st_size
    assert [t["name"] for t in found["tensors"]] == [t.name for t in header.tensors]
    table = next(t for t in found["tensors"] if t["name"] == "token_embd.weight")
    assert table["shape"] == [1024, 256], "in PyTorch's order"
    assert sum(t["n_bytes"] for t in found["types"]) == header.tensor_bytes
    assert sum(t["share"] for t in found["types"]) == pytest.approx(1)
    tokenizer = found["tokenizer"]
    assert (tokenizer["model"], tokenizer["pre"]) == ("gpt2", "starcoder")
    assert tokenizer["pre_origin"] == header.metadata["turbopilot.tokenizer.pre_origin"]
    assert (tokenizer["n_tokens"], tokenizer["n_used"]) == (1024, 704)
    assert {t["text"] for t in tokenizer["fim"]} == set(FIM)
    assert tokenizer["has_fim"]
    assert tokenizer["fim_layout"] == "starcoder: <fim_prefix>…<fim_suffix>…<fim_middle>"
    assert {"role": "eos", "id": 699, "text": "<|endoftext|>"} in tokenizer["special"]
    origin = found["origin"]
    assert origin["license"] == "mit"
    assert origin["repository"].endswith("someone/starcoder")
    assert origin["revision"] == "0123abc"
    assert origin["base_models"] == ["https://huggingface.co/bigcode/starcoder"]
    assert "model.safetensors" in {f["name"] for f in origin["files"]}
    assert {len(f["sha256"]) for f in origin["files"]} == {64}
    assert found["metadata"]["tokenizer.ggml.tokens"]["length"] == 1024
    assert len(found["metadata"]) == len(header.metadata)


def test_gguf_as_text(gguf: Path) -> None:
    code, out, err = run(gguf)
    assert (code, err) == (0, "")
    for words in (
        "starcoder, from GPTBigCodeForCausalLM", "3 layers, 256 wide, 8 heads, 1 key/value head,",
        "gpt2, pre-tokenizer starcoder (by structure), 1,024 tokens, 704 of them used",
        'yes: fim_pre 700 "<fim_prefix>"', "FIM layout    starcoder: <fim_prefix>…<fim_suffix>…",
        "chat template no", "licence       mit", "F16", "someone/starcoder",
    ):  # fmt: skip
        assert words in out
    assert "blk.0" not in out
    assert "blk.2.ffn_down.weight" in run(gguf, "--tensors")[1]
    assert "\ntokenizer.ggml.tokens = 1,024 × " in run(gguf, "--metadata")[1]


def test_layout_of_a_file_that_names_its_order_is_shown(demo_gguf: Path) -> None:
    layout = "spm: <fim_prefix><fim_suffix>…<fim_middle>…"
    assert said(demo_gguf)["tokenizer"]["fim_layout"] == layout
    assert f"FIM layout    {layout}\n" in run(demo_gguf)[1]


def test_quantized_and_split_ggufs_are_described(
    demo_q4_0: Path, demo_checkpoint: Path, tmp_path: Path
) -> None:
    quantized = said(demo_q4_0)
    assert quantized["main_type"] == "Q4_0"
    assert {"Q4_0", "F32"} <= {t["type"] for t in quantized["types"]}
    first = convert(
        demo_checkpoint, tmp_path / "m.gguf", ConversionOptions(split_max_size=4_000_000)
    ).path
    parts = said(first)["parts"]
    assert [p["file"] for p in parts] == sorted(p.name for p in tmp_path.iterdir())
    assert sum(p["n_bytes"] for p in parts) == said(first)["n_bytes"]
    assert sum(p["n_tensors"] for p in parts) == len(said(first)["tensors"])
    assert parts[1]["file"] in run(first, "--tensors")[1]
    code, _, err = run(tmp_path / parts[1]["file"])
    assert code == 2
    assert parts[0]["file"] in err


def test_checkpoint_is_described(starcoder: Path) -> None:
    found = said(starcoder)
    assert found["kind"] == "checkpoint"
    assert found["architectures"] == ["GPTBigCodeForCausalLM"]
    assert found["convertible"]
    assert (found["gguf_architecture"], found["reason"], found["quantized"]) == (
        "starcoder",
        "",
        "",
    )
    assert found["shape"]["n_head_kv"] == 1
    assert found["metadata"]["model_type"] == "gpt_bigcode"
    assert found["tokenizer_files"] == ["tokenizer.json", "tokenizer_config.json"]
    assert found["license"] == "mit"
    assert [f["file"] for f in found["files"]] == ["model.safetensors"]
    assert "yes, to starcoder" in run(starcoder)[1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "unsupported architecture: MambaForCausalLM"),
        ({"activation_function": "relu"}, "activation_function"),
        ({"quantization_config": {"quant_method": "gptq"}}, "GPTQ"),
        ({"n_inner": 512}, "misshapen"),
        ({"n_layer": 4}, "missing"),
    ],
)
def test_reason_for_an_unconvertible_checkpoint_is_reported(
    starcoder: Path, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    folder = Path(shutil.copytree(starcoder, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    found = describe_checkpoint(folder)
    assert not found.convertible
    assert reason in found.reason
    assert bool(found.quantized) == ("GPTQ" in reason)
    assert (found.shape.n_embd, found.n_weights > 0) == (256, True), "the rest is still described"
    assert f"no: {found.reason.splitlines()[0][:20]}" in run(folder)[1]


def test_checkpoint_without_weights_is_described(starcoder: Path, tmp_path: Path) -> None:
    shutil.copy(starcoder / "config.json", tmp_path)
    found = describe_checkpoint(tmp_path)
    assert not found.convertible
    assert "weights" in found.hint
    assert found.gguf_architecture == "starcoder"


def test_weight_files_are_described(starcoder: Path, tmp_path: Path) -> None:
    state = load_file(starcoder / "model.safetensors")
    save_file(state, tmp_path / "a.safetensors", {"format": "pt"})
    torch.save(state, tmp_path / "a.bin")
    safe, pickled = said(tmp_path / "a.safetensors"), said(tmp_path / "a.bin")
    assert (safe["kind"], pickled["kind"]) == ("safetensors", "pytorch")
    assert safe["metadata"] == {"format": "pt"}
    shapes = {n: list(t.shape) for n, t in state.items()}
    for found in (safe, pickled):
        assert {t["name"]: t["shape"] for t in found["tensors"]} == shapes
        assert found["n_weights"] == sum(t.numel() for t in state.values())
    assert "wpe.weight" in run(tmp_path / "a.safetensors", "--tensors")[1]


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("README.md", b"# Title", 2, ["neither a GGUF nor", "checkpoint folder"]),
        ("old.bin", b"lmgg" + bytes(40), 2, ["old ggml", "GGUF"]),
        ("bad.bin", b"nothing", 5, ["damaged or hostile PyTorch file"]),
        ("bad.safetensors", b"\xff" * 20, 5, ["damaged safetensors"]),
        ("bad.gguf", b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), 2, ["not a usable GGUF"]),
        ("nothing.gguf", b"", 2, ["not a GGUF file"]),
        ("empty", b"", 2, ["neither a GGUF nor"]),
    ],
)
def test_other_files_are_rejected(
    tmp_path: Path, name: str, content: bytes, code: int, words: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    got, out, err = run(tmp_path / name)
    assert (got, out) == (code, ""), err
    assert all(word in err for word in words), err


def test_typo_gets_a_hint(gguf: Path) -> None:
    code, _, err = run(gguf.with_name("starcodr.gguf"))
    assert code == 2
    assert f"did you mean {gguf}?" in err
    assert "turbopilot download" in run("bigcode/starcoder")[2]
    code, _, err = run(Path(__file__).parent)
    assert (code, "config.json" in err) == (2, True)
    (folder := gguf.parent / "files").mkdir()
    shutil.copy(gguf, folder)
    assert str(folder / gguf.name) in run(folder)[2]


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def hand_made(path: Path, pairs: dict[bytes, bytes], tensor: bytes = b"t") -> Path:
    """Write a GGUF with these keys, their values as raw bytes with their type, and one F32 tensor."""
    raw = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs))
    raw += b"".join(string(key) + value for key, value in pairs.items())
    raw += string(tensor) + struct.pack("<IQIQ", 1, 8, 0, 0)
    path.write_bytes(raw + bytes(-len(raw) % 32) + bytes(32))
    return path


def test_terminal_codes_in_a_file_are_escaped(tmp_path: Path) -> None:
    evil = b"\x1b]0;pwned\x07[bold]\x9b31m\xff\r\n\xe2\x80\xae"
    text = struct.pack("<I", 8) + string(evil)
    tokens = struct.pack("<IIQ", 9, 8, 2) + string(evil) + string(b"b")
    keys = {
        b"general.architecture": text, b"general.name": text, b"tokenizer.ggml.model": text, evil: text,
        b"tokenizer.ggml.tokens": tokens, b"tokenizer.ggml.eos_token_id": struct.pack("<II", 4, 0),
        b"general.license": text, b"tokenizer.ggml.pre": text,
    }  # fmt: skip
    path = hand_made(tmp_path / "evil.gguf", keys, tensor=evil)
    code, out, err = run(path, "--tensors", "--metadata")
    assert (code, err) == (0, "")
    assert "[bold]" in out
    assert not [c for c in out if not c.isprintable() and c != "\n"]
    said(path)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_metadata_value_is_shown_or_rejected(
    tmp_path: Path, gguf: Path, data: st.DataObject
) -> None:
    """Known keys get values of other types than the expected ones."""
    known = sorted(key for key in read_gguf(gguf).metadata if key != "general.alignment")
    chosen = data.draw(st.lists(st.sampled_from(known), unique=True, max_size=12))
    values = st.one_of(
        st.binary(max_size=6).map(lambda b: struct.pack("<I", 8) + string(b)),
        st.floats(width=32).map(lambda x: struct.pack("<If", 6, x)),
        st.integers(-(2**31), 2**31 - 1).map(lambda n: struct.pack("<Ii", 5, n)),
        st.booleans().map(lambda b: struct.pack("<I?", 7, b)),
        st.lists(st.integers(0, 9), max_size=12).map(
            lambda ns: struct.pack(f"<IIQ{len(ns)}I", 9, 4, len(ns), *ns)
        ),
        st.lists(st.binary(max_size=3), max_size=3).map(
            lambda bs: struct.pack("<IIQ", 9, 8, len(bs)) + b"".join(map(string, bs))
        ),
    )
    path = hand_made(tmp_path / "x.gguf", {key.encode(): data.draw(values) for key in chosen})
    try:
        describe_gguf(path)
    except CorruptModel:
        return
    said(path)
    assert run(path, "--tensors", "--metadata")[0] == 0


def test_inspect_imports_no_heavy_modules(demo_gguf: Path, demo_checkpoint: Path) -> None:
    for path in (demo_gguf, demo_checkpoint, demo_checkpoint / "model.safetensors"):
        command = (
            f"sys.argv = ['turbopilot', 'inspect', {str(path)!r}]\n"
            "from turbopilot.cli import main\ntry: main()\nexcept SystemExit: pass"
        )
        heavy = modules_after(command) - {"pydantic"}  # Typer reads a verb's parameters with it
        assert heavy <= ({"numpy"} if path != demo_gguf else set())
