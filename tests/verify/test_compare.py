"""Tests of the verdict, with numpy tables as models: without torch and llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from turbopilot.base.errors import InvalidInput
from turbopilot.base.progress import Progress
from turbopilot.formats.ggml_types import GGML_TYPES
from turbopilot.formats.gguf.file import GgufHeader, TensorInfo
from turbopilot.verify import VerifyOptions, VerifyReport, compare
from turbopilot.verify.criteria import FIXED, NOISE, Sensitivity, judged_type, limits_for, noise_of
from turbopilot.verify.hyperparameters import of_config, of_gguf
from turbopilot.verify.source import Change, Logits, Notes, Window
from turbopilot.verify.texts import code_samples, read_prompts, token_battery
from turbopilot.verify.tokenizer_files import TokenizerFiles
from turbopilot.verify.windows import MOST_CONTEXT, windows_of

V = 256


class TableModel:
    """Model of byte tokens; the logits after a token are a row of a random table."""

    def __init__(self, n_vocab: int = V, error: float = 0.0, n_ctx: int = 200) -> None:
        rng = np.random.default_rng(0)
        self.table = (rng.normal(size=(256, V)) * 3).astype(np.float32)
        self.table += (np.random.default_rng(1).normal(size=self.table.shape) * error).astype("f4")
        self.name, self.n_vocab, self.n_ctx = "table", n_vocab, n_ctx
        self.files: Mapping[str, str] = {"weights": "00"}
        self.versions: Mapping[str, str] = {"numpy": np.__version__}
        self.hyperparameters: Mapping[str, float] = {}
        self.tokenizer_files = TokenizerFiles()
        self.notes: Notes = {}
        self.longest = self.prepared = 0

    def tokenize(self, text: str) -> list[int]:
        return list(text.encode())

    def text(self, ids: Sequence[int]) -> str:
        return bytes(i % 256 for i in ids).decode(errors="replace")

    def logits(self, window: Window) -> Iterator[Logits]:
        self.longest = max(self.longest, len(window.ids))
        for block in window.blocks(self.n_vocab):
            yield self.table[np.asarray(window.ids)[np.asarray(block)]]

    def prepare(self, windows: Sequence[Window], progress: Progress) -> None:
        self.prepared += len(windows)

    def changed(self, change: Change) -> TableModel | None:
        if change.tanh_gelu:
            return None
        noisy = TableModel(self.n_vocab, n_ctx=self.n_ctx)
        rng = np.random.default_rng(2)
        scale = np.sqrt(change.noise * np.square(self.table).mean())
        noisy.table = (self.table + rng.normal(size=self.table.shape) * scale).astype(np.float32)
        return noisy

    def continued(self, ids: Sequence[int], n: int) -> list[int] | None:
        found = [ids[-1]]
        for _ in range(n):
            found.append(int(self.table[found[-1]].argmax()))
        return found[1:]


class OtherWords(TableModel):
    """Model that tokenizes "return" differently."""

    def tokenize(self, text: str) -> list[int]:
        return list(text.encode().replace(b"return", b"retrun"))


def header(**weights: int) -> GgufHeader:
    """Return a header with one matrix per type, with the given number of rows of 256 weights."""
    tensors = tuple(
        TensorInfo(f"t{i}", (256, n), name, 0, n) for i, (name, n) in enumerate(weights.items())
    )
    return GgufHeader(Path("x.gguf"), 3, {"general.architecture": "phi2"}, tensors, 0)


PROMPTS = ("def f(x):\n    return x\n", "x" * 500)


def judge(
    candidate: TableModel,
    type_name: str = "F32",
    reference: TableModel | None = None,
    prompts: Sequence[str] = PROMPTS,
) -> VerifyReport:
    options = VerifyOptions(prompts=prompts, texts={"a": "x = 1", "b": "    return 1"})
    return compare(reference or TableModel(), candidate, header(**{type_name: 1}), options)


def test_identical_model_passes() -> None:
    report = judge(TableModel())
    assert report.passed
    assert report.tokens.equal
    plain = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert plain["passed"] is True
    assert plain["metrics"]["positions"] == 223  # 23 bytes, and 500 cut to the context of 200
    assert plain["limits"]["nmse"] == 1e-6
    assert plain["versions"] == {"numpy": np.__version__}


@pytest.mark.parametrize(
    ("type_name", "error"), [("F32", 0.02), ("F16", 0.05), ("Q8_0", 0.5), ("Q4_0", 2.0)]
)
def test_error_above_the_limit_of_the_type_fails(type_name: str, error: float) -> None:
    assert judge(TableModel(), type_name).passed
    report = judge(TableModel(error=error), type_name)
    assert not report.passed
    assert {"nmse", "mean_kl"} <= {f.check for f in report.failures}
    allowed = f"for {type_name}; the largest difference"
    for words in ("times the", allowed, "is in 'prompt", "at position"):
        assert words in report.failures[0].message


def test_error_within_the_noise_of_the_type_passes() -> None:
    for type_name in ("Q8_0", "Q4_K", "Q2_K"):
        candidate = TableModel().changed(Change(noise=NOISE[type_name]))
        assert candidate is not None
        report = judge(candidate, type_name)
        assert report.passed, report.failures
        assert report.noise is not None


def test_first_token_difference_is_reported() -> None:
    report = judge(OtherWords())
    assert [f.check for f in report.failures] == ["tokens"]
    first = report.tokens.first_difference
    assert first is not None
    assert (first.text_name, first.index, first.before) == ("b", 7, "    ret")
    assert (first.reference_id, first.candidate_id) == (ord("u"), ord("r"))
    assert "1 of 2 texts" in report.failures[0].message
    assert report.metrics is not None  # the logits are compared on the reference's ids
    assert report.metrics.nmse == 0


def test_different_vocabulary_size_fails() -> None:
    report = judge(TableModel(n_vocab=V + 1))
    assert [f.check for f in report.failures] == ["vocabulary"]
    assert "257 vocabulary rows, the checkpoint 256" in report.failures[0].message
    assert report.metrics is None
    json.dumps(report.to_json(), allow_nan=False)


def test_nan_logits_fail() -> None:
    candidate = TableModel()
    candidate.table[ord("x"), 3] = np.nan
    report = judge(candidate, "Q8_0")
    assert "finite" in {f.check for f in report.failures}
    json.dumps(report.to_json(), allow_nan=False)


def test_prompts_are_cut_to_the_shorter_context() -> None:
    candidate = TableModel(n_ctx=32)
    judge(candidate)
    assert candidate.longest == 32


def test_missing_or_empty_prompts_are_rejected() -> None:
    for prompts in ([], ["x", ""]):
        with pytest.raises(InvalidInput):
            judge(TableModel(), prompts=prompts)


def test_judged_type_depends_on_tensors() -> None:
    assert judged_type(header(Q4_K=50, Q6_K=30, F32=20)) == "Q4_K"
    assert judged_type(header(Q4_K=5, Q6_K=95)) == "Q6_K"
    assert judged_type(header(F16=1)) == "F16"
    vectors = (TensorInfo("norm", (256,), "F32", 0, 1),)
    assert judged_type(replace(header(Q8_0=1), tensors=header(Q8_0=1).tensors + vectors)) == "Q8_0"
    assert judged_type(replace(header(), tensors=vectors)) == "F32"
    with pytest.raises(InvalidInput, match="no limits are known for files of type I8"):
        noise_of("I8")


def test_every_type_that_can_hold_weights_has_limits() -> None:
    not_weights = {"I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"}
    assert {name for name, _, _ in GGML_TYPES.values()} - not_weights == {*FIXED, *NOISE}


def test_limits_depend_on_the_sensitivity_of_the_model() -> None:
    def answer(nmse: float, clear: int, clear_top1: float) -> Sensitivity:
        return Sensitivity(nmse, 5 * nmse, clear, clear_top1)

    sturdy = limits_for("Q4_0", answer(1e-3, 500, 0.99))
    fragile = limits_for("Q4_0", answer(3e-2, 500, 0.8))
    assert sturdy.nmse < fragile.nmse < 1
    assert sturdy.mean_kl < fragile.mean_kl
    assert 1 > sturdy.clear_top1 > fragile.clear_top1 > 0
    assert limits_for("Q2_K", answer(5.0, 0, 1.0)).nmse == 1.0  # the distance of all-zero logits
    few, many = limits_for("Q4_0", answer(1e-3, 5, 1.0)), limits_for("Q4_0", answer(1e-3, 500, 1.0))
    assert few.clear_top1 < many.clear_top1  # few positions give a wider limit


def test_limits_are_widened_by_the_effect_of_tanh_gelu() -> None:
    costs = Sensitivity(nmse=4e-6, mean_kl=4e-5, clear=500, clear_top1=1.0)
    wider, plain = limits_for("F32", tanh=costs), limits_for("F32")
    assert wider.nmse > plain.nmse + costs.nmse, "distances add, not their squares"
    assert wider.mean_kl > plain.mean_kl + costs.mean_kl
    assert "tanh" in wider.origin
    free = limits_for("F32", tanh=Sensitivity(0.0, 0.0, clear=10**9, clear_top1=1.0))
    assert (free.nmse, free.mean_kl) == (plain.nmse, plain.mean_kl)


def test_battery_contains_difficult_texts() -> None:
    texts = token_battery()
    whole = "".join(texts.values())
    assert 180_000 < len(whole.encode()) < 260_000
    assert len(code_samples()) >= 12
    for hostile in (
        " " * 40, "\t" * 12, "\r\n", "\0", "<|endoftext|>", "👩‍👩‍👧‍👦", "e\u0301", "\u202e", "日本", "שלום"[:1],
    ):  # fmt: skip
        assert hostile in whole, repr(hostile)


def test_windows_fill_context_and_position_budget() -> None:
    for n_ctx, positions in ((200, 4000), (2048, 4000), (100_000, 4000), (2048, 500)):
        windows = windows_of(TableModel(), n_ctx, positions=positions)
        context = next(w for w in windows if w.kind == "context")
        assert len(context.ids) == min(n_ctx, MOST_CONTEXT)
        assert context.measured[-1] == len(context.ids) - 1, "the end of the context"
        assert sum(len(w.measured) for w in windows) == pytest.approx(positions, rel=0.03)
        assert len({w.name for w in windows}) == len(windows)
        assert not [w for w in windows if w.kind == "fim"], "byte tokens include no FIM tokens"
    full = windows_of(TableModel(), 10_000, full=True)
    assert len(full[0].measured) == 10_000
    assert sum(len(w.ids) for w in full if w.kind == "code") == sum(
        len(t.encode()) for t in code_samples().values()
    )


def test_continuations_differ_from_the_first_different_choice() -> None:
    reference, candidate = TableModel(), TableModel()
    same = judge(candidate, reference=reference).continuations
    assert same is not None
    assert all((c.equal, c.margin) == (c.tokens, None) for c in same)
    path = reference.continued(b"def f(x):\n    return x\n", 8)
    assert path is not None
    best = reference.table[path[2]].copy()
    candidate.table[path[2], best.argsort()[-2]] = best.max() + 1
    parted = judge(candidate, reference=reference).continuations
    assert parted is not None
    assert parted[0].equal == 3
    assert parted[0].margin == pytest.approx(np.sort(best)[-1] - np.sort(best)[-2], rel=1e-5)


def test_reference_results_are_reused_for_several_candidates() -> None:
    reference = TableModel()
    notes: dict[str, Mapping[str, Any]] = {}
    reference.notes = notes
    for _ in range(3):
        assert judge(TableModel(), "Q4_0", reference=reference).passed
    assert len(notes) == 2, "the results for noise and for GELU are cached"


def test_different_hyperparameter_fails() -> None:
    reference = TableModel()
    config = {"n_layer": 2, "layer_norm_epsilon": 1e-5, "rope_theta": 5e5}
    reference.hyperparameters = of_config(config)
    file = header(F32=1)
    assert set(of_gguf(file.metadata)) == {"rope.freq_base"}
    values = {"phi2.block_count": 2, "phi2.attention.layer_norm_epsilon": 1e-4}
    file = replace(file, metadata={**file.metadata, **values})
    report = compare(reference, TableModel(), file, VerifyOptions(prompts=PROMPTS, texts={}))
    wrong = {"hyperparameter epsilon", "hyperparameter rope.freq_base"}
    assert {f.check for f in report.failures} == wrong
    assert "0.0001 in the GGUF and 1e-05" in report.failures[0].message


def test_prompts_file_is_split_at_separator_lines(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"def f():\r\n    pass\n%%\n\n%%\nsecond\n")
    assert read_prompts(path) == ["def f():\r\n    pass", "second\n"]
    path.write_text("only one %%\n")
    assert read_prompts(path) == ["only one %%\n"]
    for bad in (b"", b"%%\n%%\n", b"\xff\xfe"):
        path.write_bytes(bad)
        with pytest.raises(InvalidInput, match=r"prompts\.txt"):
            read_prompts(path)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_prompts(tmp_path / "absent.txt")
