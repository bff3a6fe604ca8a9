"""From a completion that somebody asks for to engine requests, and back. Knows nothing of HTTP or JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from serve.decoder import Tokenizer
from serve.prompts import build_prompt
from serve.request import Event, Finished, GenerationRequest, SamplingParams, TextDelta, Usage
from serve.runner import EngineRunner, Job
from turbopilot.errors import Overloaded, TurboPilotError

# How often a waiting answer looks whether its client is still there, in seconds. Tokens wake it earlier.
LOOK_AROUND = 0.05


class ClientGone(Exception):
    """Nobody is there to read the answer."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What is asked for, in every dialect's common terms."""

    prompts: tuple[str, ...]
    max_tokens: int
    suffix: str = ""
    n: int = 1
    stop: tuple[str, ...] = ()
    sampling: SamplingParams = field(default_factory=SamplingParams)


@dataclass(frozen=True, slots=True)
class Choice:
    """One finished text."""

    text: str
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """All choices, in order, and what they cost."""

    choices: tuple[Choice, ...]
    usage: Usage


class Generation:
    """A completion under way: iterate `events`, or `collect` them."""

    def __init__(self, job: Job, *, n: int, truncated: tuple[str, ...]) -> None:
        self._job = job
        self._n = n
        self._usages: dict[int, Usage] = {}
        self.truncated = truncated

    @property
    def usage(self) -> Usage:
        """Token counts of what has finished. A prompt counts once, however many choices it has."""
        firsts = [u for i, u in self._usages.items() if i % self._n == 0]
        return Usage(
            sum(u.prompt_tokens for u in firsts),
            sum(u.completion_tokens for u in self._usages.values()),
            sum(u.cached_tokens for u in firsts),
        )

    def events(self, is_gone: Callable[[], bool]) -> Iterator[tuple[int, Event]]:
        """(Index of the choice, event) as they come, until every choice has finished.

        Whoever stops iterating, or whose client `is_gone`, frees the engine.

        Raises:
            ClientGone: the client left.
            TurboPilotError: a choice could not be finished.
        """
        try:
            while not self._job.is_finished:
                item = self._job.next_event(LOOK_AROUND)
                if is_gone():
                    raise ClientGone
                if item is None:
                    continue
                index, event = item
                if isinstance(event, Finished):
                    if event.error:
                        raise event.error
                    if event.reason == "cancelled":
                        raise Overloaded("the server is shutting down")
                    self._usages[index] = event.usage
                yield index, event
        finally:
            self.cancel()

    def collect(self, is_gone: Callable[[], bool]) -> Answer:
        """Wait for all choices. Raises as `events` does."""
        texts: dict[int, str] = {}
        reasons: dict[int, str] = {}
        for index, event in self.events(is_gone):
            if isinstance(event, TextDelta):
                texts[index] = texts.get(index, "") + event.text
            else:
                reasons[index] = event.reason
        choices = tuple(Choice(texts.get(i, ""), reasons[i]) for i in sorted(reasons))
        return Answer(choices, self.usage)

    def cancel(self) -> None:
        """Free the engine; harmless when the job has ended."""
        if not self._job.is_finished:
            self._job.cancel()


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the server tells of its model."""

    name: str
    n_ctx: int
    created: int


class CompletionService:
    """Turns completions into jobs of the runner.

    Args:
        runner: computes them.
        tokenizer: of the runner's model.
        model: of which the answers speak.
    """

    def __init__(self, runner: EngineRunner, tokenizer: Tokenizer, model: ModelInfo) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self.model = model

    @property
    def failure(self) -> TurboPilotError | None:
        """Why no completion can be computed any more, if so."""
        return self._runner.failure

    @property
    def n_jobs(self) -> int:
        """Jobs that wait or run."""
        return self._runner.n_jobs

    def start(self, completion: Completion) -> Generation:
        """Queue a completion: for each prompt, `n` choices.

        Raises:
            Overloaded: too many wait already.
            DecoderFailed: the engine has died.
        """
        requests = []
        truncated: dict[str, None] = {}
        for text in completion.prompts:
            prompt = build_prompt(
                self._tokenizer,
                text,
                completion.suffix,
                n_ctx=self.model.n_ctx,
                max_tokens=completion.max_tokens,
            )
            truncated |= dict.fromkeys(prompt.truncated)
            requests += [
                GenerationRequest(
                    prompt.tokens,
                    prompt.max_tokens,
                    completion.stop,
                    replace(completion.sampling, stream=choice),
                )
                for choice in range(completion.n)
            ]
        job = self._runner.submit(requests)
        return Generation(job, n=completion.n, truncated=tuple(truncated))
