"""Step of scripts/check_gpu that compares greedy completions with those of the processor."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from bench.client import BadAnswer, fetch, greedy
from bench.gpu_check import GpuCheck, GpuResults, Work
from bench.gpu_models import Models
from bench.servers import PATIENCE, started

_SHARE = 0.25  # of the time that is left
_TOP = 5  # tokens at each position whose log probabilities are compared
# Sums in another order may choose the other one of two tokens that are nearly equal: a lead in log probability that is
# not clear, by CLEAR_MARGIN of turbopilot.verify.metrics (2 % of a spread of about 25).
NEAR_TIE = 0.5


@dataclass(frozen=True)
class TokenChoices:
    """Tokens of a greedy completion, and at each position the log probabilities of the likeliest ones."""

    tokens: tuple[str, ...]
    top: tuple[Mapping[str, float], ...]

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> TokenChoices:
        """Read them from a response with `logprobs`."""
        found = answer["choices"][0]["logprobs"]
        return cls(tuple(found["tokens"]), tuple(found["top_logprobs"]))


def lead_lost(base: TokenChoices, other: TokenChoices) -> float:
    """Return the lead of `base`'s token over `other`'s at the first difference; 0 if they are equal."""
    pairs = zip(base.tokens, other.tokens, base.top, strict=False)
    for mine, its, top in pairs:
        if mine != its:
            return top[mine] - top.get(its, float("-inf"))
    return 0.0 if len(base.tokens) == len(other.tokens) else float("inf")


def completions(check: GpuCheck, models: Models, results: GpuResults) -> None:
    """Compare greedy completions in each type with those without the GPU, up to the first near tie."""
    types = check.sizes.types
    seconds = _SHARE * check.seconds_left / (len(types) * len(models.layers()))
    works = [check.sizes.compared.fitting(pace, seconds) for pace in results.paces.values()]
    fitting = [w for w in works if w]
    if len(fitting) < len(works):
        results.add("completions", None, "no time: too slow")
        return
    work = min(fitting, key=lambda w: (w.requests, w.prompt), default=check.sizes.compared)
    prompts = list(islice(models.prompts(work.prompt), work.requests))
    for type_name in types:
        found = {
            name: _choices(check, models, type_name, name, (work, prompts))
            for name in models.layers()
        }
        base = found.pop("0")
        lost = {
            name: [lead_lost(a, b) for a, b in zip(base, choices, strict=True)]
            for name, choices in found.items()
        }
        detail = "; ".join(f"{name} layers: {_told(leads)}" for name, leads in lost.items())
        passed = all(lead <= NEAR_TIE for leads in lost.values() for lead in leads)
        results.add(f"completions, {type_name}", passed, f"{work.generated} tokens each; {detail}")


def _told(leads: Sequence[float]) -> str:
    equal = sum(lead == 0 for lead in leads)
    ties = sum(0 < lead <= NEAR_TIE for lead in leads)
    worst = f", one with a lead of {max(leads):.2f}" if max(leads) > NEAR_TIE else ""
    return f"{equal} of {len(leads)} equal, {ties} equal up to a near tie{worst}"


def _choices(
    check: GpuCheck, models: Models, type_name: str, name: str, task: tuple[Work, Sequence[str]]
) -> list[TokenChoices]:
    """Return the completions of our server with a number of layers on the GPU."""
    work, prompts = task
    ctx = work.prompt + work.generated + 64
    settings = check.ours.settings(models.layers()[name], 1, ctx, check.rpc)
    patience = min(PATIENCE, check.seconds_left)
    path, ours = models.file(type_name), check.ours.server
    with started(ours, path, check.n_threads, settings, patience=patience) as server:
        return asyncio.run(_ask(server.port, prompts, work.generated))


async def _ask(port: int, prompts: Sequence[str], n_tokens: int) -> list[TokenChoices]:
    found = []
    for prompt in prompts:
        body = json.dumps({**greedy(prompt, n_tokens, stream=False), "logprobs": _TOP}).encode()
        status, answer, _ = await fetch(port, "/v1/completions", method="POST", body=body)
        if status != 200:
            raise BadAnswer(status, answer)
        found.append(TokenChoices.of(json.loads(answer)))
    return found
