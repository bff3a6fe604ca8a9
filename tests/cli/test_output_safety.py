"""Outputs that would destroy an input, and sources that change while they are read, are refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from converters import ConversionOptions, convert, export_gptj
from quantize import QuantizeOptions, quantize
from quantize.imatrix import GatherOptions, gather
from tests.support.imatrix_lab import TEXT
from tests.support.old_ggml import old_gptj
from tests.support.tiny import tiny_checkpoint
from turbopilot.base.errors import InvalidInput, TurboPilotError
from turbopilot.base.progress import Progress
from turbopilot.cli import app
from turbopilot.formats.gguf.split import files_of

Contents = dict[str, bytes | str]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny CodeGen in two shards."""
    folder = tiny_checkpoint("codegen", tmp_path_factory.mktemp("pristine") / "ck", dtype="f16")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float16")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="3MB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


@pytest.fixture
def ck(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "ck"))


@pytest.fixture(scope="module")
def pristine_old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Old ggml file of a tiny GPT-J."""
    folder = tmp_path_factory.mktemp("old")
    return old_gptj(tiny_checkpoint("gptj", folder / "gptj"), folder / "old.bin", "F16")


@pytest.fixture
def old(pristine_old: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(pristine_old, tmp_path / "old.bin"))


def contents(folder: Path) -> Contents:
    """Return every file and link in a folder, to see what a command changed."""
    return {
        str(p.relative_to(folder)): str(p.readlink()) if p.is_symlink() else p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_symlink() or p.is_file()
    }


def refused(folder: Path, *arguments: str | Path, words: str) -> None:
    """Run a command that must refuse its output with exit code 2 and change nothing."""
    before = contents(folder)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.output.split()), result.output
    assert contents(folder) == before


def test_convert_refuses_its_config_as_output(ck: Path) -> None:
    refused(ck.parent, "convert", ck, "-o", ck / "config.json", "--force", words="same file")


def test_convert_refuses_a_shard_as_output(ck: Path) -> None:
    shard = next(ck.glob("model-*.safetensors"))
    refused(ck.parent, "convert", ck, "-o", shard, "--force", words="same file")


def test_convert_refuses_any_output_inside_the_source(ck: Path) -> None:
    (ck / "README.md").write_text("precious")
    for name in ("README.md", "new.gguf"):
        refused(ck.parent, "convert", ck, "-o", ck / name, "--force", words="inside the source")


def test_convert_refuses_a_link_to_its_source_as_output(ck: Path) -> None:
    for link in (ck.parent / "symbolic", ck.parent / "hard"):
        if link.name == "hard":
            link.hardlink_to(ck / "config.json")
        else:
            link.symlink_to(ck / "config.json")
        refused(ck.parent, "convert", ck, "-o", link, "--force", words="same file")


def test_convert_refuses_a_link_as_output(ck: Path) -> None:
    (ck.parent / "precious").write_text("precious")
    (ck.parent / "link").symlink_to("precious")
    refused(ck.parent, "convert", ck, "-o", ck.parent / "link", "--force", words="is a link")


@pytest.mark.parametrize("verb", ["convert", "quantize"])
def test_devices_and_pipes_are_refused_as_output(ck: Path, demo_gguf: Path, verb: str) -> None:
    pipe = ck.parent / "pipe"
    os.mkfifo(pipe)
    source: list[str | Path] = [ck] if verb == "convert" else [demo_gguf, "Q4_0"]
    for output in (pipe, Path("/dev/null")):
        refused(ck.parent, verb, *source, "-o", output, "--force", words="device, pipe or socket")
    assert pipe.is_fifo()
    assert Path("/dev/null").is_char_device()


def test_import_refuses_its_source_as_output(old: Path, tmp_path: Path) -> None:
    refused(tmp_path, "convert", old, "-o", old, "--force", words="same file")


def test_import_refuses_the_tokenizer_folder_for_its_output(
    pristine_old: Path, old: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pristine_old.parent / "gptj", tmp_path / "gptj"))
    output = folder / "tokenizer.json"
    arguments: list[str | Path] = ["convert", old, "--tokenizer", folder, "-o", output, "--force"]
    refused(tmp_path, *arguments, words="inside the source")


def test_export_refuses_the_source_and_folders_around_it(ck: Path) -> None:
    export: list[str | Path] = ["convert", ck, "--to", "gptj", "--force", "-o"]
    refused(ck.parent, *export, ck, words="contains the source")
    refused(ck.parent, *export, ck / "inside", words="inside the source")
    shutil.copyfile(ck / "config.json", ck.parent / "config.json")  # looks like a checkpoint
    refused(ck.parent, *export, ck.parent, words="contains the source")


def test_quantize_refuses_its_inputs_as_output(demo_gguf: Path, tmp_path: Path) -> None:
    model, matrix = tmp_path / "m.gguf", tmp_path / "matrix.gguf"
    shutil.copyfile(demo_gguf, model)
    gather(model, matrix, TEXT, GatherOptions("x", 1, chunk_size=32))
    start: list[str | Path] = ["quantize", model, "Q4_0", "--imatrix", matrix, "--force", "-o"]
    refused(tmp_path, *start, model, words="same file")
    refused(tmp_path, *start, matrix, words="same file")


def test_imatrix_refuses_its_inputs_as_output(demo_gguf: Path, tmp_path: Path) -> None:
    model, text = tmp_path / "m.gguf", tmp_path / "text.txt"
    shutil.copyfile(demo_gguf, model)
    text.write_text(TEXT)
    for output in (model, text):
        arguments: list[str | Path] = ["imatrix", model, "--text", text, "-o", output, "--force"]
        refused(tmp_path, *arguments, words="same file")


def test_verify_refuses_its_inputs_as_report(demo_gguf: Path, ck: Path) -> None:
    model = ck.parent / "m.gguf"
    shutil.copyfile(demo_gguf, model)
    prompts = ck.parent / "prompts.txt"
    prompts.write_text("def f():")
    start: list[str | Path] = ["verify", model, "--against", ck, "--prompts", prompts, "--report"]
    for report, words in (
        (model, "same file"), (prompts, "same file"), (ck / "config.json", "inside the source"),
    ):  # fmt: skip
        refused(ck.parent, *start, report, words=words)


def replaced(path: Path) -> None:
    """Put another file of the same size in the place of a file."""
    other = path.with_name("other")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    other.write_bytes(data)
    other.replace(path)


def rewritten(path: Path) -> None:
    """Change a byte in place and restore the time of the change."""
    stat = path.stat()
    with path.open("r+b") as f:
        f.seek(-5, os.SEEK_END)
        byte = f.read(1)
        f.seek(-5, os.SEEK_END)
        f.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def removed(path: Path) -> None:
    path.unlink()


CHANGES = [replaced, rewritten, removed]


def when_called(work: Callable[[], None]) -> Progress:
    """Return a progress callback that does `work` at its first call."""
    calls = 0

    def progress(done: int, total: int, what: str = "", /) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            work()

    return progress


def fails_because_it_changed(
    output: Path, run: Callable[[], Any], kind: type[TurboPilotError] = InvalidInput
) -> None:
    before = sorted(output.parent.iterdir())
    with pytest.raises(kind, match=r"changed while it was read|cannot be read|ended"):
        run()
    assert sorted(output.parent.iterdir()) == before, "an output was left"


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model-00001-of-*"])
def test_convert_notices_a_changed_source(
    ck: Path, tmp_path: Path, change: Callable[[Path], None], name: str
) -> None:
    changing = when_called(lambda: change(next(ck.glob(name))))
    output = tmp_path / "out" / "x.gguf"
    output.parent.mkdir()
    fails_because_it_changed(
        output, lambda: convert(ck, output, dtype="q8_0", progress=changing), TurboPilotError
    )


def test_failed_conversion_keeps_the_old_output(ck: Path, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"old")
    changing = when_called(lambda: rewritten(ck / "config.json"))
    with pytest.raises(InvalidInput, match="changed while it was read"):
        convert(ck, tmp_path / "x.gguf", ConversionOptions(force=True), progress=changing)
    assert (tmp_path / "x.gguf").read_bytes() == b"old"


@pytest.mark.parametrize("change", CHANGES)
def test_import_notices_a_changed_source(
    old: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    output = tmp_path / "out" / "x.gguf"
    output.parent.mkdir()
    changing = when_called(lambda: change(old))
    fails_because_it_changed(
        output, lambda: convert(old, output, progress=changing), TurboPilotError
    )


@pytest.mark.parametrize("change", CHANGES)
def test_export_notices_a_changed_source(
    ck: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    changing = when_called(lambda: change(next(ck.glob("model-00001-of-*"))))
    output = tmp_path / "out" / "gptj"
    output.parent.mkdir()
    fails_because_it_changed(
        output, lambda: export_gptj(ck, output, progress=changing), TurboPilotError
    )


@pytest.mark.parametrize("change", CHANGES)
def test_quantize_notices_a_changed_source(
    demo_gguf: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    model, output = tmp_path / "m.gguf", tmp_path / "out" / "q.gguf"
    shutil.copyfile(demo_gguf, model)
    output.parent.mkdir()
    changing = when_called(lambda: change(model))
    fails_because_it_changed(
        output, lambda: quantize(model, output, "Q8_0", progress=changing), TurboPilotError
    )


def test_quantize_notices_a_changed_part_or_matrix(ck: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "q.gguf"
    parts = files_of(
        convert(ck, tmp_path / "m.gguf", ConversionOptions(split_max_size=2_000_000)).path
    )
    matrix = tmp_path / "matrix.gguf"
    gather(parts[0], matrix, TEXT, GatherOptions("x", 1, chunk_size=32))
    options = QuantizeOptions(imatrix=matrix)
    for path in (parts[1], matrix):
        changing = when_called(lambda path=path: os.utime(path))  # type: ignore[misc]
        fails_because_it_changed(
            output,
            lambda p=changing: quantize(parts[0], output, "Q4_0", options, progress=p),  # type: ignore[misc]
        )


def test_imatrix_notices_a_changed_model(demo_gguf: Path, tmp_path: Path) -> None:
    model, output = tmp_path / "m.gguf", tmp_path / "out" / "x.gguf"
    shutil.copyfile(demo_gguf, model)
    output.parent.mkdir()
    changing = when_called(lambda: os.utime(model))
    with pytest.raises(InvalidInput, match="changed while it was read"):
        gather(model, output, TEXT, GatherOptions("x", 2, chunk_size=32), progress=changing)
    assert not output.exists()
