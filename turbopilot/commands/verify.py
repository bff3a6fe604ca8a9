"""`turbopilot verify`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from turbopilot.base.errors import InvalidInput, VerificationFailed, did_you_mean
from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.verify import Options, Report

_PRECISIONS = ("f32", "bf16")


def verify(
    candidates: Annotated[
        list[Path], typer.Argument(metavar="FILE.gguf...", help="The file to judge, or several.")
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
    from turbopilot.base.atomic import check_output
    from turbopilot.verify import verify as run_verify

    if dtype.lower() not in _PRECISIONS:
        raise InvalidInput(f"--dtype {dtype}: no such type", hint=did_you_mean(dtype, _PRECISIONS))
    if report:
        check_output(report, force=True, inputs=tuple(candidates))
    before = _digests(candidates) if sign else {}
    source, expected = _source(against)
    if sign and source.is_file():
        raise InvalidInput(
            f"--sign with --against {against}: a certificate is of a comparison with the checkpoint",
            hint="name the checkpoint, or leave out --sign",
        )
    options = _options(positions, full, prompts, text, tensors, device, dtype.lower())
    with console.progress("verify") as progress:
        reports = list(
            run_verify(candidates, source, options, expected=expected, progress=progress)
        )
    _show(reports, as_json)
    if report:
        _write_page(report, reports, source)
    for one in reports:
        if sign and one.passed:
            _sign(Path(one.candidate), one, before[Path(one.candidate)], against)
    if failed := [one for one in reports if not one.passed]:
        raise _failed(failed, against)


def _options(
    positions: int | None,
    full: bool,
    prompts: Path | None,
    text: Path | None,
    tensors: bool,
    device: str,
    dtype: str,
) -> Options:
    from turbopilot.app.cached_artifacts import cache_folder
    from turbopilot.verify import Options
    from turbopilot.verify.texts import read_prompts, read_text
    from turbopilot.verify.torch_model import Device
    from turbopilot.verify.windows import POSITIONS

    if prompts and (full or positions):
        raise InvalidInput(
            "--prompts are compared at every position", hint="leave out --full and --positions"
        )
    if full and positions:
        raise InvalidInput("--full and --positions exclude each other", hint="give one of them")
    return Options(
        prompts=read_prompts(prompts) if prompts else None,
        texts={str(text): read_text(text)} if text else None,
        positions=positions or POSITIONS,
        full=full,
        device=Device(device, "bf16" if dtype == "bf16" else "f32"),
        cache=cache_folder() / "reference",
        tensors=tensors,
    )


def _source(against: str) -> tuple[Path, Callable[[], AbstractContextManager[Any]]]:
    """What to compare with, and how to open what its GGUF should hold."""
    from converters import expected
    from turbopilot.app.resolve import resolve_checkpoint

    path = Path(against).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        from turbopilot.verify.gguf_expected import gguf_expected

        return path, lambda: gguf_expected(path)
    folder = resolve_checkpoint(against, console.REPORTER)
    return folder, lambda: expected(folder)


def _show(reports: list[Report], as_json: bool) -> None:
    from turbopilot.render import verify as verify_text

    if as_json and len(reports) == 1:
        console.emit_json(reports[0].to_json())
    elif as_json:
        console.emit_json({"reports": [r.to_json() for r in reports]})
    else:
        verify_text.show(reports)


def _write_page(path: Path, reports: list[Report], source: Path) -> None:
    from turbopilot.base.atomic import replacing
    from turbopilot.render.html.report import render
    from turbopilot.verify.reference_tokenizer import open_tokenizer

    text_of = None
    if source.is_dir():
        tokenizer = open_tokenizer(source)

        def text_of(token: int) -> str:
            return tokenizer.decode([token])

    with replacing(path) as part:
        part.write_text(render(reports, text_of), "utf-8", errors="replace")
    console.info(f"report: {path}")


def _digests(candidates: list[Path]) -> dict[Path, Any]:
    """Of the files as they are before they are verified: what is signed must be what was measured."""
    from turbopilot.formats.gguf.certificate import digests
    from turbopilot.formats.gguf.edit import check_editable

    for path in candidates:
        check_editable(path)
    with console.progress("digest") as progress:
        return {path: digests(path, progress) for path in candidates}


def _sign(path: Path, report: Report, digests: Any, against: str) -> None:
    from turbopilot.formats.gguf.certificate import sign
    from turbopilot.render.verify import certificate

    # Of a folder its name alone: where it lies on this machine is nobody's business.
    name = Path(against).resolve().name if Path(against).exists() else against
    with console.progress("sign") as progress:
        sign(path, certificate(report, digests, name), progress)
    console.info(f"signed: {path}")


def _failed(failed: list[Report], against: str) -> VerificationFailed:
    lines = []
    for report in failed:
        lines.append(
            f"{report.candidate} is not {against} within the limits of {report.type_name}:"
        )
        lines += [f"  {f.message}" for f in report.failures]
        lines += [f"  cause: {f.message}" for f in report.findings]
    return VerificationFailed(
        "\n".join(lines),
        hint="convert and quantize it again; if that fails too, it is a bug: please report it",
    )
