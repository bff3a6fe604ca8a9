"""Measurement of the faster kind of attention, its cache, and the switch while the server is idle."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from serve.device_options import DeviceOptions
from serve.engine import Engine, EngineOptions
from serve.engine.requests import Emitted
from serve.llama import load
from serve.llama.facts import cache_type_advice, plain_attention_fits, plan
from serve.llama.tuning import Speed, Tuning, TuningCache, measure
from serve.request import Finished
from serve.settings import ModelOptions
from tests.serve.test_runner import request, running
from tests.support.fakes import FakeDecoder, script
from turbopilot.base.errors import DecoderFailed
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.llama.context import ContextParameters
from turbopilot.llama.flash_attention import AUTO, OFF, ON
from turbopilot.llama.model import LlamaModel, ModelParameters
from turbopilot.llama.placement import Placement
from turbopilot.llama.placement_wish import DeviceMemory, Machine

ROOT = Path(__file__).parents[2]
FLASH, PLAIN = Tuning(Speed(1, 1, 1), Speed(2, 2, 2)), Tuning(Speed(2, 2, 2), Speed(1, 1, 1))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TURBOPILOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tuning"


@pytest.fixture
def model(demo_gguf: Path) -> LlamaModel:
    return LlamaModel(read_gguf(demo_gguf), ModelParameters())


def test_faster_kind_is_chosen() -> None:
    assert FLASH.flash_attention == ON
    assert PLAIN.flash_attention == OFF
    assert Tuning(Speed(1, 1, 1), Speed(0.99, 0.99, 0.99)).flash_attention == ON, "within the error"


def test_both_kinds_are_measured_in_pieces(model: LlamaModel) -> None:
    *pieces, found = measure(model, ContextParameters(n_ctx=1024, n_seq=4))
    assert len(pieces) >= 8
    assert set(pieces) == {None}
    assert found is not None
    for speed in (found.flash, found.plain):
        assert min(speed.prompt, speed.decode, speed.together) > 0
    assert found.name in found.line()


def test_result_is_stored_for_the_same_file_and_options(model: LlamaModel, cache: Path) -> None:
    parameters = ContextParameters(n_ctx=1024)
    assert TuningCache(model, parameters).read() is None
    TuningCache(model, parameters).write(PLAIN)
    assert TuningCache(model, ContextParameters(n_ctx=512)).read() == PLAIN
    assert TuningCache(model, ContextParameters(n_ctx=1024, n_threads=7)).read() is None
    (file,) = cache.iterdir()
    for damaged in (
        "",
        "{}",
        '{"flash": 3, "plain": {}}',
        '{"flash": {"prompt": -1, "decode": 1}, "plain": {}}',
    ):
        file.write_text(damaged)
        assert TuningCache(model, parameters).read() is None


def test_result_that_cannot_be_stored_is_not_an_error(model: LlamaModel, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file")
    TuningCache(model, ContextParameters(n_ctx=64)).write(PLAIN)
    assert cache.read_text() == "a file"


def test_stored_result_decides_the_next_start(demo_gguf: Path) -> None:
    options = ModelOptions(ctx=512)
    decoder, report = load(demo_gguf, options)
    assert report.tuning is None
    assert decoder._parameters.flash_attention == AUTO
    assert not any(list(decoder.tune())[:-1])
    measured = decoder.tuning
    decoder.close()
    again, report = load(demo_gguf, options)
    assert measured is not None
    assert report.tuning == measured
    assert again._parameters.flash_attention == measured.flash_attention
    assert not again.can_tune
    assert any(line.startswith("tuned") for line in report.lines())
    again.close()


@pytest.mark.parametrize(
    "options", [{"tunes": False}, {"flash_attention": True}, {"flash_attention": False}, {"cache_type": "q8_0"}]
)  # fmt: skip
def test_nothing_is_measured_if_only_one_kind_can_be_used(
    demo_gguf: Path, options: dict[str, bool]
) -> None:
    decoder, _ = load(demo_gguf, ModelOptions(ctx=256, **options))  # type: ignore[arg-type]
    assert not decoder.can_tune
    decoder.close()


def engine_with(tunings: Sequence[bool]) -> tuple[Engine, FakeDecoder]:
    decoder = FakeDecoder(script("yes"), tunings=tunings)
    return Engine(decoder, EngineOptions(prefix_cache_bytes=10**6)), decoder


def run(engine: Engine) -> list[Emitted]:
    events: list[Emitted] = []
    while engine.has_work:
        events += engine.step()
        engine.check_integrity()
    return events


def tunes_now(engine: Engine) -> bool:
    return engine.can_tune


@pytest.mark.parametrize(("tunings", "n_rebuilt"), [([False, True], 1), ([False, False], 0)])
def test_engine_tunes_only_after_a_request_and_while_idle(
    tunings: list[bool], n_rebuilt: int
) -> None:
    engine, decoder = engine_with(tunings)
    assert not tunes_now(engine)
    engine.submit(1, request("a?", 5))
    assert not tunes_now(engine)
    run(engine)
    n_pieces = 0
    while tunes_now(engine):
        engine.tuner.work()
        n_pieces += 1
    assert n_pieces == len(tunings) + 1
    assert decoder.n_rebuilt == n_rebuilt
    events = engine.submit(2, request("a?", 5))
    events += run(engine)
    assert isinstance(events[-1][1], Finished)


def test_failed_measurement_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: int) -> bool:
        raise DecoderFailed("boom")

    engine, _ = engine_with([False])
    engine.tuner._pieces = map(fail, [1])
    engine.submit(1, request("a?", 5))
    run(engine)
    engine.tuner.work()
    assert not tunes_now(engine)
    assert caplog.text.count("could not be measured: boom") == 1


def test_idle_runner_tunes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.runner.runner.QUIET", 0.01)
    decoder = FakeDecoder(script("yes"), tunings=[False, False, True])
    with running(decoder) as runner:
        runner.ask([request("a?", 5)])
        for _ in range(1000):
            if decoder.n_rebuilt:
                break
            runner._thread.join(0.05)
        assert decoder.n_rebuilt == 1
        assert runner.failure is None


def test_bench_tune_shows_and_stores_the_result(demo_gguf: Path, cache: Path) -> None:
    command = [sys.executable, "-m", "turbopilot", "bench", "--tune", str(demo_gguf), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["files"]
    assert found["chosen"] in ("flash", "plain")
    assert len(list(cache.iterdir())) == 1


def test_result_holds_only_for_the_same_layers_on_the_same_devices(
    model: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = ContextParameters(n_ctx=64)
    TuningCache(model, parameters).write(PLAIN)
    for placed in (
        (("CUDA0 (RTX)", 5),),
        (("CUDA0 (RTX)", 4),),
        (("Vulkan0 (RTX)", 5),),
        (("CUDA0 (RTX)", 2), ("CUDA1 (RTX)", 3)),
    ):
        monkeypatch.setattr(model, "placed", placed)
        assert TuningCache(model, parameters).read() is None, placed
        TuningCache(model, parameters).write(FLASH)
        assert TuningCache(model, parameters).read() == FLASH
    monkeypatch.setattr(model, "placed", ())
    assert TuningCache(model, parameters).read() == PLAIN


def test_result_holds_only_for_the_same_build_of_llama_cpp(
    model: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = ContextParameters(n_ctx=64)
    TuningCache(model, parameters).write(PLAIN)
    monkeypatch.setattr("serve.llama.tuning.build", lambda: "0.3.36 CUDA : ARCHS = 900")
    assert TuningCache(model, parameters).read() is None


GB = 10**9


def on_gpu(header: GgufHeader, free: float, options: ModelOptions) -> tuple[Placement, Machine]:
    machine = Machine((DeviceMemory("CUDA0", int(free)),), 64 * GB)
    return plan(header, options, machine), machine


def test_plain_attention_is_possible_on_a_device_only_if_its_scores_fit(demo_gguf: Path) -> None:
    header, options = read_gguf(demo_gguf), ModelOptions(ctx=1024, n_seq=1)
    wish = options.devices.wish
    placement, machine = on_gpu(header, GB, options)
    assert placement.n_gpu_layers == 5
    assert plain_attention_fits(header, placement, machine, wish)
    (share,) = placement.shares
    just_enough = Machine((DeviceMemory("CUDA0", share.total + wish.margin),), 64 * GB)
    assert plan(header, options, just_enough).n_gpu_layers == 5
    assert not plain_attention_fits(header, placement, just_enough, wish)


def test_smaller_cache_is_recommended_only_if_more_layers_would_fit(demo_gguf: Path) -> None:
    header = read_gguf(demo_gguf)

    def advice(free: float, **more: Any) -> str:
        options = ModelOptions(ctx=1024, n_seq=1, **more)
        placement, machine = on_gpu(header, free, options)
        assert placement.need.cache_type == more.get("cache_type", "f16"), "never changed silently"
        return cache_type_advice(header, placement, machine, options)

    (all_there,) = on_gpu(header, GB, ModelOptions(ctx=1024, n_seq=1))[0].shares
    short = 512 * 2**20 + all_there.total - 10**6
    assert advice(short).startswith("--cache-type q8_0 would put ")
    assert advice(8 * GB) == "", "all layers are there"
    assert advice(short, cache_type="q8_0") == ""
    assert advice(short, flash_attention=False) == "", "a quantized cache needs flash attention"
    assert advice(short, devices=DeviceOptions(2)) == "", "the number of layers was given"
