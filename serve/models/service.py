"""From a completion that somebody asks for to engine requests, and back. Knows nothing of HTTP or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from serve.decoder import Tokenizer
from serve.metrics import EngineMetrics
from serve.models.generation import Generation
from serve.prompt.chat_template import ChatTemplate, Message
from serve.prompt.fim import ContextFile
from serve.prompt.window import CHARS_PER_TOKEN, PromptText, build_prompt
from serve.request import GenerationRequest, SamplingParams, StopRules
from serve.runner import EngineRunner
from serve.settings import FimOrder, Limits
from turbopilot.base.errors import InvalidRequest, TurboPilotError

# A suggestion that comes to repeat this much of the text after the cursor is long found out.
MAX_FOLLOWS = 4096


@dataclass(frozen=True, slots=True)
class Completion:
    """What is asked for, in every dialect's common terms.

    Attributes:
        prompts: each is continued on its own.
        max_tokens: to generate for each choice, at most; 0 only warms the cache.
        suffix: the text after the cursor; None where there is no cursor.
        files: others that the model is to know, those that matter most at the end.
        filename: of the file that is edited; "" is unknown.
        n: choices for each prompt.
        best_of: texts that are generated for each prompt, of which the `n` likeliest are the choices; at least `n` are.
        stop: where it ends earlier; `follows` is set from the suffix.
        sampling: how tokens are chosen; without the logit bias, which follows.
        logit_bias: (token id or text, what is added to the logits of its tokens) pairs.
        n_logprobs, scores_prompt: see GenerationRequest.
        deadline: seconds; None is the server's. It only shortens that.
        predict_time: see GenerationRequest.
        session: ends what still runs or waits of an earlier completion of this name; "" is none.
    """

    prompts: tuple[PromptText, ...]
    max_tokens: int
    suffix: str | None = None
    files: tuple[ContextFile, ...] = ()
    filename: str = ""
    n: int = 1
    best_of: int = 1
    stop: StopRules = field(default_factory=StopRules)
    sampling: SamplingParams = field(default_factory=SamplingParams)
    logit_bias: tuple[tuple[int | str, float], ...] = ()
    n_logprobs: int | None = None
    scores_prompt: bool = False
    deadline: float | None = None
    predict_time: float | None = None
    session: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the server tells of its model."""

    name: str
    n_ctx: int
    n_vocab: int
    created: int


@dataclass(frozen=True, slots=True)
class Status:
    """How things stand, for operators.

    Attributes:
        state: "ok" takes requests; "draining" ends what it has; "failed" answers nothing any more.
        running: requests that are computed.
        waiting: requests that are not yet.
        refused: jobs that found the queue full.
        restarts: times that the engine broke and went on.
    """

    state: Literal["ok", "draining", "failed"]
    running: int
    waiting: int
    refused: int
    restarts: int


class CompletionService:
    """Turns completions into jobs of the runner.

    Args:
        runner: computes them.
        tokenizer: of the runner's model.
        model: of which the answers speak.
        limits: what nobody gets more of.
        fim_order: how fill-in-the-middle is framed.
    """

    def __init__(
        self,
        runner: EngineRunner,
        tokenizer: Tokenizer,
        model: ModelInfo,
        limits: Limits | None = None,
        fim_order: FimOrder = "psm",
    ) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self._limits = limits or Limits()
        self._fim_order = fim_order
        self._template: ChatTemplate | None = None
        self.model = model

    @property
    def failure(self) -> TurboPilotError | None:
        """Why no completion can be computed any more, if so."""
        return self._runner.failure

    @property
    def metrics(self) -> EngineMetrics:
        """What the engine counts."""
        return self._runner.metrics

    @property
    def status(self) -> Status:
        """How things stand. Waits for nothing."""
        runner = self._runner
        state: Literal["ok", "draining", "failed"] = "draining" if runner.is_draining else "ok"
        n_open = runner.n_open
        running = min(runner.metrics.running, n_open)
        return Status(
            "failed" if runner.failure else state,
            running,
            n_open - running,
            runner.n_refused,
            runner.n_restarts,
        )

    def start(self, completion: Completion, *, whole: bool = False) -> Generation:
        """Queue a completion: for each prompt, `best_of` texts.

        Args:
            completion: what is wanted.
            whole: whether it will be collected; else its events are handed out as they come.

        Raises:
            Overloaded: too many wait already.
            DecoderFailed: the engine has died.
        """
        requests: list[GenerationRequest] = []
        truncated: dict[str, None] = {}
        n_texts = max(completion.n, completion.best_of)
        for prompt in completion.prompts:
            request, given_up = self._request(completion, prompt)
            truncated |= dict.fromkeys(given_up)
            requests += [
                replace(request, sampling=replace(request.sampling, stream=i))
                for i in range(n_texts)
            ]
        # A name ends whatever bears it already: only one of ours may, and the runner ends them together.
        requests[0] = replace(requests[0], supersedes=completion.session)
        job = self._runner.submit(requests, whole=whole)
        return Generation(
            self._runner, job, n=completion.n, best_of=n_texts, truncated=tuple(truncated)
        )

    def text(self, prompt: PromptText) -> str:
        """A prompt as text."""
        if isinstance(prompt, str):
            return prompt
        known = (t for t in prompt if t < self.model.n_vocab)
        return b"".join(map(self._tokenizer.piece, known)).decode(errors="replace")

    def chat_prompt(self, messages: Sequence[Message]) -> str:
        """Messages as the model was trained to read them.

        Raises:
            InvalidRequest: the model was not, or its template cannot be used.
        """
        if self._template is None:
            t = self._tokenizer
            if not t.chat_template:
                raise InvalidRequest(
                    f"{self.model.name} carries no chat template: it completes text, at /v1/completions",
                    param="messages",
                )
            self._template = ChatTemplate(t.chat_template, bos=t.bos, eos=t.eos)
        return self._template.prompt(messages)

    def _request(
        self, c: Completion, before: PromptText
    ) -> tuple[GenerationRequest, tuple[str, ...]]:
        """A prompt's request, and what was given up so that it fits."""
        n_ctx, limits = self.model.n_ctx, self._limits
        most = c.max_tokens if limits.max_tokens is None else min(c.max_tokens, limits.max_tokens)
        prompt = build_prompt(
            self._tokenizer,
            before,
            c.suffix,
            n_ctx=n_ctx,
            max_tokens=most,
            max_prompt=limits.max_prompt,
            files=c.files,
            name=c.filename,
            order=self._fim_order,
        )
        context: tuple[int, ...] = ()
        if c.suffix and not self._tokenizer.fim:
            after = c.suffix[: n_ctx * CHARS_PER_TOKEN]
            context = tuple(self._tokenizer.tokenize(after, parse_special=False)[:n_ctx])
        deadlines = [d for d in (c.deadline, limits.deadline) if d is not None]
        request = GenerationRequest(
            prompt.tokens,
            prompt.max_tokens,
            replace(c.stop, follows=(c.suffix or "")[:MAX_FOLLOWS]),
            replace(c.sampling, logit_bias=self._bias(c)),
            # The likeliest are to be found.
            n_logprobs=0 if c.n_logprobs is None and c.best_of > c.n else c.n_logprobs,
            scores_prompt=c.scores_prompt,
            deadline=min(deadlines, default=None),
            predict_time=c.predict_time,
            context=context,
        )
        capped = ("max_tokens",) if most < c.max_tokens else ()
        return request, prompt.truncated + capped

    def _bias(self, c: Completion) -> tuple[tuple[int, float], ...]:
        """By token id. Text stands for all of its tokens; ids of other models are nobody's, as in llama.cpp."""
        bias: dict[int, float] = {}
        for token, value in c.logit_bias:
            ids = (
                [token]
                if isinstance(token, int)
                else self._tokenizer.tokenize(token, parse_special=True)
            )
            bias |= {i: value for i in ids if 0 <= i < self.model.n_vocab}
        return tuple(bias.items())
