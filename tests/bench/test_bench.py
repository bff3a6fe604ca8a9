"""turbopilot.bench with the bundled model: memory, speed, divergence and errors."""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from quantize import quantize
from turbopilot.base.errors import CorruptModel, InvalidInput, NotEnoughDisk
from turbopilot.base.kl_divergence import Floats, log_softmax
from turbopilot.bench import (
    Cell,
    Reference,
    Setup,
    SpeedTask,
    divergence,
    keep_reference,
    measure,
    measure_in_turn,
)
from turbopilot.bench import measurement as bench_run
from turbopilot.bench.windows import Windows
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.verify.texts import code_samples

TEXT = "\n".join(code_samples().values())
# Several threads would spin while they wait for each other on a busy machine.
ALONE = Setup(n_threads=1)
WINDOW, POSITIONS = 64, 300


@pytest.fixture(scope="module")
def reference(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    store = tmp_path_factory.mktemp("bench") / "demo.logits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_run, "WINDOW", WINDOW)
        return keep_reference(demo_gguf, TEXT, store, ALONE, positions=POSITIONS)


@pytest.fixture(scope="module")
def demo_q8_0(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "demo-q8_0.gguf"
    quantize(demo_gguf, path, "Q8_0")
    return path


def test_measure_reports_speed_and_memory(demo_q4_0: Path) -> None:
    steps: list[tuple[int, int]] = []
    found = measure(
        demo_q4_0,
        Setup(n_threads=1, n_ctx=256),
        speed=SpeedTask(n_prompt=48, n_gen=5, repeats=2),
        progress=lambda done, total, what="", /: steps.append((done, total)),
    )
    assert found.prompt is not None
    assert found.generation is not None
    assert (found.prompt.tokens, found.generation.tokens) == (48, 5)
    assert [len(r.samples) for r in (found.prompt, found.generation)] == [2, 2]
    assert min(found.prompt.samples + found.generation.samples) > 0
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]

    header = read_gguf(demo_q4_0)
    assert (found.n_bytes, found.type_name) == (header.file_size, "Q4_0")
    memory = found.memory
    assert memory is not None
    assert 0 < memory.base < memory.now <= memory.peak
    assert found.n_bytes < memory.peak - memory.base < found.n_bytes + 200e6
    assert memory.buffers.model >= header.tensor_bytes * 0.9


@pytest.mark.parametrize(("cache_type", "bits"), [("F16", 16), ("Q8_0", 8.5)])
def test_kv_cache_size_matches_its_formula(demo_q4_0: Path, cache_type: str, bits: float) -> None:
    found = measure(demo_q4_0, Setup(n_threads=1, n_ctx=512, n_batch=32, cache_type=cache_type))
    m = read_gguf(demo_q4_0).metadata
    layers, width = m["phi2.block_count"], m["phi2.embedding_length"]
    assert isinstance(layers, int)
    assert isinstance(width, int)
    assert found.memory is not None
    # llama.cpp logs hundredths of a MiB.
    assert found.memory.buffers.kv == pytest.approx(2 * 512 * layers * width * bits / 8, abs=6000)
    assert (found.prompt, found.generation) == (None, None)


def test_fewer_outputs_reserve_less_compute_memory(demo_q4_0: Path) -> None:
    few, all_of_them = (
        measure(demo_q4_0, Setup(n_threads=1, n_ctx=512, n_outputs=n)).memory for n in (1, 0)
    )
    assert few is not None
    assert all_of_them is not None
    assert few.buffers.compute < all_of_them.buffers.compute


def test_context_is_limited_to_the_trained_context(demo_q4_0: Path) -> None:
    assert measure(demo_q4_0, Setup(n_ctx=1 << 20, n_batch=8, n_threads=1)).n_ctx == 1024
    with pytest.raises(InvalidInput, match=r"1024 prompt tokens and 1 generated"):
        measure(demo_q4_0, ALONE, speed=SpeedTask(n_prompt=1024, n_gen=1))


def test_files_are_measured_in_turn(
    demo_gguf: Path, demo_q4_0: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []
    real = bench_run.measure

    def noted(path: Path, *rest: object, memory: bool, **more: object) -> object:
        asked.append((path.name, memory))
        return real(path, *rest, memory=memory, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(bench_run, "measure", noted)
    cells = [Cell(demo_gguf, ALONE), Cell(demo_q4_0, ALONE)]
    found = measure_in_turn(cells, speed=SpeedTask(8, 2, repeats=2))
    assert asked == [
        ("demo-f16.gguf", True), ("demo-q4_0.gguf", True), ("demo-f16.gguf", False), ("demo-q4_0.gguf", False),
    ]  # fmt: skip
    assert [m.path for m in found] == [demo_gguf, demo_q4_0]
    assert [len(m.generation.samples) for m in found if m.generation] == [2, 2]
    assert all(m.memory for m in found)


def test_divergence_of_a_file_from_itself_is_zero(demo_gguf: Path, reference: Reference) -> None:
    found = divergence(demo_gguf, reference, ALONE)
    assert found.positions == reference.windows.positions == POSITIONS // 31 * 31
    assert found.max_kl < 1e-9
    assert found.top1 == 1.0
    assert found.perplexity_ratio.value == pytest.approx(1.0, abs=1e-6)


def direct_logits(path: Path, windows: Windows) -> Floats:
    """Return logits (P, V) from llama-cpp-python's `Llama`, which computes all positions of a window at once."""
    model = llama_cpp.Llama(
        str(path), n_ctx=WINDOW, n_batch=WINDOW, n_threads=1, n_threads_batch=1, logits_all=True,
        flash_attn=True, verbose=False,
    )  # fmt: skip
    rows = []
    for ids in windows.ids:
        model.reset()
        model.eval(list(ids))
        rows.append(np.array(model.scores[windows.measured], np.float64))
    model.close()
    return np.concatenate(rows)


def test_divergence_matches_a_direct_computation(
    demo_gguf: Path, demo_q8_0: Path, demo_q4_0: Path, reference: Reference
) -> None:
    windows = reference.windows
    following = np.asarray([ids[i + 1] for ids in windows.ids for i in windows.measured])
    log_p = log_softmax(direct_logits(demo_gguf, windows))
    means = []
    for path in (demo_q8_0, demo_q4_0):
        log_q = log_softmax(direct_logits(path, windows))
        kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
        at = np.arange(len(following)), following
        found = divergence(path, reference, ALONE)
        # The loss of Q8_0 is so small that the rounding of other batch shapes matters, on some processors by 5 %.
        assert found.mean_kl == pytest.approx(kl.mean(), rel=0.1)
        assert found.p99_kl == pytest.approx(np.quantile(kl, 0.99), rel=0.15)
        assert found.top1 == pytest.approx(
            (log_p.argmax(axis=1) == log_q.argmax(axis=1)).mean(), abs=0.015
        )
        assert found.reference_perplexity.value == pytest.approx(
            np.exp(-log_p[at].mean()), rel=0.01
        )
        assert found.perplexity.value == pytest.approx(np.exp(-log_q[at].mean()), rel=0.01)
        means.append(found.mean_kl)
    assert means[1] > 10 * means[0] > 0


def test_reference_with_another_vocabulary_is_rejected(demo_q4_0: Path, tmp_path: Path) -> None:
    store = tmp_path / "other.logits"
    other = Reference(store, "other.gguf", 10, Windows([[1, 2, 3, 4]]))
    with pytest.raises(InvalidInput, match=r"4,\d+ tokens, that of other\.gguf has 10"):
        divergence(demo_q4_0, other, ALONE)


def test_interrupted_run_leaves_no_reference_file(demo_gguf: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int, what: str = "", /) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep_reference(demo_gguf, TEXT, tmp_path / "x.logits", ALONE, progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_too_short_text_is_rejected(demo_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="too few to measure"):
        keep_reference(demo_gguf, "x", tmp_path / "x.logits", ALONE)
    assert not list(tmp_path.iterdir())


def test_reference_larger_than_the_disk_is_rejected(demo_gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(NotEnoughDisk) as caught:
        keep_reference(demo_gguf, TEXT, tmp_path / "x.logits", ALONE, positions=10**13)
    assert "fewer positions" in caught.value.hint


def test_missing_and_damaged_files_are_rejected(
    demo_gguf: Path, reference: Reference, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="no such file"):
        measure(tmp_path / "absent.gguf", ALONE)
    data = demo_gguf.read_bytes()
    path = tmp_path / "bad.gguf"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptModel, match=r"bad\.gguf"):
        measure(path, ALONE)
    path.write_bytes(data.replace(b"output_norm.weight", b"output_mist.weight"))
    with pytest.raises(CorruptModel, match=r"bad\.gguf: llama\.cpp cannot load it: .*output_norm"):
        measure(path, ALONE)


def test_nan_logits_are_rejected(demo_gguf: Path, reference: Reference, tmp_path: Path) -> None:
    norm = next(t for t in read_gguf(demo_gguf).tensors if t.name == "output_norm.weight")
    data = bytearray(demo_gguf.read_bytes())
    data[norm.offset : norm.offset + 4] = np.float32(np.nan).tobytes()
    path = tmp_path / "nan.gguf"
    path.write_bytes(data)
    with pytest.raises(CorruptModel, match=r"nan\.gguf: its logits are not finite"):
        divergence(path, reference, ALONE)
    with pytest.raises(CorruptModel, match=r"nan\.gguf: its logits are not finite"):
        keep_reference(path, TEXT, tmp_path / "x.logits", ALONE)
    assert list(tmp_path.iterdir()) == [path]
