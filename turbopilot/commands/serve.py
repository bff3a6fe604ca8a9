"""The `turbopilot serve` command."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from serve.log_options import LogOptions
from serve.model_choice import ModelChoice
from serve.options import read_settings
from serve.settings import ServerOptions
from serve.shown_options import shown_options
from turbopilot.base.errors import InvalidInput
from turbopilot.commands.serve_config import read_into
from turbopilot.commands.serve_flags import with_options
from turbopilot.render import console

# Sources of an option's value, in order of precedence; names of click's ParameterSource.
_SOURCES: Final = ("COMMANDLINE", "ENVIRONMENT", "DEFAULT_MAP")


@with_options
def serve(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            envvar="TURBOPILOT_CONFIG",
            is_eager=True,  # before the options that it sets
            callback=read_into,
            help="TOML file with these options, for example parallel = 4, and a table [models] of NAME = "
            '"FILE". Values on the command line override TURBOPILOT_* variables, which override the original '
            "TurboPilot's variables, which override the file.",
            show_default=False,
        ),
    ] = None,
    **given: Any,
) -> None:
    """Serve completions to editors over HTTP.

    Supports the APIs of the original TurboPilot, FauxPilot, OpenAI, llama.cpp and others. To set up an editor, see
    turbopilot editors.

    By default the server accepts connections from this machine only. If you set --host to allow others, set an API
    key too (--api-key-file, or TURBOPILOT_API_KEY). Every option has an environment variable; the original
    TurboPilot's variables THREADS, MODEL, MODEL_TYPE, GPU_LAYERS and BATCHSIZE work too.

    Example: turbopilot serve codegen-q4_0.gguf --port 18080

    Example: turbopilot serve santacoder

    Example: turbopilot serve -m starcoder -f ./models/santacoder-q4_0.bin

    Example: turbopilot serve --model fast=small.gguf --model good=large.gguf
    """
    from serve.http.request_log import set_up
    from serve.http.security import checked_options
    from serve.http.server import serve as serve_http
    from turbopilot.app.served_models import certificate_lines, with_models
    from turbopilot.editors.entries import entries

    choice = _one_default(context, read_settings(ModelChoice, given))
    log = read_settings(LogOptions, given)
    shown = shown_options(given, ModelChoice, ServerOptions, LogOptions)
    options = read_settings(ServerOptions, given, model_file=Path(), shown=shown)
    # With --log-format json, stderr must contain nothing but JSON.
    notify = console.info if log.form == "text" else logging.getLogger("turbopilot.serve").info
    set_up(log)
    options = replace(options, security=checked_options(options.security, warn=notify))
    options = with_models(options, choice, console.REPORTER)
    for line in certificate_lines(options, console.REPORTER):
        notify(line)
    serve_http(options, notify, entries)


def _one_default(context: typer.Context, choice: ModelChoice) -> ModelChoice:
    """Merge `-f` into MODEL, which means the same; the source with the higher precedence applies.

    Raises:
        InvalidInput: both are given by the same source.
    """
    model, file = choice.model, choice.model_file
    if model and file and Path(model) != Path(file):
        names = ("model", "model_file")
        sources = [getattr(context.get_parameter_source(n), "name", "") for n in names]
        if sources[0] == sources[1]:
            raise InvalidInput(f"two models: {model} and -f {file}", hint="give only one of them")
        file = min(zip(sources, (model, file), strict=True), key=lambda s: _SOURCES.index(s[0]))[1]
    return replace(choice, model=file or model, model_file=None)
