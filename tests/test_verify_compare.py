"""The verdict, with models that are numpy tables: no torch, no llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from turbopilot.errors import CorruptCheckpoint, InvalidInput
from turbopilot.ggml_types import GGML_TYPES
from turbopilot.gguf_file import GgufHeader, TensorInfo
from turbopilot.verify import Report, compare
from turbopilot.verify.criteria import FIXED, NOISE, judged_type, limits_for, noise_of
from turbopilot.verify.metrics import Accumulator, Metrics
from turbopilot.verify.source import Logits
from turbopilot.verify.texts import code_samples, default_prompts, read_prompts, token_battery

V = 256


class TableModel:
    """Byte tokens; the logits of a token are a row of a random table, plus its share of the last one."""

    def __init__(self, n_vocab: int = V, error: float = 0.0, n_ctx: int = 200) -> None:
        rng = np.random.default_rng(0)
        self.table = (rng.normal(size=(256, V)) * 3).astype(np.float32)
        self.table += (np.random.default_rng(1).normal(size=self.table.shape) * error).astype("f4")
        self.name, self.n_vocab, self.n_ctx = "table", n_vocab, n_ctx
        self.longest = 0

    def tokenize(self, text: str) -> list[int]:
        return list(text.encode())

    def text(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")

    def logits(self, ids: Sequence[int]) -> Logits:
        self.longest = max(self.longest, len(ids))
        rows: Logits = self.table[np.asarray(ids)]
        return rows

    def use_tanh_gelu(self) -> bool:
        return False

    def add_noise(self, noise: float) -> None:
        rng = np.random.default_rng(2)
        scale = np.sqrt(noise * np.square(self.table).mean())
        self.table = (self.table + rng.normal(size=self.table.shape) * scale).astype(np.float32)


class OtherWords(TableModel):
    """Cuts "return" differently."""

    def tokenize(self, text: str) -> list[int]:
        return list(text.encode().replace(b"return", b"retrun"))


def header(**weights: int) -> GgufHeader:
    """A header with one matrix of so many rows of 256 a type."""
    tensors = tuple(
        TensorInfo(f"t{i}", (256, n), name, 0, n) for i, (name, n) in enumerate(weights.items())
    )
    return GgufHeader(Path("x.gguf"), 3, {"general.architecture": "phi2"}, tensors, 0)


def judge(
    candidate: TableModel, type_name: str = "F32", reference: TableModel | None = None
) -> Report:
    return compare(
        reference or TableModel(), candidate, header(**{type_name: 1}),
        prompts=["def f(x):\n    return x\n", "x" * 500], texts={"a": "x = 1", "b": "    return 1"},
        versions={"numpy": np.__version__},
    )  # fmt: skip


def test_the_same_model_passes_and_says_so_in_json() -> None:
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
def test_more_error_than_the_type_may_have_fails_with_reasons(type_name: str, error: float) -> None:
    assert judge(TableModel(), type_name).passed
    report = judge(TableModel(error=error), type_name)
    assert not report.passed
    assert {"nmse", "mean_kl"} <= {f.check for f in report.failures}
    first = report.failures[0].message
    assert "times the" in first
    assert f"{type_name} may have; the largest difference" in first
    assert "in prompt" in first
    assert "at position" in first


def test_noise_of_the_type_passes() -> None:
    for type_name in ("Q8_0", "Q4_K", "Q2_K"):
        candidate = TableModel()
        candidate.add_noise(NOISE[type_name])
        report = judge(candidate, type_name)
        assert report.passed, report.failures
        assert report.noise is not None


def test_a_token_difference_is_shown() -> None:
    report = judge(OtherWords())
    assert [f.check for f in report.failures] == ["tokens"]
    first = report.tokens.first_difference
    assert first is not None
    assert (first.text_name, first.index, first.before) == ("b", 7, "    ret")
    assert (first.reference_id, first.candidate_id) == (ord("u"), ord("r"))
    assert "1 of 2 texts" in report.failures[0].message
    assert report.metrics is not None  # the logits are compared on the reference's ids
    assert report.metrics.nmse == 0


def test_another_vocabulary_is_a_failure_with_a_name() -> None:
    report = judge(TableModel(n_vocab=V + 1))
    assert [f.check for f in report.failures] == ["vocabulary"]
    assert "257 vocabulary rows, the checkpoint 256" in report.failures[0].message
    assert report.metrics is None
    json.dumps(report.to_json(), allow_nan=False)


def test_logits_that_are_not_finite_fail() -> None:
    candidate = TableModel()
    candidate.table[ord("x"), 3] = np.nan
    report = judge(candidate, "Q8_0")
    assert "finite" in {f.check for f in report.failures}
    json.dumps(report.to_json(), allow_nan=False)


def test_a_reference_that_is_not_finite_cannot_judge() -> None:
    reference = TableModel()
    reference.table[ord("x"), 3] = np.inf
    with pytest.raises(CorruptCheckpoint, match="its own logits"):
        judge(TableModel(), reference=reference)


def test_prompts_are_cut_to_both_contexts() -> None:
    candidate = TableModel(n_ctx=32)
    judge(candidate)
    assert candidate.longest == 32


def test_nothing_to_compare_is_an_error() -> None:
    for prompts in ([], ["x", ""]):
        with pytest.raises(InvalidInput):
            compare(
                TableModel(), TableModel(), header(F32=1), prompts=prompts, texts={}, versions={}
            )


def test_a_file_is_judged_by_its_tensors() -> None:
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


def test_limits_follow_the_models_own_answer_to_noise() -> None:
    def answer(nmse: float, clear: int, clear_top1: float) -> Metrics:
        perfect = Accumulator().result()
        return replace(perfect, nmse=nmse, mean_kl=5 * nmse, clear=clear, clear_top1=clear_top1)

    sturdy, fragile = (
        limits_for("Q4_0", answer(1e-3, 500, 0.99)),
        limits_for("Q4_0", answer(3e-2, 500, 0.8)),
    )
    assert sturdy.nmse < fragile.nmse < 1
    assert sturdy.mean_kl < fragile.mean_kl
    assert 1 > sturdy.clear_top1 > fragile.clear_top1 > 0
    assert limits_for("Q2_K", answer(5.0, 0, 1.0)).nmse == 1.0  # as far away as zeros would be
    few, many = limits_for("Q4_0", answer(1e-3, 5, 1.0)), limits_for("Q4_0", answer(1e-3, 500, 1.0))
    assert few.clear_top1 < many.clear_top1  # few positions prove little


def test_limits_are_wider_by_what_another_gelu_costs() -> None:
    none = Accumulator().result()
    costs = replace(none, nmse=4e-6, mean_kl=4e-5, clear=500, clear_top1=1.0)
    wider, plain = limits_for("F32", tanh=costs), limits_for("F32")
    assert wider.nmse > plain.nmse + costs.nmse, "distances add, not their squares"
    assert wider.mean_kl > plain.mean_kl + costs.mean_kl
    free = limits_for("F32", tanh=replace(none, clear=10**9, clear_top1=1.0))
    assert (free.nmse, free.mean_kl) == (plain.nmse, plain.mean_kl)


def test_the_battery_holds_what_tokenizers_stumble_over() -> None:
    texts = token_battery()
    whole = "".join(texts.values())
    assert len(whole.encode()) > 30_000
    assert len(code_samples()) >= 12
    for hostile in (
        " " * 40,
        "\t" * 12,
        "\r\n",
        "\0",
        "<|endoftext|>",
        "👩‍👩‍👧‍👦",
        "e\u0301",
        "\u202e",
        "日本",
        "שלום"[:1],
    ):
        assert hostile in whole, repr(hostile)
    prompts = default_prompts()
    assert len(prompts) >= 6
    assert len(prompts[-1]) > 10_000  # fills a context of 1024 tokens with any tokenizer


def test_prompts_of_a_file(tmp_path: Path) -> None:
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
