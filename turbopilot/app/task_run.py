"""Completions of programming tasks by GGUF files and their reference, as the server would write them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serve.decoder import Decoder
from serve.device_options import DeviceOptions
from serve.engine import Engine, EngineOptions
from serve.llama import load
from serve.llama.facts import fim_layouts
from serve.models.completion import Completion
from serve.models.loading import host
from serve.request import SamplingParams, StopRules
from serve.runner.generation import Choice
from serve.settings import Limits, ModelOptions
from turbopilot.app.resolve import DEMO, demo_checkpoint
from turbopilot.base.cache_folder import cache_folder
from turbopilot.base.file_digest import file_digests
from turbopilot.base.progress import Progress, Reporter
from turbopilot.catalog import recognize_file
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.formats.gguf.split import files_of
from turbopilot.llama.library import VERSION
from turbopilot.tasks.execution import passes
from turbopilot.tasks.journal import Journal, TaskCompletion
from turbopilot.tasks.report import Outcome, SuiteRun, TaskReport, compare, outcome
from turbopilot.tasks.suite import SUITES, Suite, Task
from turbopilot.verify.torch_model import TorchDevice
from turbopilot.verify.torch_reference import TorchReference

# Tokens of the context. The longest prompt has about 900 with the tokenizers at hand.
_CONTEXT: Final = 2048


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Scope of a comparison of completions.

    Attributes:
        suites: values of `--task`.
        n: number of tasks of each suite; None for all.
        seed: seed of the sample.
        executes: whether to run the completed programs with their tests.
        devices: devices for the layers of GGUF files.
        device: runs a checkpoint.
        keeps: whether completions are kept in the cache folder.
    """

    suites: tuple[str, ...]
    n: int | None = None
    seed: int = 0
    executes: bool = False
    devices: DeviceOptions = DeviceOptions(0)  # noqa: RUF009 — frozen
    device: TorchDevice = TorchDevice()  # noqa: RUF009 — frozen
    keeps: bool = True


@dataclass(frozen=True, slots=True)
class _Model:
    """A model that completes tasks.

    Attributes:
        name: file or folder.
        about: what its completions depend on, apart from the suite.
        layout: layout of its fill-in-the-middle prompts; "" if it has none.
        open: loads it, in a context manager.
    """

    name: str
    about: Mapping[str, object]
    layout: str
    open: Callable[[], AbstractContextManager[Decoder]]


def run_tasks(
    files: Sequence[Path], reference: Path, options: TaskOptions, reporter: Reporter
) -> Iterator[TaskReport]:
    """Complete tasks with GGUF files and their reference; yield a report for each file and suite.

    Completions are greedy, and framed as the server frames prompts. They are kept in the cache folder, so an
    interrupted run can be continued.

    Args:
        files: at least one GGUF file.
        reference: a checkpoint, whose completions PyTorch computes, or a GGUF file.
        options: scope.
        reporter: receives progress.

    Raises:
        InvalidInput: the checkpoint does not fit into memory, or programs cannot be isolated.
    """
    if options.executes:
        passes("")  # before hours of work
    if reference.is_dir():
        judge = _checkpoint(reference, _gguf(files[0], options), options)
    else:
        judge = _gguf(reference, options)
    of_judge: dict[str, SuiteRun] = {}
    for path in files:
        model = _gguf(path, options)
        for suite in (SUITES[name] for name in options.suites):
            tasks = suite.sample(options.n, options.seed)
            if suite.name not in of_judge:
                of_judge[suite.name] = _run(judge, suite, tasks, options, reporter)
            found = _run(model, suite, tasks, options, reporter)
            yield compare(suite, tasks, options.seed, of_judge[suite.name], found)


def _run(
    model: _Model, suite: Suite, tasks: Sequence[Task], options: TaskOptions, reporter: Reporter
) -> SuiteRun:
    with reporter.progress(f"{suite.name} {Path(model.name).name}") as progress:
        completions = _completions(model, suite, tasks, options, progress)
        outcomes = _outcomes(tasks, completions, options, progress)
    return SuiteRun(model.name, model.layout, completions, outcomes)


def _gguf(path: Path, options: TaskOptions) -> _Model:
    """Return a GGUF file as a model."""
    header = read_gguf(path)
    known = recognize_file(header)
    settings = ModelOptions(
        ctx=_CONTEXT,
        n_seq=1,
        tunes=False,
        devices=options.devices,
        known_fim=known.fim if known else "",
    )

    @contextmanager
    def opened() -> Iterator[Decoder]:
        decoder, _ = load(path, settings)
        try:
            yield decoder
        finally:
            decoder.close()

    layouts = fim_layouts(header, settings)
    layout = layouts.chosen.name if layouts else ""
    about = {
        "files": dict(file_digests(files_of(path), cache_folder() / "digests")),
        "llama.cpp": VERSION, "layout": layout, "devices": repr(options.devices),
    }  # fmt: skip
    return _Model(str(path), about, layout, opened)


def _checkpoint(folder: Path, vocabulary: _Model, options: TaskOptions) -> _Model:
    """Return a checkpoint as a model. `vocabulary` is a GGUF file made from it."""
    reference = TorchReference(folder, device=options.device, cache=cache_folder() / "reference")

    @contextmanager
    def opened() -> Iterator[Decoder]:
        with vocabulary.open() as file:
            decoder = reference.decoder(file)
            try:
                yield decoder
            finally:
                decoder.close()

    about = {
        "files": dict(reference.files), "device": options.device.name, "precision": options.device.precision,
        "layout": vocabulary.layout, **reference.versions,
    }  # fmt: skip
    name = DEMO if folder == demo_checkpoint() else str(folder)
    return _Model(name, about, vocabulary.layout, opened)


def _completions(
    model: _Model, suite: Suite, tasks: Sequence[Task], options: TaskOptions, progress: Progress
) -> Mapping[str, TaskCompletion]:
    """Return the completion of each task, from the journal or newly generated."""
    about = {**model.about, "suite": suite.name, "rules": repr(suite), "tasks": _digest(suite)}
    with Journal(cache_folder() / "completions" if options.keeps else None, about) as journal:
        todo = [t for t in tasks if t.name not in journal.known]
        if todo:
            with model.open() as decoder:
                done = len(tasks) - len(todo)
                for task, found in _generated(decoder, suite, todo):
                    journal.add(task.name, found)
                    done += 1
                    progress(done, len(tasks), task.name)
        return journal.known


def _digest(suite: Suite) -> str:
    return hashlib.sha256(repr(suite.tasks).encode()).hexdigest()


def _generated(
    decoder: Decoder, suite: Suite, tasks: Sequence[Task]
) -> Iterator[tuple[Task, TaskCompletion]]:
    """Generate the tasks' completions, each independent of those before it."""
    alone = EngineOptions(drafts=False, reuses=False, shares=False)
    stop = StopRules(strings=suite.stop_strings, single_line=suite.single_line)
    service = host(Engine(decoder, alone), limits=Limits(deadline=None))
    try:
        for task in tasks:
            asked = Completion(
                (task.prefix,),
                suite.max_tokens,
                task.suffix,
                stop=stop,
                sampling=SamplingParams(temperature=0),
                n_logprobs=0,  # to receive the tokens
            )
            (choice,) = service.start(asked, whole=True).collect().choices
            yield task, _completion(choice)
    finally:
        service.close()


def _completion(choice: Choice) -> TaskCompletion:
    first = choice.tokens[0].token.id if choice.tokens else None
    return TaskCompletion(choice.text, first, choice.usage.completion_tokens)


def _outcomes(
    tasks: Sequence[Task],
    completions: Mapping[str, TaskCompletion],
    options: TaskOptions,
    progress: Progress,
) -> Mapping[str, Outcome]:
    found: dict[str, Outcome] = {}
    for i, task in enumerate(tasks):
        text = completions[task.name].text
        passed = passes(task.program(text)) if options.executes else None
        found[task.name] = outcome(task, text, passed)
        if options.executes:
            progress(i + 1, len(tasks), f"test of {task.name}")
    return found
