"""The bundled model in llama.cpp: the decoder, files that it must reject, and the `serve` command."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.decoder import BatchItem
from serve.device_options import DeviceOptions
from serve.engine import Engine
from serve.http import server
from serve.llama import load
from serve.llama.decoder import LlamaDecoder
from serve.request import Finished, GenerationRequest, SamplingParams, TextDelta
from serve.settings import ModelOptions, ServerOptions
from tests.support.serving import ROOT, ask, run_serve, serve_process, wait_until_ready
from turbopilot.base.errors import CorruptModel, InvalidInput
from turbopilot.llama.log import LlamaLog

CODE = (
    "def add(a, b):\n    return a + b\n\n\nclass Point:\n\tx = '→ naïve 🙂'\n" + " " * 40 + "pass\n"
)


@pytest.fixture(scope="module")
def decoder(demo_gguf: Path) -> Iterator[LlamaDecoder]:
    decoder, _ = load(demo_gguf, ModelOptions(threads=2, ctx=512, n_batch=64, n_seq=2))
    yield decoder
    decoder.close()


def generate(engine: Engine, prompt: tuple[int, ...], n: int) -> tuple[str, Finished]:
    text, events = (
        "",
        engine.submit(0, GenerationRequest(prompt, n, sampling=SamplingParams(temperature=0))),
    )
    while engine.has_work:
        events += engine.step()
    for _, event in events:
        if isinstance(event, TextDelta):
            text += event.text
        elif isinstance(event, Finished):
            end = event
    return text, end


def test_joined_pieces_equal_the_text(decoder: LlamaDecoder) -> None:
    tokens = decoder.tokenize(CODE, parse_special=False)
    assert b"".join(map(decoder.piece, tokens)).decode() == CODE


def test_special_tokens_are_parsed_on_request_and_have_no_text(decoder: LlamaDecoder) -> None:
    assert decoder.fim
    name = "<fim_prefix>"
    prefix, suffix, middle = decoder.fim.chosen.frame
    assert decoder.tokenize(name, parse_special=True) == [prefix]
    assert prefix not in decoder.tokenize(name, parse_special=False)
    for token in (prefix, suffix, middle, decoder.start_token):
        assert decoder.piece(token) == b""
        assert decoder.is_eog(token)


def test_reused_prefix_gives_the_same_logits(decoder: LlamaDecoder) -> None:
    tokens = decoder.tokenize(CODE, parse_special=False)[:40]
    batch = [BatchItem(t, i, 0, i == len(tokens) - 1) for i, t in enumerate(tokens)]
    (fresh,) = decoder.decode(batch)
    assert decoder.remove(0, 25)
    (again,) = decoder.decode(batch[25:])
    assert decoder.remove(0, 0)
    # Batches of other sizes use other kernels, so the last bits may differ.
    assert np.abs(fresh - again).max() < 0.05
    assert fresh.argmax() == again.argmax()


def test_logits_have_the_order_of_the_batch(decoder: LlamaDecoder) -> None:
    a, b = (
        decoder.tokenize("import os", parse_special=False),
        decoder.tokenize("class", parse_special=False),
    )
    rows = decoder.decode(
        [BatchItem(t, i, 0, i == len(a) - 1) for i, t in enumerate(a)]
        + [BatchItem(t, i, 1, i == len(b) - 1) for i, t in enumerate(b)]
    )
    rows = rows.copy()  # they are in llama.cpp's memory
    assert rows.shape == (2, decoder.n_vocab)
    decoder.remove(0, 0)
    decoder.remove(1, 0)
    alone = decoder.decode([BatchItem(t, i, 1, i == len(b) - 1) for i, t in enumerate(b)])
    decoder.remove(1, 0)
    assert np.abs(rows[1] - alone[0]).max() < 0.05
    assert np.abs(rows[0] - alone[0]).max() > 0.05


def test_engine_generates_the_same_text_with_and_without_a_cache(decoder: LlamaDecoder) -> None:
    prompt = tuple(decoder.tokenize(CODE * 3 + "def ", parse_special=False))
    assert len(prompt) > decoder.n_batch  # so that it is prefilled in pieces
    engine = Engine(decoder)
    first, _ = generate(engine, prompt, 24)
    second, end = generate(engine, prompt, 24)  # from the answer cache
    assert first == second
    assert end.usage.cached_tokens == len(prompt)
    longer, end = generate(engine, prompt, 25)  # the last token is computed
    assert longer.startswith(first)
    assert end.usage.cached_tokens == len(prompt)
    decoder.remove(0, 0)


def test_load_report_shows_the_actual_setup(demo_gguf: Path) -> None:
    decoder, report = load(
        demo_gguf, ModelOptions(threads=1, devices=DeviceOptions(n_gpu_layers=3))
    )
    decoder.close()
    assert report.n_threads == 1
    if not report.devices:
        assert report.n_offloaded == 0  # regardless of n_gpu_layers
    assert any(line.startswith("GPU") for line in report.lines())


def test_too_many_rows_of_logits_never_reach_llama_cpp(decoder: LlamaDecoder) -> None:
    batch = [BatchItem(decoder.start_token, i, 0, want_logits=True) for i in range(19)]
    with pytest.raises(ValueError, match="19 rows of logits exceed the limit of 18"):
        decoder.decode(batch)


def test_offloaded_layers_are_parsed_from_the_log() -> None:
    log = LlamaLog()
    for level, text in (
        (2, "load_tensors: offloading 12 "), (5, "repeating layers to GPU\n"),
        (2, "load_tensors: offloaded 13/21 layers to GPU\n"),
        (4, "first\n"), (3, "a warning\n"), (4, "la"), (5, "st\n"),
    ):  # fmt: skip
        log.write(level, text)
    assert log.offloaded == (13, 21)
    assert log.errors() == "first; last"
    for i in range(1000):  # one line for each layer of a large model
        log.write(1, f"layer {i}\n")
    assert log.offloaded == (13, 21)
    log.clear()
    assert log.offloaded is None


def test_kv_cache_sizes_in_the_log_are_added_up() -> None:
    log = LlamaLog()
    for layers in (5, 25):  # with and without a sliding window
        sizes = f"size = {layers * 2:7.2f} MiB (  2048 cells, {layers:3d} layers,  1/1 seqs)"
        log.write(2, f"llama_kv_cache: {sizes}, K (q8_0): {layers:7.2f} MiB, V (q8_0): ")
        log.write(5, f"{layers:7.2f} MiB\n")
    assert log.buffers().kv == 60 << 20
    log.clear()
    assert log.buffers().kv == 0


def hostile(data: bytes) -> dict[str, bytes]:
    key = b"phi2.attention.head_count"
    at = data.index(key) + len(key)
    layers = data.index(b"phi2.block_count") + len(b"phi2.block_count")
    rotary = data.index(b"phi2.rope.dimension_count") + len(b"phi2.rope.dimension_count")
    return {
        "empty": b"",
        "not a gguf": b"#!/bin/sh\n" * 100,
        "header cut off": data[:1000],
        "data cut off": data[: len(data) // 2],
        "no heads": data[: at + 4] + bytes(4) + data[at + 8 :],
        "too many layers": data[: layers + 4] + bytes([0, 128, 0, 0]) + data[layers + 8 :],
        "odd rotary": data[: rotary + 4] + bytes([33, 0, 0, 0]) + data[rotary + 8 :],
        "huge rotary": data[: rotary + 4] + bytes([0, 0, 0, 1]) + data[rotary + 8 :],
        "unknown architecture": data.replace(b"phi2", b"phiX"),
        "a tensor renamed": data.replace(b"output_norm.weight", b"output_nurm.weight"),
        "an unknown tokenizer": data.replace(b"\x04\0\0\0\0\0\0\0gpt2", b"\x04\0\0\0\0\0\0\0gptX"),
        "no tokens": data.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz"),
    }


@pytest.mark.parametrize(
    "fault",
    ["empty", "not a gguf", "header cut off", "data cut off", "no heads", "too many layers",
     "odd rotary", "huge rotary", "unknown architecture", "a tensor renamed", "an unknown tokenizer", "no tokens"],
)  # fmt: skip
def test_bad_file_raises_corrupt_model_with_its_name(
    demo_gguf: Path, tmp_path: Path, fault: str
) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(hostile(demo_gguf.read_bytes())[fault])
    with pytest.raises(CorruptModel, match=r"bad\.gguf"):
        load(path, ModelOptions(threads=1))


def test_load_error_contains_llama_cpps_reason(demo_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(hostile(demo_gguf.read_bytes())["unknown architecture"])
    with pytest.raises(CorruptModel, match="phiX"):
        load(path, ModelOptions(threads=1))


def test_too_small_context_is_rejected(demo_gguf: Path) -> None:
    with pytest.raises(InvalidInput, match="--ctx 3"):
        load(demo_gguf, ModelOptions(ctx=3))


def complete(port: int, prompt: str, **more: str) -> Any:
    body = {"prompt": prompt, "max_tokens": 8, **more}
    return json.loads(ask(port, "POST", "/v1/completions", body)[2])


def test_serve_command_runs_until_interrupted(demo_gguf: Path) -> None:
    environ = {**os.environ, "THREADS": "2", "MODEL": str(demo_gguf), "PYTHONUNBUFFERED": "1"}
    with serve_process("-m", "codegen", "--temperature", "0", env=environ) as process:
        said, port = wait_until_ready(process)
        assert "(CodeGen, 5.3 million weights, F16" in said, "not phi2"
        assert "FIM      spm: <fim_prefix><fim_suffix>…<fim_middle>…\n" in said
        assert "layers offloaded" in said
        assert "2 threads" in said
        first, again = (complete(port, "def add(a, b):\n    return") for _ in range(2))
        assert first["choices"] == again["choices"]
        assert first["usage"]["completion_tokens"] >= 1
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        framed = complete(port, "def add(a, b):\n    ", suffix="\n\nx = 1")
        assert framed["usage"]["prompt_tokens"] > 3
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=100)
        assert process.returncode == 0, err
        assert err.rstrip().endswith("stopped")
        assert "Traceback" not in err
        assert out == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_server_continues_and_stops_if_the_reader_of_its_log_ends(
    demo_gguf: Path, number: signal.Signals
) -> None:
    with serve_process(str(demo_gguf)) as process:
        _, port = wait_until_ready(process)
        assert process.stderr
        process.stderr.close()
        answers = [complete(port, "def add(a, b):\n    return") for _ in range(2)]
        assert all(a["usage"]["completion_tokens"] >= 1 for a in answers)
        process.send_signal(number)
        assert process.wait(100) == 0


def test_status_line_that_cannot_be_written_does_not_end_the_server(
    demo_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []

    def notify(line: str) -> None:
        lines.append(line)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(server, "run", lambda models, listener, options, tell, _: tell("ready"))
    server.serve(ServerOptions(demo_gguf, port=0), notify)
    assert lines == ["ready", "stopped"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["such/file.gguf"], 2, "no such file"),
        (["no/such/file.gguf"], 3, "no such local file; looking for it on the Hub"),
        (["README.md"], 2, "not a GGUF file"), (["-m", "stablecod"], 2, "did you mean stablecode"),
        (["--ngl", "some"], 2, "--ngl some"), (["--cache-type", "q8"], 2, "did you mean q8_0"),
        (["a.gguf", "-f", "b.gguf"], 2, "two models"),
    ],
)  # fmt: skip
def test_bad_arguments_give_an_error_and_a_hint(
    tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    (tmp_path / "README.md").write_text("# not a model\n")
    done = run_serve(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr


def test_port_in_use_exits_with_code_8(demo_gguf: Path) -> None:
    from serve.http.server import bind

    with bind("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        done = run_serve(str(demo_gguf), "-p", port, cwd=ROOT)
    assert done.returncode == 8
    assert port in done.stderr
    assert "-p" in done.stderr
    assert "loading" not in done.stderr  # reported before the model is loaded
