"""The `turbopilot quantize --fit-vram` command, without a GPU: nothing is run with --quick."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from turbopilot.cli import app
from turbopilot.formats.gguf.file import read_gguf

QUICK = ("--quick", "-t", "1", "--ctx", "256", "--types", "q4_0,q5_0,q6_k,q8_0,f16")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBOPILOT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["quantize", *map(str, arguments)])
    return done.exit_code, done.stdout, " ".join(done.stderr.split())


def report(*arguments: object) -> dict[str, Any]:
    code, told, err = run(*arguments, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(told)
    return found


def test_file_is_made_for_the_memory_of_a_gpu(demo_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    found = report(demo_gguf, "--fit-vram", "9MB", *QUICK, "-o", out)
    assert found["memory"]["devices"] == [9_000_000]
    assert found["memory"]["total"] is None
    assert found["fitted"]["predicted_on_devices"] <= 9_000_000
    assert found["fitted"]["measured_on_devices"] is None
    for row in found["plain"]:
        assert row["predicted_on_devices"] <= 9_000_000
        assert row["tensor_bytes"] < read_gguf(demo_gguf).tensor_bytes
    shown = CliRunner().invoke(app, ["inspect", str(out)]).stdout
    assert "9.0 MB of GPU memory with 256 tokens of context" in shown


def test_text_names_the_parts_and_how_to_serve_them(demo_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    code, told, err = run(
        demo_gguf, "--fit-vram", "16MB", *QUICK, "--parallel", 2, "--cache-type", "q8_0", "-o", out
    )
    assert code == 0, err
    text = " ".join(told.split())
    assert "GPU0, 16.0 MB: 4 layers and the output head" in text
    assert "KV cache of 256 tokens (q8_0)" in text
    serve = (
        f"turbopilot serve {out} --ctx 256 --parallel 2 --cache-type q8_0 --flash-attn on --ngl all"
    )
    assert f"{serve} --gpu-memory 16000000 --gpu-margin 0".replace(" ", "") in text.replace(" ", "")


def test_both_limits_hold_and_the_smaller_one_decides(demo_gguf: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.gguf"
    alone = report(demo_gguf, "--fit-vram", "12MB", *QUICK, "-o", out)
    process = alone["memory"]["process"]
    total = alone["fitted"]["predicted_bytes"] - 1_500_000
    both = report(demo_gguf, "--fit-vram", "12MB", "--fit", total, *QUICK, "-o", out, "--force")
    assert both["memory"]["total"] == total
    assert both["fitted"]["predicted_bytes"] <= total
    assert both["fitted"]["tensor_bytes"] < alone["fitted"]["tensor_bytes"]
    loose = report(
        demo_gguf, "--fit-vram", "9MB", "--fit", process + 10**9, *QUICK, "-o", out, "--force"
    )
    assert loose["fitted"]["predicted_on_devices"] <= 9_000_000


@pytest.mark.parametrize("more", [("--ctx", "1024"), ("--parallel", "200", "--batch-size", "512")])
def test_context_and_parallel_requests_take_memory_of_the_gpu(
    demo_gguf: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    common = (demo_gguf, "--fit-vram", "15MB", *QUICK, "--ctx", "512")
    one, two = (
        report(*common, *extra, "-o", tmp_path / f"{i}.gguf")["fitted"]
        for i, extra in enumerate(((), more))
    )
    assert two["tensor_bytes"] < one["tensor_bytes"]
    assert two["predicted_on_devices"] <= 15_000_000


def test_sizes_in_the_hints_of_an_impossible_limit_are_possible(
    demo_gguf: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.gguf"
    code, told, err = run(demo_gguf, "--fit-vram", "3MB", *QUICK, "-o", out)
    assert code == 6
    assert not told
    assert "5 layers do not fit into 3.0 MB of GPU memory" in err
    assert not out.exists()
    enough = re.search(r"--fit-vram (\d+)MB is enough", err)
    assert enough
    assert report(demo_gguf, "--fit-vram", f"{enough[1]}MB", *QUICK, "-o", out)["path"] == str(out)
    code, _, err = run(demo_gguf, "--fit-vram", "5.5MB", *QUICK, "-o", out, "--force")
    fewer = re.search(r"--ngl (\d+) puts as many layers", err)
    assert fewer, err
    found = report(
        demo_gguf, "--fit-vram", "5.5MB", "--ngl", fewer[1], *QUICK, "-o", out, "--force"
    )
    assert found["fitted"]["predicted_on_devices"] <= 5_500_000


def test_server_that_does_not_fit_beside_the_gpu_is_an_error(
    demo_gguf: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.gguf"
    code, _, err = run(demo_gguf, "--fit-vram", "12MB", "--fit", "20MB", *QUICK, "-o", out)
    assert code == 6
    assert "the whole server does not fit into 20.0 MB" in err
    enough = re.search(r"needs --fit (\d+)MB", err)
    assert enough
    assert report(demo_gguf, "--fit-vram", "12MB", "--fit", f"{enough[1]}MB", *QUICK, "-o", out)[
        "fitted"
    ]["tensor_bytes"]
    code, _, err = run(demo_gguf, "--fit-vram", "1MB", "--fit", "2MB", *QUICK, "-o", out, "--force")
    assert code == 6
    assert "do not fit into 1.0 MB of GPU memory" in err
    assert "the whole server does not fit into 2.0 MB" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--fit-vram", "much"), "--fit-vram much: not a size"),
        (("--fit-vram", "9MB", "--ngl", "0"), "--ngl 0 puts nothing on a GPU"),
        (("--fit-vram", "9MB", "--pure"), "--pure: cannot be combined with --fit-vram"),
        (("Q4_0", "--fit-vram", "9MB"), "Q4_0: cannot be combined with --fit-vram"),
        (("--fit-vram", "9MB", "--quick", "-ot", "ffn=CUDA7"), "--override-tensor CUDA7"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_combined_are_rejected(
    demo_gguf: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, told, err = run(demo_gguf, *arguments, "-o", tmp_path / "x.gguf")
    assert code == 2
    assert words in err
    assert not told
    assert not list(tmp_path.iterdir())


def test_default_name_has_the_limits(
    demo_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "m-f16.gguf"
    here.symlink_to(demo_gguf)
    found = report(here, "--fit", "1GB", "--fit-vram", "9MB,9MB", *QUICK)
    assert Path(found["path"]).name == "m-1gb-9mb-9mb-vram.gguf"
