"""`turbopilot serve`."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from serve.options import read_settings
from serve.settings import LogOptions, ModelChoice, ServerOptions
from turbopilot.base.errors import InvalidInput
from turbopilot.commands.serve_config import read_into
from turbopilot.commands.serve_flags import with_options
from turbopilot.render import console

# Sources of an option's value, the first goes before the others: names of click's ParameterSource.
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
            help="TOML file of these options, for example parallel = 4, and a table [models] of NAME = "
            '"FILE". The command line overrides TURBOPILOT_* variables, these the original\'s variables, and these '
            "the file.",
            show_default=False,
        ),
    ] = None,
    **given: Any,
) -> None:
    """Serve completions to editors over HTTP.

    Speaks the APIs of the original TurboPilot, FauxPilot, OpenAI and others.

    Listens on this machine alone unless --host is given; then require a key (--api-key-file, or the environment
    variable TURBOPILOT_API_KEY). Each option can be set by such a variable, and the original's THREADS, MODEL,
    MODEL_TYPE, GPU_LAYERS and BATCHSIZE are understood.

    Example: turbopilot serve codegen-q4_0.gguf --port 18080

    Example: turbopilot serve santacoder

    Example: turbopilot serve -m starcoder -f ./models/santacoder-q4_0.bin

    Example: turbopilot serve --model fast=qwen-0.5b.gguf --model good=qwen-7b.gguf --config turbopilot.toml
    """
    from serve.http.request_log import set_up
    from serve.http.security import checked_options
    from serve.http.server import serve as serve_http
    from turbopilot.app.served_models import certificate_lines, with_models

    choice = _one_default(context, read_settings(ModelChoice, given))
    log = read_settings(LogOptions, given)
    options = read_settings(ServerOptions, given, model_file=Path())
    # Nothing but JSON goes to stderr for a collector of JSON.
    notify = console.info if log.form == "text" else logging.getLogger("turbopilot.serve").info
    set_up(log)
    options = replace(options, security=checked_options(options.security, warn=notify))
    options = with_models(options, choice, console.REPORTER)
    for line in certificate_lines(options, console.REPORTER):
        notify(line)
    serve_http(options, notify)


def _one_default(context: typer.Context, choice: ModelChoice) -> ModelChoice:
    """Move -f, which means the same as MODEL, to MODEL, unless MODEL is from a source that goes before it.

    Raises:
        InvalidInput: both are given, in the same place.
    """
    model, file = choice.model, choice.model_file
    if model and file and Path(model) != Path(file):
        names = ("model", "model_file")
        sources = [getattr(context.get_parameter_source(n), "name", "") for n in names]
        if sources[0] == sources[1]:
            raise InvalidInput(f"two models: {model} and -f {file}", hint="give one of them")
        file = min(zip(sources, (model, file), strict=True), key=lambda s: _SOURCES.index(s[0]))[1]
    return replace(choice, model=file or model, model_file=None)
