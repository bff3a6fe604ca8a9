"""`turbopilot verify`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from turbopilot.base.errors import InvalidInput, VerificationFailed
from turbopilot.base.option_values import one_of
from turbopilot.commands.verb import AsJson, takes
from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.verify import VerifyOptions, VerifyReport


# fmt: off
@dataclass(frozen=True, slots=True)
class VerifyArguments:
    """Arguments of `turbopilot verify`."""

    candidates: Annotated[list[Path], typer.Argument(
        metavar="FILE.gguf...", help="Files to verify: GGUF, or old ggml .bin.",
    )]
    against: Annotated[str, typer.Option(
        help="The checkpoint that the files were made from: a folder, a known model's name, owner/name on the Hub, or "
        "'demo' for the bundled one. Or another GGUF file, to see what was lost since that one.",
    )]
    positions: Annotated[int | None, typer.Option(
        min=1, show_default=False, help="About how many positions to compare.  [default: 4000]",
    )] = None
    full: Annotated[bool, typer.Option("--full", help="Compare every position of the whole context.")] = False
    prompts: Annotated[Path | None, typer.Option(
        help="Compare logits on these prompts instead: a text file with a line of %% between two prompts.",
    )] = None
    text: Annotated[Path | None, typer.Option(
        help="Compare the tokens of this text too, besides the built-in texts.",
    )] = None
    tensors: Annotated[bool, typer.Option(
        "--tensors", help="Compare every tensor too, and show those with the largest errors.",
    )] = False
    report: Annotated[Path | None, typer.Option(help="Write an HTML report with plots.")] = None
    sign: Annotated[bool, typer.Option(
        "--sign", help="Write the result into the metadata of files that pass; tensors are not changed.",
    )] = False
    device: Annotated[str, typer.Option(help="Where PyTorch runs the checkpoint: cpu, cuda, cuda:1, mps.")] = "cpu"
    dtype: Annotated[str, typer.Option(
        help="What PyTorch computes in: f32, or bf16, which adds small errors of its own.",
    )] = "f32"
    as_json: AsJson = False
# fmt: on


@takes(VerifyArguments)
def verify(given: VerifyArguments) -> None:
    """Prove that a GGUF file is still the model that it was made from.

    PyTorch runs the checkpoint in FP32 and llama.cpp runs the file, on the same texts. First the token ids
    must be the same; then the logits must agree within the limits of the file's type: on code in many
    languages, at the end of the context, and in prompts with a hole to fill. A fault in a conversion
    (swapped tensors, a wrong rotation, a lost bias) fails, and the report names it.

    PyTorch's results are cached, so that a second file of the same model takes seconds. A model that is larger
    than memory is read from disk layer by layer.

    Exit code 7 means that a file failed.

    Example: turbopilot verify codegen-q4_0.gguf --against ./codegen-350M-mono

    Example: turbopilot verify codegen-*.gguf --against codegen-350M-mono --report codegen.html
    """
    from turbopilot.app.verification import sign_passed, verify_files
    from turbopilot.base.atomic import check_output
    from turbopilot.render.verify import show

    options = _options(given)
    if given.report:
        check_output(given.report, force=True, inputs=tuple(given.candidates))
    verified = verify_files(
        given.candidates, given.against, options, console.REPORTER, sign=given.sign
    )
    reports = verified.reports
    if not given.as_json:
        show(reports)
    elif len(reports) == 1:
        console.emit_json(reports[0].to_json())
    else:
        console.emit_json({"reports": [r.to_json() for r in reports]})
    if given.report:
        _write_page(given.report, reports, verified.reference)
    for path in sign_passed(verified, console.REPORTER):
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
            "--prompts are compared at every position", hint="leave out --full and --positions"
        )
    if given.full and given.positions:
        raise InvalidInput("--full and --positions exclude each other", hint="give one of them")
    text = given.text
    return VerifyOptions(
        prompts=read_prompts(given.prompts) if given.prompts else None,
        texts={**token_battery(), str(text): read_text(text)} if text else None,
        positions=given.positions or POSITIONS,
        full=given.full,
        device=TorchDevice(given.device, one_of("--dtype", given.dtype, get_args(Precision))),
        cache=cache_folder() / "reference",
        tensors=given.tensors,
    )


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
        lines.append(f"{report.candidate} is not {against} {limits}:")
        lines += [f"  {f.message}" for f in report.failures]
        lines += [f"  cause: {f.message}" for f in report.findings]
    return VerificationFailed(
        "\n".join(lines),
        hint="convert and quantize it again; if that fails too, it is a bug: please report it",
    )
