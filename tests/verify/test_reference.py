"""Tests of `TorchReference`: in memory or streamed from disk, cached, interrupted, in shards, as pickles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.support.tiny import FAMILY, tiny_checkpoint
from tests.support.verify_lab import logits_of
from turbopilot.base.errors import CorruptCheckpoint, InvalidInput
from turbopilot.base.file_digest import file_digests
from turbopilot.base.progress import silent
from turbopilot.verify import reference_cache
from turbopilot.verify.comparison import sensitivity
from turbopilot.verify.source import Change, Window
from turbopilot.verify.torch_model import TorchDevice, TorchModel
from turbopilot.verify.torch_reference import TorchReference

IDS = tuple(range(1, 90))
WINDOWS = [
    Window("code", "a", IDS, range(len(IDS))),
    Window("code", "b", IDS[:40], range(3, 40, 2)),
    Window("context", "c", tuple(i % 300 for i in range(300)), range(299)),
]


@pytest.fixture(scope="module")
def codegen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("codegen", tmp_path_factory.mktemp("codegen") / "checkpoint")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILY)
def test_streamed_model_returns_equal_logits(family: str, tied: bool, tmp_path: Path) -> None:
    folder = tiny_checkpoint(family, tmp_path / family, tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        plain = model(input_ids=torch.tensor([IDS])).logits[0].numpy()
    whole = TorchReference(folder, streamed=False)
    streamed = TorchReference(folder, streamed=True)
    np.testing.assert_allclose(logits_of(whole, IDS), plain, atol=2e-4)
    streamed.prepare(WINDOWS)  # as one padded group
    for window in WINDOWS:
        ours, theirs = (np.concatenate(list(r.logits(window))) for r in (streamed, whole))
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
        assert len(ours) == len(window.measured)


def test_noise_is_the_same_if_streamed(codegen: Path) -> None:
    change = Change(noise=1e-2)
    found = []
    for streamed in (False, True):
        reference = TorchReference(codegen, streamed=streamed)
        noisy = reference.changed(change)
        assert noisy is not None
        found.append(logits_of(noisy, IDS))
        assert np.abs(found[-1] - logits_of(reference, IDS)).max() > 0.1
    np.testing.assert_allclose(found[0], found[1], atol=2e-4)


def test_sensitivity_frees_one_model_before_running_the_other(
    codegen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = TorchReference(codegen, streamed=False)
    opened: list[Change] = []
    init = TorchModel.__init__

    def counted(self: TorchModel, *args: Any, **options: Any) -> None:
        opened.append(args[3])
        init(self, *args, **options)

    monkeypatch.setattr(TorchModel, "__init__", counted)
    change = Change(noise=1e-2)
    found = sensitivity(reference, change, WINDOWS, silent)
    assert found is not None
    assert 0 < found.nmse < 1
    # Finally, the head of the model that ran first is loaded again.
    assert opened == [change, change, Change()]


def test_tanh_gelu_changes_only_models_with_exact_gelu(codegen: Path, tmp_path: Path) -> None:
    assert TorchReference(codegen).changed(Change(tanh_gelu=True)) is None
    exact = TorchReference(tiny_checkpoint("gptneox", tmp_path / "neox", hidden_act="gelu"))
    changed = exact.changed(Change(tanh_gelu=True))
    assert changed is not None
    delta = np.abs(logits_of(changed, IDS) - logits_of(exact, IDS)).max()
    assert 0 < delta < 0.1


def test_streamed_model_drops_parameters_after_use(codegen: Path) -> None:
    config = json.loads((codegen / "config.json").read_text())
    model = TorchModel(codegen, config, TorchDevice(), Change(), streamed=True)
    heard: list[float] = []
    model.heard = heard.append
    model.hidden([IDS])
    assert heard == sorted(heard)
    assert 0.9 < heard[-1] < 1, "the head is loaded later"
    held = [p for p in model._model.parameters() if not p.is_meta]
    assert held == [], "parameters are dropped after their module has run"
    model.head(np.zeros((1, config["n_embd"]), np.float32))
    held = [p for p in model._model.parameters() if not p.is_meta]
    assert {p.shape[0] for p in held} == {model.n_vocab}, "the head stays"


def test_cache_is_keyed_by_contents(
    codegen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = TorchReference(codegen, cache=cache)
    first.prepare(WINDOWS)
    sound = [np.concatenate(list(first.logits(w))) for w in WINDOWS]
    assert (written := first.continued(IDS[:9], 5)) is not None

    def refuse(*_: object) -> None:
        raise AssertionError("computed again")

    with monkeypatch.context() as m:
        m.setattr(TorchModel, "hidden", refuse)
        m.setattr(TorchModel, "continued", refuse)
        again = TorchReference(codegen, cache=cache)
        again.prepare(WINDOWS)
        for window, logits in zip(WINDOWS, sound, strict=True):
            np.testing.assert_array_equal(np.concatenate(list(again.logits(window))), logits)
        assert again.continued(IDS[:9], 5) == written
    state = load_file(codegen / "model.safetensors")
    changed = shutil.copytree(codegen, tmp_path / "changed")
    state["lm_head.bias"][3] += 1
    save_file(state, changed / "model.safetensors", {"format": "pt"})
    other = TorchReference(changed, cache=cache)
    assert not other.notes.has("noise 0.0, tanh False", WINDOWS[0])


def test_interrupted_run_resumes(
    codegen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = TorchModel.hidden
    runs: list[object] = []

    def interrupted(self: TorchModel, windows: list[tuple[int, ...]]) -> object:
        if len(runs) == 2:
            raise KeyboardInterrupt
        runs.append(windows)
        return hidden(self, windows)

    def resumed(self: TorchModel, windows: list[tuple[int, ...]]) -> object:
        rest.append(windows)
        return hidden(self, windows)

    with monkeypatch.context() as m:
        m.setattr(TorchModel, "hidden", interrupted)
        with pytest.raises(KeyboardInterrupt):
            TorchReference(codegen, cache=tmp_path).prepare(WINDOWS)
    rest: list[object] = []
    monkeypatch.setattr(TorchModel, "hidden", resumed)
    TorchReference(codegen, cache=tmp_path).prepare(WINDOWS)
    assert rest == [[WINDOWS[2].ids]]
    assert not list(tmp_path.rglob("*.part"))


def test_cache_drops_the_least_recently_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_cache, "MAX_BYTES", 5000)
    for i in range(4):
        kept = reference_cache.ReferenceCache(tmp_path, {"model": i})
        kept.keep("", WINDOWS[0], np.zeros((50, 10), np.float32))
    assert len(list(tmp_path.iterdir())) == 3, "the newest, and those that fit"
    assert kept.has("", WINDOWS[0])


def test_damaged_cache_files_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "digests.json").write_text('{"x": 3}')
    (file := tmp_path / "a").write_text("a")
    expected = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert file_digests([file], tmp_path) == {"a": expected}
    assert file_digests([file], tmp_path) == {"a": expected}
    file.write_text("bb")
    assert file_digests([file], tmp_path) != {"a": expected}
    with pytest.raises(InvalidInput, match="absent"):
        file_digests([tmp_path / "absent"], tmp_path)
    cache = reference_cache.ReferenceCache(tmp_path / "r", {})
    cache["q"] = {"a": 1}
    assert cache.get("q") == {"a": 1}
    next((tmp_path / "r").rglob("*.json")).write_text("[")
    assert cache.get("q") is None


def test_bf16_results_are_close_and_cached_separately(codegen: Path, tmp_path: Path) -> None:
    exact = logits_of(TorchReference(codegen, cache=tmp_path), IDS)
    rounded = logits_of(
        TorchReference(codegen, device=TorchDevice("cpu", "bf16"), cache=tmp_path), IDS
    )
    assert 0 < np.square(rounded - exact).sum() / np.square(exact).sum() < 1e-2


def test_unavailable_device_is_rejected(codegen: Path) -> None:
    for name in ("cuda", "toaster"):
        with pytest.raises(InvalidInput, match=f"--device {name}"):
            TorchReference(codegen, device=TorchDevice(name))


def test_checkpoint_with_missing_or_nan_weights_is_rejected(codegen: Path, tmp_path: Path) -> None:
    state = load_file(codegen / "model.safetensors")
    shutil.copytree(codegen, tmp_path, dirs_exist_ok=True)
    name = next(n for n in state if n.endswith("fc_in.bias"))
    state[name][0] = float("nan")
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CorruptCheckpoint, match="NaN or infinite"):
        TorchReference(tmp_path).prepare(WINDOWS)
    del state[name]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    for streamed in (True, False):
        with pytest.raises(CorruptCheckpoint, match=r"1 weight missing.*fc_in\.bias"):
            TorchReference(tmp_path, streamed=streamed).prepare(WINDOWS)


def test_pickled_weights_can_be_streamed(codegen: Path, tmp_path: Path) -> None:
    without = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(codegen, tmp_path, dirs_exist_ok=True, ignore=without)
    torch.save(load_file(codegen / "model.safetensors"), tmp_path / "pytorch_model.bin")
    sound = logits_of(TorchReference(codegen), IDS)
    np.testing.assert_allclose(
        logits_of(TorchReference(tmp_path, streamed=True), IDS), sound, atol=2e-4
    )
