"""The verdict: tokens first, then logits. Knows nothing of converters, torch, llama.cpp or terminals.

`compare` judges any two `LogitsSource`s; `verify` opens a GGUF file and a checkpoint folder for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from turbopilot.errors import CorruptCheckpoint, InvalidInput
from turbopilot.gguf_file import GgufHeader
from turbopilot.progress import Progress, silent
from turbopilot.verify.criteria import Failure, failures, judged_type, limits_for, noise_of
from turbopilot.verify.metrics import Accumulator, Metrics, Place
from turbopilot.verify.report import Report, TokenDifference, TokenResult
from turbopilot.verify.source import Logits, LogitsSource, Reference
from turbopilot.verify.texts import default_prompts, token_battery

MAX_POSITIONS = 1024  # of one prompt: the whole (T, V) logits of both sides are held at once
_KEPT_POSITIONS = 64  # of each prompt, to measure the model's own answer to a change
_EXCERPT = 8  # tokens shown before a difference


def verify(
    candidate: Path,
    checkpoint: Path,
    *,
    prompts: Sequence[str] | None = None,
    texts: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> Report:
    """Compare a GGUF file with the checkpoint that it was made of.

    Args:
        candidate: the GGUF file.
        checkpoint: the Hugging Face folder.
        prompts: whose logits to compare; the built-in ones where not given.
        texts: name → text for the tokenizers, besides the built-in battery.
        progress: told of texts, then of positions.

    Raises:
        InvalidInput: a path cannot be used, or there is nothing to compare.
        CorruptModel: the candidate is no GGUF that llama.cpp can load.
        UnsupportedModel: transformers does not know the checkpoint's architecture.
        CorruptCheckpoint: the checkpoint is incomplete or damaged.
    """
    # Imported here: these bring in llama.cpp and torch.
    from turbopilot.verify.gguf_candidate import GgufCandidate
    from turbopilot.verify.torch_reference import TorchReference

    # The candidate first: it opens in milliseconds, and a bad path should not wait for torch.
    with GgufCandidate(candidate) as gguf:
        noise_of(judged_type(gguf.header))
        progress(0, 1, "loading the checkpoint")
        reference = TorchReference(checkpoint)
        return compare(
            reference,
            gguf,
            gguf.header,
            prompts=default_prompts() if prompts is None else prompts,
            texts={**token_battery(), **(texts or {})},
            versions={**gguf.versions, **reference.versions, "numpy": np.__version__},
            progress=progress,
        )


def compare(
    reference: Reference,
    candidate: LogitsSource,
    header: GgufHeader,
    *,
    prompts: Sequence[str],
    texts: Mapping[str, str],
    versions: Mapping[str, str],
    progress: Progress = silent,
) -> Report:
    """Judge a candidate by the limits of its type. Arguments as for `verify`; `texts` are all there are.

    The reference is of no further use afterwards: its weights and GELU may have been changed.
    """
    type_name = judged_type(header)
    noise = noise_of(type_name)
    tokens = compare_tokens(reference, candidate, texts, progress)
    found = []
    if tokens.first_difference:
        n = tokens.texts - tokens.texts_equal
        found.append(
            Failure(
                "tokens",
                f"{n} of {tokens.texts} texts are cut differently; {tokens.first_difference}",
            )
        )
    metrics = tanh = noisy = limits = None
    if candidate.n_vocab != reference.n_vocab:
        message = f"the GGUF has {candidate.n_vocab:,} vocabulary rows, the checkpoint {reference.n_vocab:,}"
        found.append(Failure("vocabulary", message + ": logits cannot be compared"))
    else:
        ids = _prompt_ids(reference, candidate, prompts)
        metrics, kept = compare_logits(reference, candidate, ids, progress, keep=_KEPT_POSITIONS)
        if reference.use_tanh_gelu():
            tanh = _moved(reference, ids, kept)
            kept = [reference.logits(one[:_KEPT_POSITIONS]) for one in ids] if noise else kept
        if noise:
            reference.add_noise(noise)
            noisy = _moved(reference, ids, kept)
        limits = limits_for(type_name, noisy, tanh)
        found += failures(
            metrics, limits, type_name, lambda place: _describe(place, ids, reference)
        )
    return Report(
        candidate=candidate.name,
        reference=reference.name,
        architecture=header.architecture,
        type_name=type_name,
        bits_per_weight=header.bits_per_weight,
        n_vocab=reference.n_vocab,
        tokens=tokens,
        prompts=len(prompts),
        metrics=metrics,
        noise=noisy,
        tanh_gelu=tanh,
        limits=limits,
        failures=tuple(found),
        versions=versions,
    )


def compare_tokens(
    reference: LogitsSource,
    candidate: LogitsSource,
    texts: Mapping[str, str],
    progress: Progress = silent,
) -> TokenResult:
    """Cut every text with both tokenizers."""
    n_ids = n_equal = 0
    first: TokenDifference | None = None
    for i, (name, text) in enumerate(texts.items()):
        progress(i, len(texts), "tokens")
        ours, theirs = reference.tokenize(text), candidate.tokenize(text)
        n_ids += len(ours)
        if ours == theirs:
            n_equal += 1
        elif first is None:
            first = _difference(name, ours, theirs, reference, candidate)
    progress(len(texts), len(texts), "tokens")
    return TokenResult(texts=len(texts), texts_equal=n_equal, ids=n_ids, first_difference=first)


def _difference(
    name: str, ours: list[int], theirs: list[int], reference: LogitsSource, candidate: LogitsSource
) -> TokenDifference:
    common = min(len(ours), len(theirs))
    at = next((i for i in range(common) if ours[i] != theirs[i]), common)
    return TokenDifference(
        text_name=name,
        index=at,
        before=reference.text(ours[max(0, at - _EXCERPT) : at]),
        reference_id=ours[at] if at < len(ours) else None,
        reference_text=reference.text(ours[at : at + 1]),
        candidate_id=theirs[at] if at < len(theirs) else None,
        candidate_text=candidate.text(theirs[at : at + 1]),
    )


def _prompt_ids(
    reference: LogitsSource, candidate: LogitsSource, prompts: Sequence[str]
) -> list[list[int]]:
    """The reference's ids, for both: a tokenizer's fault must not look like one of the weights."""
    room = min(reference.n_ctx, candidate.n_ctx, MAX_POSITIONS)
    ids = [reference.tokenize(prompt)[:room] for prompt in prompts]
    empty = [i for i, one in enumerate(ids) if not one]
    if empty or not ids:
        raise InvalidInput(
            f"prompt {empty[0]} is empty" if empty else "there are no prompts",
            hint="give prompts of at least one token",
        )
    return ids


def compare_logits(
    reference: LogitsSource,
    candidate: LogitsSource,
    prompts: Sequence[Sequence[int]],
    progress: Progress = silent,
    *,
    keep: int = 0,
) -> tuple[Metrics, list[Logits]]:
    """Run both models over the ids of every prompt.

    Returns:
        The figures, and the reference's logits of the first `keep` positions of each prompt.

    Raises:
        CorruptCheckpoint: the reference's own logits are not finite, so it cannot judge.
    """
    total = sum(len(ids) for ids in prompts)
    seen = Accumulator()
    kept = []
    done = 0
    for i, ids in enumerate(prompts):
        progress(done, total, "logits")
        ours = reference.logits(ids)
        if not np.isfinite(ours).all():
            raise CorruptCheckpoint(
                f"{reference.name}: its own logits are NaN or infinite in prompt {i}",
                hint="the weights are damaged: download the checkpoint again",
            )
        seen.add(i, ids, ours, candidate.logits(ids))
        if keep:
            kept.append(ours[:keep].copy())
        done += len(ids)
    progress(total, total, "logits")
    return seen.result(), kept


def _moved(
    reference: Reference, prompts: Sequence[Sequence[int]], sound: Sequence[Logits]
) -> Metrics:
    """How far the reference, now changed, is from its own sound logits of each prompt's beginning."""
    moved = Accumulator()
    for i, (ids, logits) in enumerate(zip(prompts, sound, strict=True)):
        # The models are causal: the logits of a prompt's beginning do not depend on its rest.
        beginning = ids[: len(logits)]
        moved.add(i, beginning, logits, reference.logits(beginning))
    return moved.result()


def _describe(place: Place, prompts: Sequence[Sequence[int]], reference: LogitsSource) -> str:
    ids = prompts[place.prompt]
    before = reference.text(ids[max(0, place.position + 1 - _EXCERPT) : place.position + 1])
    token = reference.text([place.token])
    where = f"in prompt {place.prompt} at position {place.position}, after {before!r}"
    return f"{where}, for token {place.token} ({token!r})"
