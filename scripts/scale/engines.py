"""The servers that calibrate the simulator, and what was measured with each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from bench.servers import OURS, Server, started
from bench.trace import BUDGET, debounced, load_trace

from scale import paced
from scale.measure import REPEATS, step_times
from scale.policy import AFFINITY
from scale.replay import Replay
from scale.replica import StepTimes
from scale.simulation import Outcomes, Scenario
from scale.typing_session import Typing, typing_of
from turbopilot.app.resolve import resolve_gguf
from turbopilot.base.progress import Reporter
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.geometry import header_geometry

DATA: Final = Path(__file__).parents[1] / "data" / "scale.json"
PAUSE: Final = 75  # milliseconds after the last key, after which an editor sends a request
SLOTS: Final = 4  # the default of serve --parallel
PACED, BUNDLED = "fixed step times", "bundled model"  # names of subjects
SLOWER: Final = 4.0  # the pace of the comparison of cached tokens
_CACHE: Final = 1 << 30  # bytes of --prefix-cache
# What the simulator leaves out is off: drafts, text that moved, and completions computed ahead.
_PLAIN: Final = "--no-drafts --no-reuse --no-ahead --no-heal --no-end-loops --no-tune"


class PacedServer(Server):
    """The server of `paced`."""

    def command(
        self, model: Path | None, port: int, threads: int, settings: Sequence[str]
    ) -> list[str]:
        return [self.program, str(Path(__file__).with_name("paced.py")), "--port", str(port)]


@dataclass(frozen=True, slots=True)
class Subject:
    """A server to measure: how to start it, its prompts' length in characters, and what its cache holds in tokens."""

    name: str
    server: Server
    model: Path | None
    budget: int
    cache_tokens: int
    settings: tuple[str, ...] = ()


def subjects(model: Path | None) -> list[Subject]:
    """Return the fake model, the bundled model, and `model` if one is given."""
    bundled = resolve_gguf(None, Reporter())
    found = [
        Subject(PACED, PacedServer("paced", sys.executable), None, BUDGET, paced.CACHE_TOKENS)
    ]  # fmt: skip
    for path, name in ((bundled, BUNDLED), (model, model and model.stem)):
        if path is not None and name:
            header = read_gguf(path)
            tokens = _CACHE // header_geometry(header).kv_bytes(1)
            trained = int(str(header.metadata[f"{header.architecture}.context_length"]))
            budget = min(BUDGET, trained * 3 // 2)  # below two characters a token leaves room
            args = [*_PLAIN.split(), "--parallel", str(SLOTS), "--prefix-cache", str(_CACHE)]
            found.append(
                Subject(name, Server(OURS, sys.executable), path, budget, tokens, tuple(args))
            )
    return found


@dataclass(frozen=True, slots=True)
class Run:
    """A replay and its results; `late` is the largest delay of a request that the replay itself caused, in seconds."""

    scenario: Scenario
    measured: Outcomes
    late: float


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """Measurements of one server.

    Attributes:
        name: name of the subject.
        times: step times and what the cache holds.
        characters_per_token: of the prompts.
        budget: most characters of a prompt.
        tokens: mean tokens of a completion.
        runs: replays with one thread for each replica.
    """

    name: str
    times: StepTimes
    characters_per_token: float
    budget: int
    tokens: float
    runs: tuple[Run, ...] = ()

    def typing(self) -> Typing:
        """Return the typing session in this model's tokens."""
        trace = replace(_trace(), max_tokens=max(1, round(self.tokens)))
        return typing_of(trace, list(trace.prompts(self.budget)), self.characters_per_token)


def _trace() -> Any:
    return debounced(load_trace(), PAUSE)


@contextlib.contextmanager
def replicas(subject: Subject, n: int) -> Iterator[list[int]]:
    """Start servers with one thread each; yield their ports."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(started(subject.server, subject.model, 1, subject.settings)).port
            for _ in range(n)
        ]


@contextlib.contextmanager
def front(subject: Subject, load: Scenario, ports: Sequence[int]) -> Iterator[int]:
    """Start `serve --upstream` before the replicas if the load needs it; yield its port, else 0."""
    if not load.front:
        yield 0
        return
    urls = ",".join(f"http://127.0.0.1:{port}/v1" for port in ports)
    with started(subject.server, subject.model, 1, ("--upstream", urls, "--no-heal")) as running:
        yield running.port


def measure(
    subject: Subject, loads: Sequence[Scenario], say: Callable[[str], None]
) -> EngineRecord:
    """Measure the step times of a server, then replay the typing session with each of the loads."""
    trace = _trace()
    prompts = list(trace.prompts(subject.budget))
    texts = [f"# text {i}\n{prompts[17 * i % len(prompts)]}" for i in range(2 * REPEATS + SLOTS)]
    with replicas(subject, 1) as (port,):
        times, per_token = asyncio.run(step_times(port, texts, SLOTS, subject.cache_tokens))
    say(f"{subject.name}: {times}")
    typing = typing_of(trace, prompts, per_token)
    runs = []
    for load in loads:
        with replicas(subject, load.replicas) as ports, front(subject, load, ports) as port:
            replay = Replay(load, typing, prompts, ports, SLOTS, port)
            runs.append(Run(load, asyncio.run(replay.run()), replay.latest))
        say(f"{load}: {runs[-1].measured}")
    counted = [r.measured.tokens for r in runs if r.measured.completions]
    tokens = sum(counted) / len(counted) if counted else trace.max_tokens
    return EngineRecord(subject.name, times, per_token, subject.budget, tokens, tuple(runs))


def loads(subject: str, seconds: float) -> list[Scenario]:
    """Return what is replayed with a subject.

    Affinity is compared at a pace that one replica can serve: else its queue decides what is cached.
    """
    one = Scenario(1, 1, AFFINITY, seconds=seconds, warm_up=seconds * 0.4, spread=False)
    slow = replace(one, typists=16, slower=SLOWER)
    bound = [slow, replace(slow, replicas=4), replace(slow, replicas=4, policy="random")]
    four = replace(one, typists=4)
    if subject == PACED:
        scaled = [replace(one, typists=4 * n, replicas=n) for n in (2, 3, 4)]
        at_random = [replace(s, policy="random") for s in scaled if s.replicas != 3]
        return [four, *scaled, *at_random, *bound]
    if subject == BUNDLED:
        return [four, *bound, replace(slow, replicas=4, front=True)]
    return [one]


def save(records: Sequence[EngineRecord], about: dict[str, Any], path: Path = DATA) -> None:
    """Write what was measured."""
    data = {"about": about, "engines": [asdict(r) for r in records]}
    path.write_text(json.dumps(data, indent=1) + "\n", "utf-8")


def load(path: Path = DATA) -> tuple[dict[str, Any], list[EngineRecord]]:
    """Read what was measured: about the machine, and the records."""
    data = json.loads(path.read_text("utf-8"))
    return data["about"], [_record(e) for e in data["engines"]]


def _record(value: dict[str, Any]) -> EngineRecord:
    times = value["times"] | {"decode": tuple(value["times"]["decode"])}
    runs = tuple(
        Run(Scenario(**r["scenario"]), Outcomes(**r["measured"]), r["late"]) for r in value["runs"]
    )
    return EngineRecord(**(value | {"times": StepTimes(**times), "runs": runs}))
