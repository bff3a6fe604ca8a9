"""A loaded model, which turns completions into requests to the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

from serve.decoder import Tokenizer
from serve.prompt.chat_template import ChatTemplate, Message
from serve.prompt.fim import CHARS_PER_TOKEN, ContextFile, PromptBuilder, PromptText
from serve.request import GenerationRequest, SamplingParams, StopRules
from serve.runner import EngineRunner, Generation
from serve.settings import FimOrder, Limits
from turbopilot.base.errors import InvalidRequest

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
        stop: `follows` is ignored; it is set from the suffix.
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
    sampling: SamplingParams = field(default_factory=SamplingParams)
    logit_bias: tuple[tuple[int | str, float], ...] = ()
    n_logprobs: int | None = None
    scores_prompt: bool = False
    deadline: float | None = None
    predict_time: float | None = None
    prediction: str = ""
    session: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts about a model that clients can see; those with defaults come from its file.

    Attributes:
        created: Unix time in seconds.
        n_bytes: size of the file.
        digest: SHA-256 in hexadecimal that changes with the file.
        main_type: quantization type of most weights.
        can_chat: whether there is a chat template.
        can_fill: whether the model has tokens for fill-in-the-middle.
    """

    name: str
    n_ctx: int
    n_vocab: int
    created: int
    n_bytes: int = 0
    n_weights: int = 0
    digest: str = ""
    architecture: str = ""
    main_type: str = ""
    can_chat: bool = False
    can_fill: bool = False


State: TypeAlias = Literal["unloaded", "loading", "ok", "stalled", "draining", "failed"]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """State of a model, for `/health` and `/metrics`.

    Attributes:
        state: "unloaded": the first request for the model loads it; "stalled": a step exceeds its time limit;
            "failed": it could not be loaded, or its engine failed permanently.
        waiting: requests in the queue, or waiting for the model to be loaded.
        loads: number of times that the model was loaded.
        refused: number of completions refused because the queue was full.
        restarts: number of times that the engine failed and was restarted.
        reason: reason of "failed" and "stalled", else "".
    """

    name: str
    state: State
    running: int = 0
    waiting: int = 0
    loads: int = 1
    refused: int = 0
    restarts: int = 0
    reason: str = ""


class CompletionService:
    """A loaded model. Callable from any thread.

    Args:
        runner: computes the requests.
        tokenizer: tokenizer of the runner's model.
        model: name and sizes of the model, for responses.
        limits: limits for all completions.
        fim_order: order of prefix and suffix in prompts.
        free: called after the runner has stopped, to free the model's memory.
    """

    def __init__(
        self,
        runner: EngineRunner,
        tokenizer: Tokenizer,
        model: ModelInfo,
        limits: Limits | None = None,
        fim_order: FimOrder = "psm",
        free: Callable[[], None] = lambda: None,
    ) -> None:
        self.runner = runner
        self._tokenizer = tokenizer
        self._limits = limits or Limits()
        self._prompts = PromptBuilder(tokenizer, model.n_ctx, self._limits.max_prompt, fim_order)
        self._free = free
        self._template: ChatTemplate | None = None
        if source := tokenizer.chat_template:
            self._template = ChatTemplate(source, bos=tokenizer.bos, eos=tokenizer.eos)
        self.model = model
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
        )

    @cached_property
    def _schemas(self) -> SchemaVocabulary:
        from serve.sampling.json_schema import SchemaVocabulary  # few requests need it

        return SchemaVocabulary(self._tokenizer, self.model.n_vocab)

    def close(self) -> None:
        """Stop the engine and free the model's memory."""
        self.runner.close()
        if self._template:
            self._template.close()
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
        stop = replace(c.stop, follows=(c.suffix or "")[:MAX_FOLLOWS])
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
            requests += [
                GenerationRequest(
                    prompt.tokens,
                    prompt.max_tokens,
                    stop,
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
