"""`turbopilot verify`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from turbopilot.base.errors import InvalidInput, VerificationFailed, did_you_mean
from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.formats.gguf.digest import Digests
    from turbopilot.verify import VerifyReport
    from turbopilot.verify.torch_model import Precision

_PRECISIONS: Final[tuple[Precision, ...]] = ("f32", "bf16")


def verify(
    candidates: Annotated[
        list[Path],
        typer.Argument(metavar="FILE.gguf...", help="Files to judge: GGUF, or old ggml .bin."),
    ],
    against: Annotated[
        str,
        typer.Option(
            help="The checkpoint that it was made of: a folder, a known model's name, owner/name on the Hub, or 'demo' "
            "for the bundled one. Or another GGUF file, to see what was lost since that."
        ),
    ],
    positions: Annotated[
        int | None,
        typer.Option(
            min=1, help="About how many positions to compare.  [default: 4000]", show_default=False
        ),
    ] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="The whole context, however long, and every position of it."),
    ] = False,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Compare logits on these prompts instead: a text file, a line of %% between two prompts."
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(help="Compare the tokens of this text too, besides the built-in battery."),
    ] = None,
    tensors: Annotated[
        bool,
        typer.Option(
            "--tensors", help="Compare every tensor too, and show those that are furthest off."
        ),
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with plots, to be read in a browser.")
    ] = None,
    sign: Annotated[
        bool,
        typer.Option(
            "--sign",
            help="Where it passes, write the result into the file's metadata; no tensor is touched.",
        ),
    ] = False,
    device: Annotated[
        str, typer.Option(help="Where PyTorch runs the checkpoint: cpu, cuda, cuda:1, mps.")
    ] = "cpu",
    dtype: Annotated[
        str,
        typer.Option(help="How precisely it does: f32, or bf16, which is itself off by a little."),
    ] = "f32",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report as one JSON object.")
    ] = False,
) -> None:
    """Prove that a GGUF file is still the model that it was made of.

    PyTorch runs the checkpoint in FP32 and llama.cpp runs the file, on the same texts. First the token ids
    must be the same; then the logits must agree within what the file's type may lose: on code in many
    languages, at the end of the context, and in prompts with a hole to fill. A fault in a conversion
    (swapped tensors, a wrong rotation, a lost bias) fails, and the report says which it is.

    PyTorch's part is kept, so that a second file of the same model takes seconds. A model that is larger
    than memory is read from disk layer by layer.

    Exit code 7 means that a file failed.

    Example: turbopilot verify codegen-q4_0.gguf --against ./codegen-350M-mono

    Example: turbopilot verify codegen-*.gguf --against codegen-350M-mono --report codegen.html
    """
    from turbopilot.app import verification
    from turbopilot.app.cached_artifacts import cache_folder
    from turbopilot.base.atomic import check_output
    from turbopilot.verify import VerifyOptions
    from turbopilot.verify import verify as run_verify
    from turbopilot.verify.texts import read_prompts, read_text, token_battery
    from turbopilot.verify.torch_model import TorchDevice
    from turbopilot.verify.windows import POSITIONS

    if prompts and (full or positions):
        raise InvalidInput(
            "--prompts are compared at every position", hint="leave out --full and --positions"
        )
    if full and positions:
        raise InvalidInput("--full and --positions exclude each other", hint="give one of them")
    options = VerifyOptions(
        prompts=read_prompts(prompts) if prompts else None,
        texts={**token_battery(), str(text): read_text(text)} if text else None,
        positions=positions or POSITIONS,
        full=full,
        device=TorchDevice(device, _precision(dtype)),
        cache=cache_folder() / "reference",
        tensors=tensors,
    )
    if report:
        check_output(report, force=True, inputs=tuple(candidates))
    source = verification.resolve_reference(against, console.REPORTER)
    if sign and source.is_file():
        raise InvalidInput(
            f"--sign with --against {against}: only a comparison with the checkpoint can be signed",
            hint="name the checkpoint, or leave out --sign",
        )
    files = [verification.resolve_candidate(path, source, console.REPORTER) for path in candidates]
    before = _digests(files) if sign else {}
    with console.progress("verify") as progress:
        target = verification.target_of(source)
        reports = list(run_verify(files, source, options, target=target, progress=progress))
    _show(reports, as_json)
    if report:
        _write_page(report, reports, source)
    for one in reports:
        if sign and one.passed:
            _sign(one, before[Path(one.candidate)], against)
    if failed := [one for one in reports if not one.passed]:
        raise _failed(failed, against)


def _precision(dtype: str) -> Precision:
    for name in _PRECISIONS:
        if dtype.lower() == name:
            return name
    raise InvalidInput(f"--dtype {dtype}: no such type", hint=did_you_mean(dtype, _PRECISIONS))


def _show(reports: list[VerifyReport], as_json: bool) -> None:
    from turbopilot.render import verify as verify_text

    if as_json and len(reports) == 1:
        console.emit_json(reports[0].to_json())
    elif as_json:
        console.emit_json({"reports": [r.to_json() for r in reports]})
    else:
        verify_text.show(reports)


def _write_page(path: Path, reports: list[VerifyReport], source: Path) -> None:
    from turbopilot.base.atomic import replacing
    from turbopilot.render.verify_page import render
    from turbopilot.verify.reference_tokenizer import open_tokenizer

    text_of: Callable[[int], str] | None = None
    if source.is_dir():
        tokenizer = open_tokenizer(source)
        text_of = lambda token: tokenizer.decode([token])  # noqa: E731
    with replacing(path) as part:
        part.write_text(render(reports, text_of), "utf-8", errors="replace")
    console.info(f"report: {path}")


def _digests(files: list[Path]) -> dict[Path, Digests]:
    """Return digests from before the comparison: what is signed must be what was measured."""
    from turbopilot.formats.gguf.digest import digests
    from turbopilot.formats.gguf.edit import check_editable

    for path in files:
        check_editable(path)
    with console.progress("digest") as progress:
        return {path: digests(path, progress) for path in files}


def _sign(report: VerifyReport, digests: Digests, against: str) -> None:
    from turbopilot.app.verification import certificate_of
    from turbopilot.formats.gguf.certificate import sign

    with console.progress("sign") as progress:
        sign(Path(report.candidate), certificate_of(report, digests, against), progress)
    console.info(f"signed: {report.candidate}")


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
