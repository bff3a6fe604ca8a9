"""The catalogue is consistent with itself, the converters and MODELS.md; its sizes match real files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from converters import ConversionOptions, convert
from converters.registry import FAMILIES
from quantize import quantize
from serve.llama import load
from serve.settings import ModelOptions
from tests.support.tiny import tiny_checkpoint
from turbopilot import catalog
from turbopilot.catalog import Geometry, KnownModel
from turbopilot.cli import app
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.footprint import footprint
from turbopilot.llama.geometry import Experts, Latent, header_geometry, weights_bytes

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["models", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_generated_documents_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/write_docs.py", "--check"],
        cwd=ROOT, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("model", catalog.MODELS, ids=lambda m: m.alias)
def test_catalogue_entry_is_consistent(model: KnownModel) -> None:
    assert catalog.find(model.alias.upper()) is model
    assert catalog.find(model.repository) is model
    assert "/" not in model.alias
    assert model.architecture in {f.architecture for f in FAMILIES}
    assert model.licence
    assert model.suits
    assert model.languages_in_short
    # Norms and biases are thousandths of a model.
    assert model.geometry.weights == pytest.approx(model.parameters, rel=0.005)
    assert model.geometry.weights <= model.parameters
    sizes = [model.footprint(kind).total for kind in catalog.TYPES]
    assert sizes == sorted(sizes, reverse=True)


def test_all_models_of_the_original_turbopilot_are_listed() -> None:
    aliases = {m.alias for m in catalog.MODELS}
    for size in ("350M", "2B", "6B", "16B"):
        assert {f"codegen-{size}-mono", f"codegen-{size}-multi"} <= aliases
    named = {"santacoder", "starcoder", "starcoderplus", "wizardcoder-15b", "stablecode-instruct-alpha-3b"}  # fmt: skip
    assert named <= aliases
    assert all(m.old_bin for m in catalog.MODELS if m.alias in named)


def test_aliases_and_repositories_are_unique() -> None:
    names = [n.lower() for m in catalog.MODELS for n in (m.alias, m.repository)]
    assert len(set(names)) == len(names)


SHAPES = {
    "codegen": Geometry(3, 256, 8, 8, 1024, 1024),
    "gptbigcode": Geometry(3, 256, 8, 1, 1024, 1024, fused=True, positions=512),
    "llama": Geometry(3, 256, 8, 2, 768, 1024, gated=True),
    "qwen3moe": Geometry(
        3,
        256,
        8,
        2,
        768,
        1024,
        gated=True,
        key_size=64,
        value_size=64,
        experts=Experts(8, used=2, ffn=256),
    ),
    "deepseekv2": Geometry(
        3,
        256,
        8,
        1,
        768,
        1024,
        gated=True,
        key_size=160,
        value_size=128,
        experts=Experts(8, used=2, ffn=256, shared=512, dense=1),
        latent=Latent(128, key_size=64, value_size=48),
    ),
}


def tiny_model(family: str, parameters: int) -> KnownModel:
    """Return a catalogue entry for the model of `tiny_checkpoint`."""
    return KnownModel(
        "tiny", "", "", "", parameters=parameters, geometry=SHAPES[family], context=512,
        licence=catalog.MODELS[0].licence, suits="",
    )  # fmt: skip


@pytest.mark.parametrize("family", list(SHAPES))
def test_predicted_sizes_match_file_sizes(tmp_path: Path, family: str) -> None:
    """Use a tiny model, in which vectors and metadata are a larger share than in any real model."""
    folder = tiny_checkpoint(family, tmp_path / family)
    report = convert(folder, tmp_path / "f16.gguf", dtype="f16")
    model = tiny_model(family, report.n_weights)
    vocabulary = tmp_path / "vocab.gguf"
    convert(folder, vocabulary, ConversionOptions(vocab_only=True))
    for kind in catalog.TYPES:
        path = report.path
        if kind != "F16":
            path = tmp_path / f"{kind}.gguf"
            quantize(report.path, path, kind)
        found = path.stat().st_size - vocabulary.stat().st_size
        predicted = weights_bytes(model.geometry, model.parameters, kind)
        assert predicted == pytest.approx(found, rel=0.02), kind


def test_kv_cache_size() -> None:
    model = catalog.find("codegen-350M-mono")
    assert model is not None
    assert model.geometry.kv_bytes(2048) == 2 * 2 * 2048 * 20 * 1024
    assert model.footprint("Q8_0").kv_cache == model.geometry.kv_bytes(2048)


@pytest.mark.parametrize("family", list(SHAPES))
def test_predicted_compute_buffer_is_near_the_reserved_size(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, family: str
) -> None:
    path = tmp_path / "f16.gguf"
    convert(tiny_checkpoint(family, tmp_path / family), path, dtype="f16")
    geometry = SHAPES[family]
    assert header_geometry(read_gguf(path)) == geometry
    caplog.set_level("DEBUG", "turbopilot.llama")
    decoder, report = load(path, ModelOptions(threads=1, ctx=512, n_seq=1, cache_type="q8_0"))
    decoder.close()
    assert report.kv_bytes == pytest.approx(geometry.kv_bytes(512, "q8_0"), abs=2**14)
    (reserved,) = re.findall(r"CPU compute buffer size = +([\d.]+) MiB", caplog.text)
    predicted = footprint(geometry, 0, 512).compute
    assert 0.6 * predicted < float(reserved) * 2**20 < 1.2 * predicted


def test_six_billion_weights_fit_into_4_gib() -> None:
    model = catalog.find("codegen-6B-multi")
    assert model is not None
    assert model.footprint("Q4_0").weights < 4.1e9
    f16, q8_0 = (model.footprint("Q4_0", 2048, cache_type=t) for t in ("f16", "q8_0"))
    assert f16.kv_cache / q8_0.kv_cache == pytest.approx(16 / 8.5)
    assert q8_0.kv_cache == model.geometry.kv_bytes(2048, "Q8_0")
    assert q8_0.weights == f16.weights
    # Within 4 GiB, about 3.9 bits remain for each weight.
    assert 3.8 < 8 * ((4 << 30) - (q8_0.total - q8_0.weights)) / model.parameters < 4.1


def test_models_command_lists_filters_and_shows_models() -> None:
    code, out, _ = run()
    assert code == 0
    assert all(m.alias in out for m in catalog.MODELS), "names are not truncated in a narrow output"
    code, out, _ = run("--fits", "2GiB", "--fim", "--language", "PYTHON", "--json")
    found = json.loads(out)
    assert found["memory"] == 2 << 30
    aliases = {m["alias"] for m in found["models"]}
    assert "santacoder" in aliases
    assert not aliases & {"starcoder", "codegen-350M-mono"}
    assert all(min(m["memory"].values()) <= 2 << 30 for m in found["models"])
    code, out, _ = run("bigcode/santacoder")
    assert code == 0
    assert "santacoder-q4_0.bin" in out
    assert "turbopilot serve santacoder" in out
    code, _, err = run("--language", "klingon")
    assert code == 0
    assert "remove a filter" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["santacodr"], 3, "did you mean santacoder"),
        (["--fits", "much"], 2, "--fits"),
        (["--fits", "0"], 2, "--fits"),
    ],
)
def test_bad_arguments_are_rejected(arguments: list[str], code: int, words: str) -> None:
    found, _, err = run(*arguments)
    assert found == code
    assert words in err
