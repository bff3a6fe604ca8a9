"""Tests of verify on real checkpoints and GGUF files: correct files pass, faulty ones fail with a reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from typer.testing import CliRunner

from converters import ConversionOptions, convert
from tests.support.gguf_faults import TOKENIZER_FAULTS, WEIGHT_FAULTS, faulty, not_a_number
from tests.support.tiny import FAMILY, stdlib_files, tiny_checkpoint
from tests.support.verify_lab import Lab
from turbopilot.base.errors import CorruptCheckpoint, CorruptModel, InvalidInput, UnsupportedModel
from turbopilot.cli import app
from turbopilot.llama.placement_wish import PlacementWish
from turbopilot.verify.comparison import compare_tokens
from turbopilot.verify.criteria import FIXED
from turbopilot.verify.gguf_candidate import GgufCandidate
from turbopilot.verify.texts import token_battery
from turbopilot.verify.torch_reference import TorchReference
from turbopilot.verify.verification import VerifyOptions, compare

TYPES = ("f32", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_nl", "q3_k_m")


@contextmanager
def lab_of(family: str, folder: Path) -> Iterator[Lab]:
    """Yield a lab; remove its files, of all types together up to 200 MB, afterwards."""
    yield Lab(family, folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module", params=["codegen", "gptj"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab_of(request.param, tmp_path_factory.mktemp(request.param)) as made:
        yield made


@pytest.fixture(scope="module", params=FAMILY)
def any_lab(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    with lab_of(request.param, tmp_path_factory.mktemp(f"any-{request.param}")) as made:
        yield made


def test_limits_of_layers_on_devices_allow_for_rounded_sums(lab: Lab) -> None:
    path = lab.gguf("f16")
    everywhere = VerifyOptions(texts={}, positions=100, placement=PlacementWish(None))
    with GgufCandidate(path) as candidate:
        plain = compare(
            lab.reference,
            candidate,
            candidate.header,
            replace(everywhere, placement=PlacementWish(0)),
        )
        wide = compare(lab.reference, candidate, candidate.header, everywhere)
    assert plain.limits == FIXED["F16"]
    assert wide.limits
    assert wide.limits.nmse > FIXED["F16"].nmse
    assert "GPUs" in wide.limits.origin


@pytest.mark.parametrize("type_name", TYPES)
def test_correct_file_passes(any_lab: Lab, type_name: str) -> None:
    report = any_lab.judge(any_lab.gguf(type_name))
    assert report.passed, report.failures
    assert report.metrics is not None
    assert report.metrics.positions > 500
    assert report.metrics.clear > 100
    if type_name == "f32":
        assert report.metrics.nmse <= 1e-6
        assert report.metrics.clear_top1 == 1.0


@pytest.mark.parametrize("type_name", ["f32", "q8_0", "q4_0"])
@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_faulty_weights_fail_verification(lab: Lab, fault: str, type_name: str) -> None:
    report = lab.judge_faulty(type_name, WEIGHT_FAULTS[fault])
    assert {"nmse", "mean_kl", "tensors"} & {f.check for f in report.failures}, report.metrics
    assert all("times the" in f.message for f in report.failures if f.check == "nmse")


@pytest.mark.parametrize("type_name", ["f32", "q4_0"])
@pytest.mark.parametrize("fault", TOKENIZER_FAULTS)
def test_tokenizer_fault_fails_only_checks_of_the_tokenizer(
    lab: Lab, fault: str, type_name: str
) -> None:
    if fault == "token of spaces lost" and "gptj" in str(lab.checkpoint):
        pytest.skip("GPT-J has no tokens of spaces")
    report = lab.judge_faulty(type_name, TOKENIZER_FAULTS[fault], token_battery())
    checks = {f.check for f in report.failures}
    assert {"tokens"} < checks <= {"tokens", "merges", "vocabulary"}
    assert "the checkpoint has" in report.failures[0].message


def test_tokenizers_agree_on_battery_and_a_megabyte_of_source(lab: Lab) -> None:
    files = stdlib_files(1_100_000)
    source = {p.name: p.read_bytes().decode("utf-8", errors="replace") for p in files}
    assert sum(len(text.encode()) for text in source.values()) >= 1_000_000
    with GgufCandidate(lab.gguf("f32")) as candidate:
        for texts in (token_battery(), source):
            result = compare_tokens(lab.reference, candidate, texts)
            assert result.equal, str(result.first_difference)
            assert result.ids > 20_000


def test_reference_tokenizer_matches_tokenizer_json(lab: Lab) -> None:
    raw = Tokenizer.from_file(str(lab.checkpoint / "tokenizer.json"))
    for name, text in token_battery().items():
        assert lab.reference.tokenize(text) == raw.encode(text, add_special_tokens=False).ids, name


def test_error_names_tensor_with_nan(lab: Lab, tmp_path: Path) -> None:
    path = faulty(lab.gguf("q4_0"), tmp_path / "nan.gguf", not_a_number("blk.0.ffn_up.bias"))
    with pytest.raises(CorruptModel, match=r"blk\.0\.ffn_up\.bias"):
        GgufCandidate(path)


def test_command_passes_correct_file_and_fails_faulty_one(lab: Lab, tmp_path: Path) -> None:
    prompts, text = tmp_path / "prompts.txt", tmp_path / "text.txt"
    prompts.write_text("def f(x):\n    return x\n%%\nclass A:\n    pass\n")
    text.write_text("own text")
    arguments = ["--against", str(lab.checkpoint), "--prompts", str(prompts), "--text", str(text)]
    done = CliRunner().invoke(app, ["verify", str(lab.gguf("q8_0")), *arguments, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["passed"]
    assert len(report["windows"]) == 2
    assert report["type_name"] == "Q8_0"
    assert {"torch", "transformers", "llama-cpp-python"} <= set(report["versions"])

    bad = faulty(lab.gguf("q8_0"), tmp_path / "bad.gguf", WEIGHT_FAULTS["q and k swapped"])
    done = CliRunner().invoke(app, ["verify", str(bad), *arguments])
    assert done.exit_code == 7
    assert "FAILED" in done.stdout
    assert "error:" in done.stderr
    assert "NMSE" in done.stderr


@pytest.fixture(scope="module")
def codegen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("codegen", tmp_path_factory.mktemp("codegen") / "checkpoint", n_layer=1)


def damaged(source: Path, target: Path, **replaced: bytes | None) -> Path:
    """Copy a folder with some files replaced, or left out if None; "__" in a name stands for "."."""
    shutil.copytree(source, target)
    for name, content in replaced.items():
        file = target / name.replace("__", ".")
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
    return target


def test_bad_checkpoint_is_rejected(codegen: Path, tmp_path: Path) -> None:
    config = json.loads((codegen / "config.json").read_text())
    weights = (codegen / "model.safetensors").read_bytes()

    def changed(**values: object) -> bytes:
        return json.dumps({**config, **values}).encode()

    with pytest.raises(InvalidInput, match="no such folder"):
        TorchReference(tmp_path / "absent")
    with pytest.raises(InvalidInput, match="not a checkpoint folder"):
        TorchReference(codegen / "config.json")
    cases: list[tuple[type[Exception], str, dict[str, bytes | None]]] = [
        (InvalidInput, r"no config\.json", {"config__json": None}),
        (CorruptCheckpoint, "cannot be read", {"config__json": b"{"}),
        (CorruptCheckpoint, "not a JSON object", {"config__json": b"[]"}),
        (CorruptCheckpoint, "nested too deeply", {"config__json": b"[" * 200_000}),
        (UnsupportedModel, "nonesuch", {"config__json": changed(model_type="nonesuch")}),
        (CorruptCheckpoint, "cannot load", {"model__safetensors": weights[:-100]}),
        (CorruptCheckpoint, "cannot load", {"model__safetensors": weights[:50]}),
        (CorruptCheckpoint, "cannot load", {"model__safetensors": None}),
        (CorruptCheckpoint, "missing", {"config__json": changed(n_layer=2)}),
        (CorruptCheckpoint, "cannot load|missing", {"config__json": changed(n_embd=512)}),
        (InvalidInput, "tokenizer", {"tokenizer__json": b"{", "tokenizer_config__json": None}),
    ]
    for i, (kind, words, replaced) in enumerate(cases):
        with pytest.raises(kind, match=words):
            TorchReference(damaged(codegen, tmp_path / str(i), **replaced))


def test_checkpoint_code_is_never_executed(codegen: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\nclass M: pass\n".encode()
    config = json.loads((codegen / "config.json").read_text())
    own = {
        "AutoConfig": "own.M",
        "AutoModelForCausalLM": "own.M",
        "AutoTokenizer": ["own.M", "own.M"],
    }
    for model_type in ("codegen", "of_its_own"):
        folder = damaged(
            codegen,
            tmp_path / model_type,
            own__py=code,
            config__json=json.dumps({**config, "model_type": model_type, "auto_map": own}).encode(),
            tokenizer_config__json=json.dumps({"tokenizer_class": "M", "auto_map": own}).encode(),
        )
        if model_type == "codegen":
            TorchReference(
                folder
            )  # loaded by transformers' own class; the folder's class is ignored
        else:
            with pytest.raises(UnsupportedModel, match="never runs a checkpoint's code"):
                TorchReference(folder)
        assert not mark.exists()


def test_bad_candidate_is_rejected(codegen: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    with pytest.raises(InvalidInput, match="no such file"):
        GgufCandidate(path)
    path.write_bytes(b"not a model")
    done = CliRunner().invoke(app, ["verify", str(path), "--against", str(codegen)])
    assert done.exit_code == 2
    assert "not a GGUF" in done.stderr
    convert(codegen, path, ConversionOptions(force=True), dtype="f16")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(CorruptModel):
        GgufCandidate(path)
    for old, new, words in (
        (b"blk.0.attn_q.weight", b"blk.0.attn_x.weight", "attn_q"),
        (b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz", "no tokenizer"),
        (b"general.architecture", b"general.architectura", "architecture is missing"),
    ):
        path.write_bytes(whole.replace(old, new))
        with pytest.raises(CorruptModel, match=words):
            GgufCandidate(path)
    # Values that make llama.cpp abort the process or hang.
    for key, value in (
        ("block_count", 1 << 31),
        ("rope.dimension_count", 0),
        ("rope.dimension_count", 15),
    ):
        name = f"phi2.{key}".encode()
        at = whole.index(name) + len(name) + 4  # the key, then its type
        path.write_bytes(whole[:at] + value.to_bytes(4, "little") + whole[at + 4 :])
        with pytest.raises(CorruptModel, match=r"layers|dimension_count"):
            GgufCandidate(path)
