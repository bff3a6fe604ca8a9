"""Importance matrices match sums that are computed with PyTorch."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from converters import convert, expected
from quantize.imatrix import (
    Entry,
    Imatrix,
    merge,
    read_imatrix,
    write_imatrix,
)
from quantize.imatrix.collect import by_expert, dense, plain_name
from tests.support.imatrix_lab import N_EXPERTS, N_USED, TEXT, mixture, run
from tests.support.tiny import FAMILY, tiny_checkpoint
from tests.support.verify_lab import logits_of
from turbopilot.base.errors import QuantizationError
from turbopilot.formats.gguf.edit import set_metadata
from turbopilot.verify.gguf_candidate import GgufCandidate

LLAMA_IMATRIX = os.environ.get("TURBOPILOT_TEST_LLAMA_IMATRIX", "")
Array = npt.NDArray[Any]


def torch_sums(checkpoint: Path, chunks: Sequence[Sequence[int]]) -> dict[str, Array]:
    """Return the sums of squares of each input channel by module name, computed with hooks."""
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    model.eval()
    sums: dict[str, Array] = {}

    def hook(name: str) -> Any:
        def see(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0].double().reshape(-1, inputs[0].shape[-1])
            sums[name] = sums.get(name, 0) + (x**2).sum(0).numpy()

        return see

    head = model.get_output_embeddings()  # its name depends on transformers' version
    for name, module in model.named_modules():
        matrix = getattr(module, "weight", None)
        if matrix is not None and matrix.ndim == 2 and not isinstance(module, torch.nn.Embedding):
            module.register_forward_pre_hook(hook("head" if module is head else name))
    with torch.inference_mode():
        for chunk in chunks:
            model(torch.tensor([list(chunk)]))
    return sums


def modules(checkpoint: Path) -> dict[str, str]:
    """Return the module of each matrix by its name in the GGUF, as declared by the converter."""
    with expected(checkpoint) as planned:
        return {
            t.name: t.source.removesuffix(".weight")
            for t in planned.tensors
            if len(t.shape) == 2 and t.source != "zeros"
        }


@pytest.mark.parametrize("family", FAMILY)
def test_sums_match_hooks_in_pytorch(family: str, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(family, tmp_path / "checkpoint")
    model, output = tmp_path / "m.gguf", tmp_path / "m-imatrix.gguf"
    convert(checkpoint, model, dtype="f32")
    report = run(model, output, process_output=True)
    matrix = read_imatrix(output)
    with GgufCandidate(model) as candidate:
        tokens = candidate.tokenize(TEXT)
    theirs = torch_sums(checkpoint, [tokens[i : i + 96] for i in (0, 96, 192)])
    named = modules(checkpoint)
    head = "output.weight" if "output.weight" in named else "token_embd.weight"  # if tied
    of = {**named, head: "head"}
    n_layers = 3
    wanted = {n for n in of if n.startswith("blk.") or n == head}
    stacks = {n: e for n, e in matrix.entries.items() if re.search(r"_exps\.|attn_[kv]_b\.", n)}
    assert set(matrix.entries) - set(stacks) == wanted
    assert len(wanted) + len(stacks) > 4 * n_layers
    for name in wanted:
        entry = matrix.entries[name]
        assert entry.counts.tolist() == [3 * 96]
        module = of[name].replace(".block_sparse_moe.", ".mlp.")  # Mixtral's name in transformers 5
        assert entry.sums[0] == pytest.approx(theirs[module], rel=3e-3, abs=1e-3), name
    for (
        name,
        entry,
    ) in stacks.items():  # transformers' modules of experts and of latent attention have no hooks
        n_used = 2 if "_exps" in name else len(entry.counts)
        assert entry.counts.sum() == 3 * 96 * n_used, name
        assert (entry.sums[entry.counts > 0].sum(axis=1) > 0).all(), name
    assert (report.n_chunks, report.n_text_chunks) == (3, len(tokens) // 96)
    assert (report.n_entries, report.resumed_from) == (len(matrix.entries), 0)
    assert report.n_unseen == sum(int((e.counts == 0).sum()) for e in stacks.values())
    assert (matrix.datasets, matrix.n_chunks, matrix.chunk_size) == (("code.py",), 3, 96)


def test_head_of_a_tied_model_is_recorded_as_its_embedding(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint("llama", tmp_path / "checkpoint", tie_word_embeddings=True)
    model, output = tmp_path / "m.gguf", tmp_path / "m-imatrix.gguf"
    convert(checkpoint, model, dtype="f16")
    run(model, output)
    assert "token_embd.weight" not in read_imatrix(output).entries
    run(model, output, process_output=True, force=True)
    assert read_imatrix(output).entries["token_embd.weight"].counts.tolist() == [3 * 96]


def test_perplexity_matches_a_direct_computation(demo_gguf: Path, tmp_path: Path) -> None:
    report = run(demo_gguf, tmp_path / "x.gguf", chunks=2, chunk_size=64)
    with GgufCandidate(demo_gguf) as candidate:
        tokens = candidate.tokenize(TEXT)
        nll = []
        for at in (0, 64):
            piece = tokens[at : at + 64]
            for i, logits in enumerate(logits_of(candidate, piece)[:-1].astype(np.float64)):
                if i >= 32:
                    nll.append(np.logaddexp.reduce(logits) - logits[piece[i + 1]])
    assert report.perplexity == pytest.approx(np.exp(np.mean(nll)), rel=1e-3)


def test_chunk_of_several_batches_counts_every_token(demo_gguf: Path, tmp_path: Path) -> None:
    """Use a chunk longer than llama.cpp's batch, which takes several graphs."""
    report = run(demo_gguf, tmp_path / "x.gguf", chunks=1, chunk_size=600, force=True)
    entries = read_imatrix(tmp_path / "x.gguf").entries
    assert all(e.counts.tolist() == [600] for e in entries.values())
    assert report.perplexity is not None


def test_expert_sums_match_the_router_input(tmp_path: Path) -> None:
    """Send each token to two of four experts, whose input is the input of the router."""
    model = mixture(tmp_path)
    run(model, tmp_path / "x.gguf")
    entries = read_imatrix(tmp_path / "x.gguf").entries
    for layer in range(3):
        router = entries[f"blk.{layer}.ffn_gate_inp.weight"]
        for part in ("up", "gate", "down"):
            experts = entries[f"blk.{layer}.ffn_{part}_exps.weight"]
            assert experts.sums.shape == (N_EXPERTS, 768 if part == "down" else 256)
            assert experts.counts.sum() == N_USED * 3 * 96
            assert len(set(experts.counts.tolist())) > 1, "the router is not random"
            if part != "down":
                assert experts.sums.sum(axis=0) == pytest.approx(N_USED * router.sums[0], rel=1e-4)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_sums_match_a_simple_loop(data: st.DataObject) -> None:
    draw = data.draw
    tokens, channels, n, used = (draw(st.integers(1, 5)) for _ in range(4))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    each = draw(st.sampled_from([1, used]))
    x = rng.standard_normal((tokens, each, channels)).astype(np.float32)
    chosen = rng.integers(0, n, (tokens, used), dtype=np.int32)
    sums, counts = np.zeros((n, channels)), np.zeros(n, np.int64)
    for t in range(tokens):
        for k in range(used):
            sums[chosen[t, k]] += x[t, k % each].astype(np.float64) ** 2
            counts[chosen[t, k]] += 1
    got = by_expert(x, chosen, n)
    assert got[0] == pytest.approx(sums, rel=1e-5)
    assert got[1].tolist() == counts.tolist()

    inner, outer, more = (draw(st.integers(1, 3)) for _ in range(3))
    stacked = rng.standard_normal((outer, inner * more, tokens, channels)).astype(np.float32)
    wide = np.zeros((outer, inner, channels))
    for i in range(outer):
        for j in range(inner * more):
            wide[i, j % inner] += (stacked[i, j].astype(np.float64) ** 2).sum(0)
    got = dense(stacked, inner, outer)
    assert got[0].reshape(wide.shape) == pytest.approx(wide, rel=1e-5)
    assert got[1].tolist() == [tokens * more]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("blk.0.x", "blk.0.x"),
        ("CUDA0#blk.0.x#0", "blk.0.x"),
        ("#blk.0.x", "blk.0.x"),
        ("", ""),
    ],
)
def test_scheduler_decorations_are_removed_from_names(name: str, plain: str) -> None:
    assert plain_name(name) == plain


def test_quantized_model_gives_nearly_the_same_matrix(
    demo_gguf: Path, demo_q4_0: Path, tmp_path: Path
) -> None:
    run(demo_gguf, tmp_path / "f16.gguf")
    run(demo_q4_0, tmp_path / "q4.gguf")
    exact, near = (read_imatrix(tmp_path / f"{n}.gguf").means() for n in ("f16", "q4"))
    assert set(exact) == set(near)
    for name in exact:
        assert np.abs(near[name] - exact[name]).sum() < 0.25 * exact[name].sum(), name


def test_merged_matrices_equal_one_run_over_both_texts(demo_gguf: Path, tmp_path: Path) -> None:
    first, second, both = (tmp_path / f"{n}.gguf" for n in ("first", "second", "both"))
    with GgufCandidate(demo_gguf) as candidate:
        tokens = candidate.tokenize(TEXT)
        cut = len(candidate.text(tokens[: 2 * 96]))
    run(demo_gguf, first, chunks=2)
    run(demo_gguf, second, text=TEXT[cut:], chunks=1, others=(read_imatrix(first),))
    run(demo_gguf, both, chunks=3)
    merged, whole = read_imatrix(second), read_imatrix(both)
    assert (merged.n_chunks, merged.datasets) == (3, ("code.py", "code.py"))
    for name, entry in whole.entries.items():
        assert merged.entries[name].counts.tolist() == entry.counts.tolist()
        assert merged.entries[name].sums == pytest.approx(entry.sums, rel=1e-5)


def test_single_count_is_merged_with_counts_per_expert() -> None:
    def of(sums: list[list[float]], counts: list[int], chunk_size: int) -> Imatrix:
        entry = Entry(np.array(sums, np.float32), np.array(counts, np.int64))
        return Imatrix({"a": entry}, ("x",), 1, chunk_size)

    one = of([[20.0, 40.0, 60.0, 80.0]], [20], 10)
    each = of([[10.0, 10.0], [0.0, 0.0]], [10, 0], 10)
    merged = merge([one, each])
    entry = merged.entries["a"]
    assert (merged.chunk_size, merged.n_chunks) == (10, 3)
    assert entry.sums.tolist() == [[30.0, 50.0], [60.0, 80.0]]
    assert entry.counts.tolist() == [30, 20]
    for wrong in (
        [each, of([[1.0]], [1], 10)],
        [of([[1.0] * 2] * 3, [1] * 3, 5), of([[1.0] * 3] * 2, [1] * 2, 5)],
    ):
        with pytest.raises(QuantizationError):
            merge(wrong)


@pytest.mark.slow
@pytest.mark.skipif(
    not LLAMA_IMATRIX, reason="TURBOPILOT_TEST_LLAMA_IMATRIX is not set to a llama-imatrix"
)
@pytest.mark.parametrize("kind", ["demo", "q4_0", "mixture", "bos"])
def test_sums_match_llama_imatrix(
    kind: str, demo_gguf: Path, demo_q4_0: Path, tmp_path: Path
) -> None:
    model = {"demo": demo_gguf, "q4_0": demo_q4_0}.get(kind) or mixture(tmp_path)
    if kind == "bos":
        set_metadata(model, {"tokenizer.ggml.add_bos_token": True})
    text, theirs = tmp_path / "text.py", tmp_path / "theirs.gguf"
    text.write_text(TEXT, "utf-8")
    run(model, tmp_path / "ours.gguf", chunk_size=128)
    subprocess.run(
        [
            LLAMA_IMATRIX,
            "-m",
            model,
            "-f",
            text,
            "-o",
            theirs,
            "-c",
            "128",
            "--chunks",
            "3",
            "-t",
            "1",
        ],
        check=True,
        capture_output=True,
    )
    a, b = read_imatrix(tmp_path / "ours.gguf"), read_imatrix(theirs)
    assert set(a.entries) == set(b.entries)
    for name, entry in b.entries.items():
        assert a.entries[name].counts.tolist() == entry.counts.tolist(), name
        assert a.entries[name].sums == pytest.approx(entry.sums, rel=1e-3, abs=1e-4), name


def test_written_copy_of_a_matrix_is_identical(demo_gguf: Path, tmp_path: Path) -> None:
    run(demo_gguf, tmp_path / "x.gguf", chunks=1)
    matrix = read_imatrix(tmp_path / "x.gguf")
    write_imatrix(tmp_path / "y.gguf", matrix, {"turbopilot.imatrix.model": demo_gguf.name})
    assert (tmp_path / "y.gguf").read_bytes() == (tmp_path / "x.gguf").read_bytes()
