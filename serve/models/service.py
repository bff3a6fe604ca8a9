"""A loaded model, which turns completions into requests to the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from serve.decoder import Tokenizer
from serve.models.status import ModelInfo, ModelStatus, State
from serve.prompt.chat_template import ChatTemplate, Message
from serve.prompt.fim import CHARS_PER_TOKEN, ContextFile, PromptBuilder, PromptText
from serve.request import GenerationRequest, SamplingParams, StopRules
from serve.runner import EngineRunner, Generation
from serve.sampling.healing import PieceIndex, heal
from serve.settings import Limits, TextOptions
from turbopilot.base.errors import InvalidRequest
from turbopilot.llama.device_use import DeviceUse

if TYPE_CHECKING:
    from serve.sampling.json_schema import SchemaVocabulary

# Number of characters of the suffix that a completion is compared with, to end it before it repeats the suffix.
MAX_FOLLOWS = 4096


@dataclass(frozen=True, slots=True)
class Completion:
    """A client's request for completions, independent of the API dialect.

    Attributes:
        prompts: prompts; each is continued separately.
        max_tokens: maximum tokens of each choice; 0 only fills the KV cache.
        suffix: text after the cursor; None for a plain continuation.
        files: other files for the prompt, the most important last.
        filename: name of the edited file; "" if unknown.
        n: number of choices for each prompt.
        best_of: number of texts generated for each prompt; the `n` most likely are the choices. At least `n` are
            generated.
        stop: `follows`, `loops` and `line` are ignored; they are set from the prompt and the server's options.
        heals: whether the completion may re-spell the end of a prompt that is a text.
        sampling: `logit_bias` in it is ignored; see below.
        logit_bias: (token id or text, amount added to the logits of its tokens) pairs.
        n_logprobs, scores_prompt, predict_time: see `GenerationRequest`.
        deadline: time limit in seconds, if it is shorter than the server's; None means the server's.
        prediction: text that the completion is expected to repeat; only a source of draft tokens.
        session: see `GenerationRequest.supersedes`.
    """

    prompts: tuple[PromptText, ...]
    max_tokens: int
    suffix: str | None = None
    files: tuple[ContextFile, ...] = ()
    filename: str = ""
    n: int = 1
    best_of: int = 1
    stop: StopRules = field(default_factory=StopRules)
    heals: bool = True
    sampling: SamplingParams = field(default_factory=SamplingParams)
    logit_bias: tuple[tuple[int | str, float], ...] = ()
    n_logprobs: int | None = None
    scores_prompt: bool = False
    deadline: float | None = None
    predict_time: float | None = None
    prediction: str = ""
    session: str = ""


class CompletionService:
    """A loaded model. Callable from any thread.

    Args:
        runner: computes the requests.
        tokenizer: tokenizer of the runner's model.
        model: name and sizes of the model, for responses.
        limits: limits for all completions.
        text: how prompts are built, and what ends completions.
        free: called after the runner has stopped, to free the model's memory.
    """

    def __init__(
        self,
        runner: EngineRunner,
        tokenizer: Tokenizer,
        model: ModelInfo,
        limits: Limits | None = None,
        text: TextOptions | None = None,
        free: Callable[[], None] = lambda: None,
    ) -> None:
        self.runner = runner
        self._tokenizer = tokenizer
        self._limits = limits or Limits()
        self._text = text or TextOptions()
        self._prompts = PromptBuilder(
            tokenizer, model.n_ctx, self._limits.max_prompt, self._text.fim_order
        )
        self._free = free
        self._template: ChatTemplate | None = None
        if source := tokenizer.chat_template:
            self._template = ChatTemplate(source, bos=tokenizer.bos, eos=tokenizer.eos)
        self.model = model
        self.devices: tuple[DeviceUse, ...] = ()  # what is in main memory and on each device
        self.unwatch: Callable[[], None] = lambda: None  # see `watch_workers`; called by `close`
        self.metrics = runner.metrics

    @property
    def status(self) -> ModelStatus:
        """State of the model. Does not wait for the engine."""
        runner = self.runner
        n_open = runner.n_open
        running = min(runner.metrics.running, n_open)
        stalled = runner.watch.stalled
        working: State = "stalled" if stalled else "draining" if runner.is_draining else "ok"
        return ModelStatus(
            self.model.name,
            "failed" if runner.failure else working,
            running,
            n_open - running,
            refused=runner.n_refused,
            restarts=runner.n_restarts,
            reason=runner.failure.message if runner.failure else stalled,
            devices=self.devices,
        )

    @cached_property
    def _pieces(self) -> PieceIndex:
        return PieceIndex(self._tokenizer, self.model.n_vocab)

    @cached_property
    def _schemas(self) -> SchemaVocabulary:
        from serve.sampling.json_schema import SchemaVocabulary  # few requests need it

        return SchemaVocabulary(self._tokenizer, self.model.n_vocab)

    def close(self) -> None:
        """Stop the engine and free the model's memory."""
        self.runner.close()
        if self._template:
            self._template.close()
        self.unwatch()
        if not self.runner.is_lost:  # llama.cpp would wait for the worker forever
            self._free()

    def start(self, completion: Completion, *, whole: bool = False) -> Generation:
        """Queue the requests of a completion: `best_of` texts for each prompt.

        Args:
            completion: the completion to generate.
            whole: True if the caller will `collect` all events at the end; False to stream them.

        Raises:
            Overloaded: the queue is full.
            DecoderFailed: the engine has failed permanently.
            InvalidRequest: the JSON schema cannot be used.
        """
        c, limits = completion, self._limits
        most = c.max_tokens if limits.max_tokens is None else min(c.max_tokens, limits.max_tokens)
        best_of = max(c.n, c.best_of)
        deadlines = [d for d in (c.deadline, limits.deadline) if d is not None]
        capped = ("max_tokens",) if most < c.max_tokens else ()
        truncated: dict[str, None] = {}
        bias, context = self._bias(c), self._context(c)
        stop = replace(c.stop, follows=(c.suffix or "")[:MAX_FOLLOWS], loops=self._text.ends_loops)
        samplings = [replace(c.sampling, logit_bias=bias, stream=i) for i in range(best_of)]
        schema = c.sampling.schema
        # Here and not in the engine's thread, where other requests would wait for it.
        constraint = self._schemas.constraint(schema) if schema else None
        requests: list[GenerationRequest] = []
        for before in c.prompts:
            prompt = self._prompts.build(
                before, c.suffix, max_tokens=most, files=c.files, name=c.filename
            )
            truncated |= dict.fromkeys(prompt.truncated + capped)
            line = before.rpartition("\n")[2] if isinstance(before, str) else ""
            healing = None
            if self._can_heal(c, before):
                keep = int(len(prompt.before) == prompt.n_tokens)  # a prompt has at least one token
                healing = heal(prompt.before, self._pieces, keep=keep)
            requests += [
                GenerationRequest(
                    prompt.tokens,
                    prompt.max_tokens,
                    replace(stop, line=line),
                    sampling,
                    # `best_of` ranks texts by their log probabilities.
                    n_logprobs=0 if c.n_logprobs is None and c.best_of > c.n else c.n_logprobs,
                    scores_prompt=c.scores_prompt,
                    deadline=min(deadlines, default=None),
                    predict_time=c.predict_time,
                    window=prompt.window,
                    context=context,
                    prediction=c.prediction,
                    constraint=constraint and constraint.copy(),
                    healing=healing,
                )
                for sampling in samplings
            ]
        # A session name ends all earlier requests with that name. Only the first request has it, so that the requests
        # of this completion do not end each other; the runner ends all requests of a generation together.
        requests[0] = replace(requests[0], supersedes=c.session)
        generation = Generation(
            self.runner, requests, whole=whole, n=c.n, best_of=best_of, truncated=tuple(truncated)
        )
        self.runner.submit(generation)
        return generation

    def _can_heal(self, c: Completion, before: PromptText) -> bool:
        """Return whether a completion may re-spell the end of its prompt.

        With log probabilities of several tokens, a bias or a schema, the client decides about each token.
        """
        is_free = not (c.n_logprobs or c.scores_prompt or c.logit_bias or c.sampling.schema)
        is_text = isinstance(before, str) and c.heals and c.max_tokens > 0
        return self._text.heals and is_text and is_free and c.best_of <= c.n

    @property
    def end_token(self) -> int:
        """Id of the end-of-sequence token; the start token's if the model has none."""
        eos = self._tokenizer.tokenize(self._tokenizer.eos, parse_special=True)
        return eos[0] if len(eos) == 1 else self._tokenizer.start_token

    def text(self, prompt: PromptText) -> str:
        """Return a prompt as text."""
        if isinstance(prompt, str):
            return prompt
        known = (t for t in prompt if t < self.model.n_vocab)
        return b"".join(map(self._tokenizer.piece, known)).decode(errors="replace")

    def chat_prompt(self, messages: Sequence[Message]) -> str:
        """Return the prompt for these messages, formatted with the model's chat template.

        Raises:
            InvalidRequest: the model has no chat template, or the template rejects the messages.
        """
        if self._template is None:
            raise InvalidRequest(
                f"{self.model.name} has no chat template; use /v1/completions instead",
                param="messages",
            )
        return self._template.prompt(messages)

    def _context(self, c: Completion) -> tuple[int, ...]:
        """Return tokens outside the prompt to draft from: the prediction, and the suffix if it is not in the prompt."""
        suffix = "" if self._tokenizer.fim else c.suffix or ""
        n_ctx = self.model.n_ctx
        tokens: list[int] = []
        for text in filter(None, (c.prediction, suffix)):
            tokens += self._tokenizer.tokenize(
                text[: n_ctx * CHARS_PER_TOKEN], parse_special=False
            )[:n_ctx]
        return tuple(tokens)

    def _bias(self, c: Completion) -> tuple[tuple[int, float], ...]:
        """Return (token id, bias) pairs. A text stands for all its tokens; out-of-vocabulary ids are ignored.

        llama.cpp's server does the same.
        """
        bias: dict[int, float] = {}
        for token, value in c.logit_bias:
            ids = (
                [token]
                if isinstance(token, int)
                else self._tokenizer.tokenize(token, parse_special=True)
            )
            bias |= {i: value for i in ids if 0 <= i < self.model.n_vocab}
        return tuple(bias.items())
