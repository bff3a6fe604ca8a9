"""Entry point of the `turbopilot` command: a Typer app that turns errors into messages and exit codes.

Commands import their dependencies inside their functions, so that `turbopilot --help` stays fast.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from turbopilot.base.errors import TurboPilotError
from turbopilot.base.version import __version__
from turbopilot.commands.bench import bench
from turbopilot.commands.convert import convert
from turbopilot.commands.download import download
from turbopilot.commands.editors import editors
from turbopilot.commands.imatrix import imatrix
from turbopilot.commands.inspect import inspect
from turbopilot.commands.models import models
from turbopilot.commands.quantize import quantize
from turbopilot.commands.serve import serve
from turbopilot.commands.verify import verify


class ErrorBoundary(TyperGroup):
    """Command group that prints an error and its hint to stderr and exits with the error's exit code.

    This is done here and not in `main`, so that Typer's test runner gets the same output. It raises `typer.Exit`,
    because Typer's vendored copy of click does not know click's own exceptions.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command and handle its errors."""
        from turbopilot.render import console

        try:
            return super().invoke(ctx)
        except TurboPilotError as e:
            console.error(str(e), e.hint)
            raise typer.Exit(e.exit_code) from e
        except KeyboardInterrupt:
            console.error("interrupted")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            raise  # `turbopilot … | head`: Typer exits silently
        except OSError as e:
            where = f"{e.filename}: " if e.filename else ""
            console.error(
                f"{where}{e.strerror or e}", "check the path, its permissions and the disk space"
            )
            raise typer.Exit(1) from e
        except MemoryError:
            console.error("out of memory", "close other programs, or use a smaller model")
            raise typer.Exit(1) from None


class SectionedCommand(TyperCommand):
    """Command whose help groups options by their `rich_help_panel`, without Rich."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one section for arguments and one for each panel of options."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            is_argument = param.param_type_name == "argument"
            title = getattr(param, "rich_help_panel", None) or "Options"
            if record := param.get_help_record(ctx):
                sections.setdefault("Arguments" if is_argument else title, []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


app = typer.Typer(
    cls=ErrorBoundary,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich would double the time to print the help
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Run code completion on your own machine: convert a Hugging Face checkpoint to GGUF, quantize it, verify it "
        "against PyTorch, and serve it to your editor.\n\n"
        "download → convert → quantize → verify → serve\n\n"
        "To try it with the bundled model: turbopilot serve\n\n"
        "To set up an editor: turbopilot editors"
    ),
)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"turbopilot {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


_ALONE = (models, serve, editors)  # commands that run without arguments
for _command in (
    models, download, convert, imatrix, quantize, verify, serve, editors, bench, inspect,
):  # fmt: skip
    app.command(cls=SectionedCommand, no_args_is_help=_command not in _ALONE)(_command)


def main() -> None:
    """Run the command line; the entry point of the `turbopilot` script."""
    app(prog_name="turbopilot")
