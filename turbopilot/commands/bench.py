"""The `turbopilot bench` command."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve.device_options import DeviceOptions
from turbopilot.base.errors import InvalidInput
from turbopilot.base.machine import cpu_name
from turbopilot.commands.verb import AsJson, Devices, takes
from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.app.task_run import TaskOptions
    from turbopilot.bench import Divergence, Setup
    from turbopilot.tasks.report import TaskReport


# fmt: off
@dataclass(frozen=True, slots=True)
class BenchArguments:
    """Arguments of `turbopilot bench`."""

    models: Annotated[list[str], typer.Argument(
        metavar="MODEL", help="GGUF files, checkpoint folders, or model names (see turbopilot models).",
    )]
    against: Annotated[str | None, typer.Option(
        help="Reference for the KL divergence, such as the F16 file that the others were made from.",
    )] = None
    n_prompt: Annotated[int, typer.Option("-p", "--prompt-tokens", min=1, help="Number of prompt tokens.")] = 512
    n_gen: Annotated[int, typer.Option(
        "-n", "--gen-tokens", min=0, help="Number of tokens to generate after the prompt.",
    )] = 64
    repeats: Annotated[int, typer.Option(
        "-r", "--repeats", min=1, help="Number of rounds over all files; the median is shown.",
    )] = 3
    threads: Annotated[list[str] | None, typer.Option(
        "-t", "--threads", help="Number of threads; several values (1,2,4) are measured one by one. Default: one per "
        "processor core.",
    )] = None
    ctx: Annotated[int | None, typer.Option(
        "-c", "--ctx", min=1,
        help="Context in tokens. Default: 2048, less if the model has less, or more if -p and -n need it.",
    )] = None
    cache_type: Annotated[str, typer.Option(help="Type of the KV cache: f16, q8_0, q4_0 …")] = "f16"
    text: Annotated[Path | None, typer.Option(
        help="Text file for the comparison. Default: code in many languages, none of it used by imatrix.",
    )] = None
    positions: Annotated[int | None, typer.Option(
        min=1, help="Number of positions to compare. Default: 1024; more resolve smaller differences.",
    )] = None
    task: Annotated[str | None, typer.Option(
        metavar="NAME", help="Also compare completions of programming tasks with those of --against: infill, span or "
        "complete, as turbopilot verify --task does.",
    )] = None
    n_tasks: Annotated[int | None, typer.Option(
        "--tasks", min=1, show_default=False, help="Number of random tasks of --task.  [default: all]",
    )] = None
    tune: Annotated[bool, typer.Option(
        "--tune", help="Instead, measure which kind of attention is faster here, and keep the result for serve.",
    )] = False
    plot: Annotated[Path | None, typer.Option(
        help="Plot size, KL divergence, speed and solved tasks to this SVG file.",
    )] = None
    devices: Devices = DeviceOptions()  # noqa: RUF009 — frozen
    as_json: AsJson = False
# fmt: on


@takes(BenchArguments)
def bench(given: BenchArguments) -> None:
    """Measure the speed, the memory and the accuracy of model files.

    The speeds are comparable to llama-bench's pp512 and tg64 with -d 512: tokens are generated after the prompt. Each
    round measures every file once, so that a temporary slowdown of the machine affects all of them. With --against,
    the KL divergence from that file is measured too.

    Example: turbopilot bench codegen-f16.gguf codegen-q4_0.gguf

    With --tune, the settings that serve chooses by measurement are measured again and shown.

    Example: turbopilot bench q4_0.gguf q8_0.gguf --against f16.gguf

    Example: turbopilot bench --tune codegen-q4_0.gguf
    """
    from turbopilot.app.resolve import resolve_gguf
    from turbopilot.base.atomic import replacing
    from turbopilot.bench import Cell, Setup, SpeedTask, measure_in_turn
    from turbopilot.render import bench as bench_text
    from turbopilot.render.bench_plot import BenchRow, drawn

    if given.tune:
        _tune(given)
        return
    needing = {"--text": given.text, "--positions": given.positions, "--task": given.task}
    if not given.against and (option := next((o for o, value in needing.items() if value), "")):
        raise InvalidInput(
            f"{option} needs a reference to compare with", hint="give one with --against"
        )
    tasks = _task_options(given)
    setup = Setup(
        n_ctx=given.ctx or max(Setup().n_ctx, given.n_prompt + given.n_gen),
        cache_type=given.cache_type.upper(),
        placement=given.devices.wish,
    )
    setups = _by_threads(setup, given.threads or [])
    found_at = partial(resolve_gguf, reporter=console.REPORTER, wish=setup.placement)
    paths = {name: found_at(name) for name in dict.fromkeys(given.models)}
    reference = found_at(given.against) if given.against else None
    if given.plot:
        _check_plot(given.plot, tuple(paths.values()))
    compared = _compared(reference, paths, given, setups[0]) if reference else {}
    cells = [Cell(path, one) for path in paths.values() for one in setups]
    names = [name for name in paths for _ in setups]
    speed = SpeedTask(given.n_prompt, given.n_gen, given.repeats)
    with console.progress("bench") as progress:
        found = measure_in_turn(cells, speed=speed, progress=progress)
    solved = _solved(reference, paths, tasks) if reference and tasks else {}
    rows = [
        BenchRow(cell.path.name, measured, compared.get(name), solved.get(cell.path))
        for cell, name, measured in zip(cells, names, found, strict=True)
    ]
    if given.as_json:
        console.emit_json(bench_text.as_json(rows, reference))
    else:
        bench_text.show(rows, reference)
    if given.plot:
        with replacing(given.plot) as part:
            part.write_text(drawn(rows), "utf-8", errors="replace")
        console.info(f"plot: {given.plot}")


def _task_options(given: BenchArguments) -> TaskOptions | None:
    """Return the options for `--task`; None without it."""
    from turbopilot.base.option_values import one_of
    from turbopilot.tasks.suite import SUITES

    if not given.task:
        if given.n_tasks:
            raise InvalidInput("--tasks needs --task", hint=f"give --task {'|'.join(SUITES)}")
        return None
    from turbopilot.app.task_run import TaskOptions

    suite = one_of("--task", given.task, SUITES)
    return TaskOptions((suite,), given.n_tasks, devices=given.devices)


def _solved(against: Path, paths: dict[str, Path], tasks: TaskOptions) -> dict[Path, TaskReport]:
    """Return each file's completions compared with the reference's, by path."""
    from turbopilot.app.task_run import run_tasks

    files = list(paths.values())
    return dict(zip(files, run_tasks(files, against, tasks, console.REPORTER), strict=True))


def _tune(given: BenchArguments) -> None:
    """Measure both kinds of attention, store the results for serve, and show them."""
    from serve.llama.loading import tuned
    from serve.settings import ModelOptions
    from turbopilot.app.resolve import resolve_gguf
    from turbopilot.bench import Setup
    from turbopilot.render.table import TableColumns

    if given.against or given.plot or len(given.threads or []) > 1:
        raise InvalidInput(
            "--tune measures only attention", hint="leave out --against, --plot and -t A,B"
        )
    options = ModelOptions(
        ctx=given.ctx,
        threads=_by_threads(Setup(), given.threads or [])[0].n_threads,
        devices=given.devices,
        cache_type=given.cache_type.lower(),
    )
    found = {}
    for name in dict.fromkeys(given.models):
        path = resolve_gguf(name, console.REPORTER, wish=given.devices.wish)
        with console.progress(f"tune {path.name}"):
            found[path] = tuned(path, options)
    if given.as_json:
        files = [{"file": str(p), "chosen": t.name, **asdict(t)} for p, t in found.items()]
        console.emit_json({"cpu": cpu_name(), "files": files})
        return
    columns = TableColumns(
        ("file", "attention", "prefill", "decode", "together", "completion", "chosen"),
        left=("attention", "chosen"),
        optional=("together", "decode", "prefill"),
    )
    rows = [
        [path.name, kind, *(f"{1 / v:,.1f}" for v in (s.prompt, s.decode, s.together)),
         f"{1000 * s.completion:,.0f} ms", "yes" if kind == t.name else ""]
        for path, t in found.items()
        for kind, s in (("flash", t.flash), ("plain", t.plain))
    ]  # fmt: skip
    console.table("", columns, rows, {"prefill, decode, together": "tokens per second"})


def _by_threads(setup: Setup, threads: list[str]) -> list[Setup]:
    """Return one setup for each number of threads in options such as `-t 1,2 -t 4`."""
    counts: list[int] = []
    for word in (word for option in threads for word in option.split(",")):
        if not word.strip().isdecimal() or int(word) < 1:
            raise InvalidInput(
                f"-t {word}: is not a number of threads", hint="give 1 or more, for example -t 1,2"
            )
        counts.append(int(word))
    return [replace(setup, n_threads=n) for n in dict.fromkeys(counts)] or [setup]


def _check_plot(path: Path, models: tuple[Path, ...]) -> None:
    from turbopilot.base.atomic import check_output

    if path.suffix.lower() != ".svg":
        raise InvalidInput(
            f"--plot {path}: only SVG is supported",
            hint=f"give {path.with_suffix('.svg').name}; rsvg-convert or inkscape can convert it to PNG",
        )
    check_output(path, force=True, inputs=models)


def _compared(
    against: Path, paths: dict[str, Path], given: BenchArguments, setup: Setup
) -> dict[str, Divergence]:
    """Return each file's KL divergence from the reference, by name."""
    from turbopilot.bench import POSITIONS, divergence, keep_reference
    from turbopilot.corpus import evaluation_text
    from turbopilot.verify.texts import read_text

    text = read_text(given.text) if given.text else evaluation_text()
    positions = given.positions or POSITIONS
    found = {}
    with tempfile.TemporaryDirectory(prefix="turbopilot-") as folder:
        store = Path(folder) / "reference.logits"
        with console.progress("reference") as progress:
            reference = keep_reference(
                against, text, store, setup, positions=positions, progress=progress
            )
        for name, path in paths.items():
            with console.progress(f"compare {path.name}") as progress:
                found[name] = divergence(path, reference, setup, progress=progress)
    return found
