"""The `turbopilot verify` command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from serve.device_options import DeviceOptions
from turbopilot.base.errors import InvalidInput, VerificationFailed
from turbopilot.base.option_values import one_of
from turbopilot.commands.verb import AsJson, OptionGroup, takes
from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.app.task_run import TaskOptions
    from turbopilot.app.verification import VerifiedFiles
    from turbopilot.tasks.report import TaskReport
    from turbopilot.verify import VerifyOptions, VerifyReport


# fmt: off
@dataclass(frozen=True, slots=True)
class VerifyArguments:
    """Arguments of `turbopilot verify`."""

    candidates: Annotated[list[Path], typer.Argument(
        metavar="FILE", help="GGUF or old ggml .bin files to verify.",
    )]
    against: Annotated[str, typer.Option(
        help="Checkpoint that the files were made from: folder, model name, owner/name on the Hub, or 'demo' for the "
        "bundled model. Or a less quantized GGUF file, to measure the loss against that.",
    )]
    positions: Annotated[int | None, typer.Option(
        min=1, show_default=False, help="Approximate number of positions to compare.  [default: 4000]",
    )] = None
    full: Annotated[bool, typer.Option("--full", help="Compare every position of the full context.")] = False
    prompts: Annotated[Path | None, typer.Option(
        help="Text file of prompts to compare the logits on, instead of the built-in texts. A line of %% separates two "
        "prompts.",
    )] = None
    text: Annotated[Path | None, typer.Option(
        help="Text file to compare the tokens of, in addition to the built-in texts.",
    )] = None
    tensors: Annotated[bool | None, typer.Option(
        "--tensors/--no-tensors", show_default=False,
        help="List the tensors with the largest errors; or do not compare every row of every tensor with the "
        "checkpoint.",
    )] = None
    imatrix: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Importance matrix that the files were quantized with. Tensors of the types Q4_0, Q4_1, "
        "Q5_0, Q5_1 and IQ1 to IQ3 are then quantized again, which shows smaller faults of a row.",
    )] = None
    task: Annotated[list[str] | None, typer.Option(
        metavar="NAME", help="Also compare completions of programming tasks: infill (1,033 single lines to fill in), "
        "span (164 random spans), complete (164 functions). Can be repeated.",
    )] = None
    n_tasks: Annotated[int | None, typer.Option(
        "--tasks", min=1, show_default=False, help="Number of random tasks of each --task.  [default: all]",
    )] = None
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of --tasks.")] = 0
    execute: Annotated[bool, typer.Option(
        "--execute", help="Run the completed programs with their tests, each in a sandbox (Linux).",
    )] = False
    report: Annotated[Path | None, typer.Option(help="Write an HTML report with plots to this file.")] = None
    sign: Annotated[bool, typer.Option(
        "--sign", help="Write the result into the metadata of files that pass. Tensors are not changed.",
    )] = False
    device: Annotated[str, typer.Option(help="Device for PyTorch: cpu, cuda, cuda:1, mps.")] = "cpu"
    dtype: Annotated[str, typer.Option(
        help="Precision of PyTorch: f32, or bf16, which adds small rounding errors.",
    )] = "f32"
    devices: Annotated[DeviceOptions, OptionGroup("Devices", leaves_out=("names",))] = (
        DeviceOptions(0)  # noqa: RUF009 — frozen
    )
    as_json: AsJson = False
# fmt: on


@takes(VerifyArguments)
def verify(given: VerifyArguments) -> None:
    """Compare GGUF files with their checkpoint in PyTorch.

    PyTorch runs the checkpoint and llama.cpp runs the file on the same texts. The token ids must be equal, and the
    logits must agree within the limits of the file's type: on code in many languages, up to the end of the context,
    and in fill-in-the-middle prompts. If a file fails because of a conversion bug (swapped tensors, wrong rotary
    embeddings, a lost bias), the report names the cause.

    PyTorch's results are cached, so verifying a second file of the same model takes seconds. A checkpoint larger than
    memory is read from disk layer by layer.

    With --task, both models also complete programming tasks, as the server would ask them to. That takes minutes to
    hours; an interrupted run resumes. The table says how many tasks each solves, and how large a difference could be
    hidden (95 % interval).

    By default the file is computed on the CPU; --ngl all compares the arithmetic of the GPU. --device is PyTorch's.

    The exit code is 7 if a file fails.

    Example: turbopilot verify codegen-q4_0.gguf --against ./codegen-350M-mono

    Example: turbopilot verify q4.gguf q8.gguf --against demo --report out.html

    Example: turbopilot verify q4.gguf --against f16.gguf --task infill --tasks 200
    """
    from turbopilot.app.verification import sign_passed, verify_files
    from turbopilot.base.atomic import check_output
    from turbopilot.render.verify import show

    options = _options(given)
    tasks = _task_options(given, options)
    if given.report:
        against = Path(given.against)
        inputs = [*given.candidates, against, *(p for p in (given.prompts, given.text) if p)]
        folder = against if against.is_dir() else None
        check_output(given.report, force=True, inputs=tuple(inputs), outside=folder)
    verified = verify_files(
        given.candidates,
        given.against,
        options,
        console.REPORTER,
        sign=given.sign,
        imatrix=given.imatrix,
    )
    reports = verified.reports
    if not given.as_json:
        show(reports, listed=given.tensors is True)
    found = _run_tasks(verified, tasks, as_json=given.as_json) if tasks else []
    if given.as_json:
        whole = [r.to_json() for r in reports]
        for one in whole:
            one["tasks"] = [t.to_json() for t in found if t.candidate == one["candidate"]]
        console.emit_json(whole[0] if len(whole) == 1 else {"reports": whole})
    if given.report:
        _write_page(given.report, reports, verified.reference)
    for path in sign_passed(verified, console.REPORTER, found):
        console.info(f"signed: {path}")
    if failed := [r for r in reports if not r.passed]:
        raise _failed(failed, given.against)


def _options(given: VerifyArguments) -> VerifyOptions:
    from turbopilot.base.cache_folder import cache_folder
    from turbopilot.verify import VerifyOptions
    from turbopilot.verify.texts import read_prompts, read_text, token_battery
    from turbopilot.verify.torch_model import Precision, TorchDevice
    from turbopilot.verify.windows import POSITIONS

    if given.prompts and (given.full or given.positions):
        raise InvalidInput(
            "--prompts compares every position", hint="leave out --full and --positions"
        )
    if given.imatrix and given.tensors is False:
        raise InvalidInput(
            "--imatrix is for the comparison of rows, which --no-tensors skips",
            hint="give one of them",
        )
    if given.full and given.positions:
        raise InvalidInput("--full and --positions cannot be combined", hint="give one of them")
    text = given.text
    return VerifyOptions(
        prompts=read_prompts(given.prompts) if given.prompts else None,
        texts={**token_battery(), str(text): read_text(text)} if text else None,
        positions=given.positions or POSITIONS,
        full=given.full,
        device=TorchDevice(given.device, one_of("--dtype", given.dtype, get_args(Precision))),
        cache=cache_folder() / "reference",
        tensors=given.tensors is not False,
        placement=given.devices.wish,
    )


def _task_options(given: VerifyArguments, options: VerifyOptions) -> TaskOptions | None:
    """Return the options for `--task`; None without it."""
    from turbopilot.tasks.suite import SUITES

    if not given.task:
        for option, value in {
            "--tasks": given.n_tasks,
            "--execute": given.execute,
            "--seed": given.seed,
        }.items():
            if value:
                raise InvalidInput(f"{option} needs --task", hint=f"give --task {'|'.join(SUITES)}")
        return None
    from turbopilot.app.task_run import TaskOptions

    names = tuple(dict.fromkeys(one_of("--task", name, SUITES) for name in given.task))
    return TaskOptions(
        names,
        given.n_tasks,
        given.seed,
        given.execute,
        devices=given.devices,
        device=options.device,
    )


def _run_tasks(verified: VerifiedFiles, tasks: TaskOptions, *, as_json: bool) -> list[TaskReport]:
    """Complete the tasks with the files whose tokens are right, and show each report as it is there."""
    from turbopilot.app.task_run import run_tasks
    from turbopilot.render.tasks import show_tasks

    files = [Path(r.candidate) for r in verified.reports if r.metrics and r.tokens.equal]
    if len(files) < len(verified.reports):
        console.info("--task: files with wrong tokens or another vocabulary are left out")
    found = []
    for report in run_tasks(files, verified.reference, tasks, console.REPORTER) if files else ():
        found.append(report)
        if not as_json:
            show_tasks(report)
    return found


def _write_page(path: Path, reports: list[VerifyReport], reference: Path) -> None:
    from turbopilot.base.atomic import replacing
    from turbopilot.render.verify_page import render
    from turbopilot.verify.reference_tokenizer import open_tokenizer

    tokenizer = open_tokenizer(reference) if reference.is_dir() else None
    text_of = (lambda token: tokenizer.decode([token])) if tokenizer else None
    with replacing(path) as part:
        part.write_text(render(reports, text_of), "utf-8", errors="replace")
    console.info(f"report: {path}")


def _failed(failed: list[VerifyReport], against: str) -> VerificationFailed:
    lines = []
    for report in failed:
        limits = f"within the limits of {report.type_name}"
        lines.append(f"{report.candidate} does not match {against} {limits}:")
        lines += [f"  {f.message}" for f in report.failures]
        lines += [f"  cause: {f.message}" for f in report.findings]
    return VerificationFailed(
        "\n".join(lines),
        hint="convert and quantize it again; if it still fails, please report a bug",
    )
