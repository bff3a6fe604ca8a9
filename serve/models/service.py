"""A loaded model, which turns completions into requests to the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from serve.adapters import AdapterScales
from serve.decoder import Tokenizer
from serve.models.completion import Completion
from serve.models.status import ModelInfo, ModelStatus, State
from serve.prompt.chat_template import ChatTemplate, Message
from serve.prompt.fim import CHARS_PER_TOKEN, PromptBuilder, PromptText
from serve.prompt.framed_prompt import Prompt
from serve.prompt.next_edit import FORMATS, NextEditFormat
from serve.prompt.region_prompt import find_regions
from serve.request import GenerationRequest
from serve.runner import Generation
from serve.runner.contract import Runner
from serve.sampling.healing import Healing, PieceIndex, heal
from serve.settings import Limits, TextOptions
from turbopilot.base.errors import DeviceLost, InvalidRequest
from turbopilot.llama.device_use import DeviceUse
from turbopilot.llama.worker_link import WorkerLink

if TYPE_CHECKING:
    from serve.sampling.json_schema import SchemaVocabulary
    from serve.upstream.upstream_set import UpstreamSet

# Number of characters of the suffix that a completion is compared with, to end it before it repeats the suffix.
MAX_FOLLOWS = 4096


class CompletionService:
    """A loaded model. Callable from any thread.

    Args:
        runner: computes the requests.
        tokenizer: tokenizer of the runner's model.
        model: name and sizes of the model, for responses.
        limits: limits for all completions.
        text: how prompts are built, and what ends completions.
        free: called after the runner has stopped, to free the model's memory.

    Attributes:
        adapters: the model's LoRA adapters; set before the first request.
    """

    def __init__(
        self,
        runner: Runner,
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
        self.adapters = AdapterScales()
        self._prompts = PromptBuilder(tokenizer, model.n_ctx, self._limits.max_prompt)
        self._free = free
        self._template: ChatTemplate | None = None
        if source := tokenizer.chat_template:
            self._template = ChatTemplate(source, bos=tokenizer.bos, eos=tokenizer.eos)
        self.model = model
        self.devices: tuple[DeviceUse, ...] = ()  # what is in main memory and on each device
        self.links: tuple[WorkerLink, ...] = ()  # links to workers with a part of the model
        self._unwatch: list[Callable[[], None]] = []
        self.upstreams: UpstreamSet | None = None  # those that compute it
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
            upstreams=self.upstreams.statuses if self.upstreams else (),
        )

    @cached_property
    def _pieces(self) -> PieceIndex:
        return PieceIndex(self._tokenizer, self.model.n_vocab)

    @cached_property
    def _schemas(self) -> SchemaVocabulary:
        from serve.sampling.json_schema import SchemaVocabulary  # few requests need it

        return SchemaVocabulary(self._tokenizer, self.model.n_vocab)

    def watch_workers(self, handler: Callable[[DeviceLost], None]) -> None:
        """Call `handler`, in any thread, when a worker with a part of the model is lost, until `close`."""
        self._unwatch += [link.watch(handler) for link in self.links]

    def close(self) -> None:
        """Stop the engine and free the model's memory."""
        for unwatch in self._unwatch:
            unwatch()
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
            InvalidRequest: the JSON schema cannot be used, or there is no such LoRA adapter.
        """
        c, limits, adapters = completion, self._limits, self.adapters.chosen(completion.lora)
        most = c.max_tokens if limits.max_tokens is None else min(c.max_tokens, limits.max_tokens)
        best_of = max(c.n, c.best_of)
        deadlines = [d for d in (c.deadline, limits.deadline) if d is not None]
        capped = ("max_tokens",) if most < c.max_tokens else ()
        truncated: dict[str, None] = {}
        bias, context = self._bias(c), self._context(c)
        loops = c.ends_loops and self._text.ends_loops
        stop = replace(c.stop, follows=(c.suffix or "")[:MAX_FOLLOWS], loops=loops)
        samplings = [replace(c.sampling, logit_bias=bias, stream=i) for i in range(best_of)]
        # Here and not in the engine's thread, where other requests would wait for it.
        needs_constraint = c.sampling.schema and not self.runner.is_remote
        constraint = self._schemas.constraint(c.sampling.schema) if needs_constraint else None
        requests: list[GenerationRequest] = []
        for before in c.prompts:
            is_alone = c.suffix is None and not c.files
            # The client may have framed the prompt for a next-edit model.
            framed = find_regions(before) if is_alone and isinstance(before, str) else None
            prompt = self._prompts.build(
                before, c.suffix, max_tokens=most, files=c.files, name=c.filename, framed=framed
            )
            truncated |= dict.fromkeys(prompt.truncated + capped)
            line = before.rpartition("\n")[2] if isinstance(before, str) else ""
            healing = None if framed else self._healing(c, before, prompt)
            requests += [
                GenerationRequest(
                    prompt.tokens,
                    prompt.max_tokens,
                    # Rewritten code may repeat lines.
                    replace(stop, line=line, loops=stop.loops and not framed),
                    sampling,
                    # `best_of` ranks texts by their log probabilities.
                    n_logprobs=0 if c.n_logprobs is None and c.best_of > c.n else c.n_logprobs,
                    scores_prompt=c.scores_prompt,
                    deadline=min(deadlines, default=None),
                    predict_time=c.predict_time,
                    reports_usage=c.reports_usage,
                    window=prompt.window,
                    context=context,
                    prediction=c.prediction or (framed.expected if framed else ""),
                    constraint=constraint and constraint.copy(),
                    healing=healing,
                    adapters=adapters,
                    file=c.filename,
                    is_low=c.is_low,
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

    def _healing(self, c: Completion, before: PromptText, prompt: Prompt) -> Healing | None:
        """Take the tokens that the completion re-spells from the prompt, and return them; None if there are none."""
        if c.respells:
            if unknown := [t for t in c.respells if t >= self.model.n_vocab]:
                raise InvalidRequest(f"the model has no token {unknown[0]}", param="respells")
            text = b"".join(map(self._pieces.piece, c.respells))
            return Healing(c.respells, text, self._pieces, prompt.cursor) if text else None
        if not self._can_heal(c, before):
            return None
        keep = int(len(prompt.before) == prompt.n_tokens)  # a prompt has at least one token
        found = heal(prompt.before, self._pieces, keep=keep)
        return found and replace(found, at=prompt.cursor)

    def _can_heal(self, c: Completion, before: PromptText) -> bool:
        """Return whether a completion may re-spell the end of its prompt.

        With log probabilities of several tokens, a bias or a schema, the client decides about each token.
        """
        is_free = not (c.n_logprobs or c.scores_prompt or c.logit_bias or c.sampling.schema)
        is_text = isinstance(before, str) and c.heals and c.max_tokens > 0
        return self._text.heals and is_text and is_free and c.best_of <= c.n

    @property
    def next_edit(self) -> NextEditFormat:
        """Format of the model's next-edit prompts.

        Raises:
            InvalidRequest: the model is not a next-edit model.
        """
        if form := FORMATS.get(self._text.next_edit):
            return form
        raise InvalidRequest(
            f"{self.model.name} is not a next-edit model: serve one of these (turbopilot models), or name its format "
            f"with --next-edit-format {'|'.join(FORMATS)}",
            param="model",
        )

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

    def tokens(self, text: str, *, add_start: bool, parse_special: bool) -> list[int]:
        """Return the tokens of a text; with `add_start` after the start token, if the model's prompts begin with it."""
        t = self._tokenizer
        start = [t.start_token] if add_start and t.adds_bos else []
        return [*start, *t.tokenize(text, parse_special=parse_special)]

    def named_piece(self, token: int) -> bytes:
        """Return the bytes of a token; for a special token its name."""
        return self._tokenizer.named_piece(token)

    @property
    def fim_layout(self) -> str:
        """Name of the layout of fill-in-the-middle prompts; "" if the model does not support them."""
        fim = self._tokenizer.fim
        return fim.chosen.name if fim else ""

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


def close_all(services: Sequence[CompletionService]) -> None:
    """Close all services in order, even if closing one fails."""
    with ExitStack() as closing:
        for service in reversed(services):  # the last callback is called first
            closing.callback(service.close)
