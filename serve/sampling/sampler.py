"""Choose the tokens of one sequence; the seed decides everything.

Order: logit bias, penalties, then `candidates` (followed by `infill` if asked for), then one draw. Only if a grammar
forbids the drawn token, everything is masked and drawn again, as in llama.cpp (common_sampler_sample in
common/sampling.cpp), since masking a vocabulary costs milliseconds. Both draws of a token have a random number of their
own, and every token uses equally many, so the result depends on how many tokens were generated, never on how they were
batched or drafted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from serve.decoder import Constraint, Decoder, Logits
from serve.request import COLDEST, HOTTEST, ChosenToken, SamplingParams, TokenLogprob
from serve.sampling.candidates import candidates, draw, largest, likeliest
from serve.sampling.infill import MOST_CANDIDATES, certain_or_end, likeliest_end
from serve.sampling.shaping import LogitBias, counted_window, penalize
from turbopilot.base.errors import DecoderFailed, InvalidRequest


class Sampler:
    """Chooses the tokens of one sequence: `pick` one, then `accept` it.

    Args:
        params: how to choose.
        seed: see `seed_sequence`.
        constraint: of `params.grammar`, at its start; used only by this sampler.
        vocab: the tokens' bytes and ends; only `params.infill` needs it.

    Raises:
        InvalidRequest: a bias is not a number.
    """

    def __init__(
        self,
        params: SamplingParams,
        seed: np.random.SeedSequence,
        *,
        constraint: Constraint | None = None,
        vocab: Decoder | None = None,
    ) -> None:
        if params.grammar and constraint is None:
            raise ValueError("a grammar without its constraint would be ignored")
        if params.infill and vocab is None:
            raise ValueError("infill needs the vocabulary")
        if params.temperature > HOTTEST:
            params = replace(params, temperature=HOTTEST)
        self.params = params
        self._constraint = constraint
        self._vocab = vocab
        self._bias = LogitBias(params.logit_bias) if params.logit_bias else None
        self._greedy = params.temperature < COLDEST or params.top_k == 1
        self._infill = params.infill
        # At temperature 0 infill weighs tokens as the model does, and takes the likeliest of those it leaves.
        self._listing = replace(params, temperature=1.0) if self._greedy else params
        self._rng = np.random.default_rng(seed)
        self._numbers: list[float] | None = None  # of the token to come, once one is needed

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        """Return the next token; until `accept`, the same logits give the same token again.

        Args:
            logits: (V,), as the model gave them; never written to.
            history: the sequence so far, prompt included.

        Raises:
            DecoderFailed: the logits hold NaN or nothing finite.
            InvalidRequest: the bias or the grammar leaves no token.
        """
        shaped = self._shaped(logits, history)
        best = int(shaped.argmax())  # finds a NaN, too
        if not math.isfinite(shaped[best]):
            raise _unusable(logits)
        token = self._choose(shaped, best, 0)
        if self._constraint is None or self._constraint.allows(token):
            return token
        masked = self._constraint.mask(shaped)
        best = int(masked.argmax())
        if not math.isfinite(masked[best]):
            raise InvalidRequest(
                "the JSON schema leaves none of the model's tokens to choose",
                param="json_schema",
            )
        return self._choose(masked, best, 1)

    def accept(self, token: int) -> None:
        """Take a token; the next `pick` is for the one after it."""
        if not self._greedy and self._numbers is None:  # a token that was never drawn counts, too
            self._drawn(0)
        self._numbers = None
        if self._constraint is not None:
            self._constraint.accept(token)

    def _shaped(self, logits: Logits, history: Sequence[int]) -> Logits:
        if self._bias is None and not self.params.penalizes:
            return logits
        shaped: Logits = logits.copy()
        if self._bias is not None:
            self._bias.add_to(shaped)
        if self.params.penalizes:
            window = counted_window(history, self.params.repeat_last_n)
            penalize(shaped, window, self.params)
        return shaped

    def _choose(self, logits: Logits, best: int, attempt: int) -> int:
        if self._infill:
            return self._choose_infill(logits, best, attempt)
        if self._greedy:
            return best
        ids, weights, _ = candidates(logits, self.params, best)
        at = draw(weights, self._drawn(attempt))
        return at if ids is None else int(ids[at])

    def _choose_infill(self, logits: Logits, best: int, attempt: int) -> int:
        assert self._vocab is not None
        ids, weights = likeliest(candidates(logits, self._listing, best), MOST_CANDIDATES)
        kept = certain_or_end(ids.tolist(), weights, self._vocab)
        if not kept:
            end = likeliest_end(logits, self._vocab)
            return best if end is None else end
        if self._greedy:
            return int(ids[kept[0]])
        return int(ids[kept[draw(weights[kept], self._drawn(attempt))]])

    def _drawn(self, attempt: int) -> float:
        """Return the random number for the next token: at the first attempt, or the one under the grammar's mask."""
        if self._numbers is None:
            self._numbers = self._rng.random(1 if self._constraint is None else 2).tolist()
        return self._numbers[attempt]


def seed_sequence(seed: int, stream: int) -> np.random.SeedSequence:
    """Return the seed of one choice: the client's number (modulo 2⁶⁴, as it may be negative) and its index."""
    return np.random.SeedSequence([seed % 2**64, stream])


def logprobs(logits: Logits, token: int, n: int, piece: Callable[[int], bytes]) -> ChosenToken:
    """Return the chosen token and the n likeliest, each with its log probability.

    Args:
        logits: (V,), as the model gave them; not changed.
        token: the chosen one.
        n: how many of the likeliest; tokens that the model makes impossible are left out.
        piece: the bytes of a token.
    """
    x = logits.astype(np.float64)
    x -= x.max()
    log_sum = float(np.log(np.exp(x).sum()))

    def scored(id_: int) -> TokenLogprob:
        return TokenLogprob(id_, piece(id_), float(x[id_]) - log_sum)

    likeliest = largest(logits, n) if n > 0 else ()
    return ChosenToken(scored(token), tuple(scored(int(i)) for i in likeliest))


def _unusable(logits: Logits) -> DecoderFailed | InvalidRequest:
    """Return why no token can be chosen: by the model's fault, or the request's."""
    if math.isfinite(logits[np.argmax(logits)]):
        return InvalidRequest("logit_bias leaves no token to choose", param="logit_bias")
    return DecoderFailed(
        "the model computed NaN or infinite logits",
        hint="the file is damaged or was quantized too coarsely: verify it with turbopilot verify",
    )
