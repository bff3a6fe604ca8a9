"""Sampler of one sequence; the logits and the seed determine its tokens.

Order: logit bias, penalties, `candidates`, `infill` if requested, then one draw. If the JSON schema forbids the drawn
token, the whole vocabulary is masked and a token is drawn again, as in llama.cpp (common_sampler_sample in
common/sampling.cpp). The two draws of a token use separate random numbers, and every token consumes the same number of
them, so the result does not depend on how tokens were batched or drafted.
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
from turbopilot.base.errors import InvalidRequest, UnusableLogits


class Sampler:
    """Chooses the tokens of one sequence: `pick` one, then `accept` it.

    Args:
        params: the sampling parameters.
        seed: see `seed_sequence`.
        constraint: the constraint of `params.schema` in its initial state; used only by this sampler.
        vocab: gives the tokens' bytes and which tokens end generation; needed only for `params.infill`.

    Raises:
        InvalidRequest: a bias is NaN or plus infinity.
    """

    def __init__(
        self,
        params: SamplingParams,
        seed: np.random.SeedSequence,
        *,
        constraint: Constraint | None = None,
        vocab: Decoder | None = None,
    ) -> None:
        if params.schema and constraint is None:
            raise ValueError("params.schema needs a constraint")
        if params.infill and vocab is None:
            raise ValueError("params.infill needs the vocabulary")
        if params.temperature > HOTTEST:
            params = replace(params, temperature=HOTTEST)
        self.params = params
        self._constraint = constraint
        self._vocab = vocab
        self._bias = LogitBias(params.logit_bias) if params.logit_bias else None
        self._greedy = params.temperature < COLDEST or params.top_k == 1
        self._infill = params.infill
        # At temperature 0, infill uses the model's probabilities and takes the likeliest of the remaining tokens.
        self._listing = replace(params, temperature=1.0) if self._greedy else params
        self._rng = np.random.default_rng(seed)
        self._numbers: list[float] | None = None  # random numbers of the next token, once needed

    def pick(self, logits: Logits, history: Sequence[int]) -> int:
        """Return the next token. Until `accept` is called, the same logits give the same token.

        Args:
            logits: (V,), the model's output; not changed.
            history: the sequence so far, including the prompt.

        Raises:
            UnusableLogits: the logits contain NaN, or no finite value.
            InvalidRequest: the bias or the schema allows no token.
        """
        shaped = self._shaped(logits, history)
        best = int(shaped.argmax())  # returns a NaN's position if there is one
        if not math.isfinite(shaped[best]):
            raise _unusable(logits)
        token = self._choose(shaped, best, 0)
        if self._constraint is None or self._constraint.allows(token):
            return token
        masked = self._constraint.mask(shaped)
        best = int(masked.argmax())
        if not math.isfinite(masked[best]):
            raise InvalidRequest(
                "the JSON schema allows none of the model's tokens here",
                param="json_schema",
            )
        return self._choose(masked, best, 1)

    def accept(self, token: int) -> None:
        """Accept a token; the next `pick` chooses the one after it."""
        if not self._greedy and self._numbers is None:  # tokens that were not drawn use numbers too
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
        """Return the next token's random number for attempt 0, or for attempt 1 (after the schema's mask)."""
        if self._numbers is None:
            self._numbers = self._rng.random(1 if self._constraint is None else 2).tolist()
        return self._numbers[attempt]


def seed_sequence(seed: int, stream: int) -> np.random.SeedSequence:
    """Return the seed of one choice, from the client's seed (modulo 2⁶⁴, as it may be negative) and its index."""
    return np.random.SeedSequence([seed % 2**64, stream])


def logprobs(logits: Logits, token: int, n: int, piece: Callable[[int], bytes]) -> ChosenToken:
    """Return the chosen token and the n likeliest tokens, each with its log probability.

    Args:
        logits: (V,), the model's output; not changed.
        token: the chosen token.
        n: number of likeliest tokens; tokens with a logit of minus infinity are left out.
        piece: token id → bytes.
    """
    x = logits.astype(np.float64)
    x -= x.max()
    log_sum = float(np.log(np.exp(x).sum()))

    def scored(id_: int) -> TokenLogprob:
        return TokenLogprob(id_, piece(id_), float(x[id_]) - log_sum)

    likeliest = largest(logits, n) if n > 0 else ()
    return ChosenToken(scored(token), tuple(scored(int(i)) for i in likeliest))


def unscored(token: int, piece: Callable[[int], bytes]) -> ChosenToken:
    """Return a prompt's first token, whose log probability is unknown."""
    return ChosenToken(TokenLogprob(token, piece(token), math.nan), ())


def _unusable(logits: Logits) -> UnusableLogits | InvalidRequest:
    """Return the error for logits from which no token can be chosen, whether the model or the request caused it."""
    if math.isfinite(logits[np.argmax(logits)]):
        return InvalidRequest("logit_bias forbids all tokens", param="logit_bias")
    return UnusableLogits(
        "the model computed NaN or infinite logits",
        hint="the file is damaged or was quantized too coarsely: check it with turbopilot verify",
    )
