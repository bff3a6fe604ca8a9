"""Entry point of the `turbopilot` command: a Typer app that turns errors into messages and exit codes.

Commands import their dependencies inside their functions, so that `turbopilot --help` stays fast.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from turbopilot.base.errors import TurboPilotError
from turbopilot.base.version import __version__
from turbopilot.commands import cluster
from turbopilot.commands.bench import bench
from turbopilot.commands.complete import complete
from turbopilot.commands.convert import convert
from turbopilot.commands.doctor import doctor
from turbopilot.commands.download import download
from turbopilot.commands.editors import editors
from turbopilot.commands.imatrix import imatrix
from turbopilot.commands.inspect import inspect
from turbopilot.commands.models import models
from turbopilot.commands.quantize import quantize
from turbopilot.commands.serve import serve
from turbopilot.commands.top import top
from turbopilot.commands.usage import invalid_usage, no_such_command, unexpected_arguments
from turbopilot.commands.verify import verify
from turbopilot.commands.worker import worker

# Typer does not export it, and has its own copy of Click's.
UsageError: Any = typer.BadParameter.__base__


@contextmanager
def errors_shown() -> Iterator[None]:
    """Print an error and its hint to stderr, and exit with the error's exit code.

    This is done here and not in `main`, so that Typer's test runner gets the same output. It raises `typer.Exit`,
    because Typer's vendored copy of click does not know click's own exceptions.
    """
    try:
        yield
    except UsageError as e:
        if type(e).__name__ == "NoArgsIsHelpError":
            raise  # its message is the help
        error = invalid_usage(e)
        fail(error.exit_code, str(error), error.hint)
    except TurboPilotError as e:
        fail(e.exit_code, str(e), e.hint)
    except KeyboardInterrupt:
        fail(130, "interrupted")
    except BrokenPipeError:
        raise  # `turbopilot … | head`: Typer exits silently
    except OSError as e:
        where = f"{e.filename}: " if e.filename else ""
        hint = "check the path, its permissions and the disk space"
        fail(1, f"{where}{e.strerror or e}", hint)
    except MemoryError:
        fail(1, "out of memory", "close other programs, or use a smaller model")


def fail(exit_code: int, message: str, hint: str = "") -> NoReturn:
    """Print an error and exit."""
    from turbopilot.render import console

    console.error(message, hint)
    raise typer.Exit(exit_code)


class ErrorBoundary(TyperGroup):
    """Command group that shows all errors in the same form."""

    def make_context(self, *args: Any, **more: Any) -> Any:
        """Parse the options before the verb."""
        with errors_shown():
            return super().make_context(*args, **more)

    def invoke(self, ctx: Any) -> Any:
        """Parse the verb's arguments and run it."""
        with errors_shown():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the verb and its arguments."""
        if args[0] not in self.commands and not ctx.resilient_parsing:
            raise no_such_command(args[0], self.commands)
        return super().resolve_command(ctx, args)


class VerbCommand(TyperCommand):
    """Command whose help groups options by their `rich_help_panel`, without Rich."""

    allow_extra_args = True  # so that parse_args returns them

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; raise InvalidInput if there are too many."""
        try:
            extra = super().parse_args(ctx, args)
        except UsageError as e:
            e.ctx = e.ctx or ctx  # some errors do not name the verb
            raise
        if extra and not ctx.resilient_parsing:
            raise unexpected_arguments(ctx, extra)
        return extra

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
    name="turbopilot",
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
        "To set up an editor: turbopilot editors\n\n"
        "To check this machine: turbopilot doctor"
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


_ALONE = (models, serve, editors, doctor, worker, top)  # commands that run without arguments
for _command in (
    models, download, convert, imatrix, quantize, verify, serve, complete, top, editors, bench, inspect, doctor, worker,
):  # fmt: skip
    app.command(cls=VerbCommand, no_args_is_help=_command not in _ALONE)(_command)

_cluster = typer.Typer(
    name="cluster",
    cls=ErrorBoundary,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Serve a model from several machines of a Ray cluster (pip install 'turbopilot[cluster]').",
)
for _name, _command in cluster.VERBS.items():
    _cluster.command(_name, cls=VerbCommand)(_command)
app.add_typer(_cluster)


def main() -> None:
    """Run the command line; the entry point of the `turbopilot` script."""
    app(prog_name="turbopilot")
