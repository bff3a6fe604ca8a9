"""The `turbopilot complete` command."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from serve.security_options import KEY_VARIABLE
from serve.settings import DEFAULT_PORT
from turbopilot.base.errors import InvalidInput
from turbopilot.commands.verb import AsJson, takes
from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.client.completion import Chunks, CursorRequest

DEFAULT_URL: Final = f"http://127.0.0.1:{DEFAULT_PORT}"

Url = Annotated[str | None, typer.Option(
    "--url", show_default=DEFAULT_URL, help="URL of the server, such as https://code.example/turbopilot.",
)]  # fmt: skip
ApiKey = Annotated[str, typer.Option(
    "--api-key", envvar=KEY_VARIABLE, show_default=False,
    help="API key of the server. Other users of this machine can see it in the list of processes: use the variable "
    "instead.",
)]  # fmt: skip


# fmt: off
@dataclass(frozen=True, slots=True)
class CompleteArguments:
    """Arguments of `turbopilot complete`."""

    file: Annotated[str, typer.Argument(help="Text in UTF-8; - reads it from stdin.")]
    line: Annotated[int, typer.Option("--line", min=1, help="Line of the cursor, from 1.")]
    column: Annotated[int | None, typer.Option(
        "--column", min=1, show_default="end of the line", help="Column of the cursor: the number of the character "
        "that follows it, from 1.",
    )] = None
    n: Annotated[int, typer.Option("-n", min=1, help="Number of completions.")] = 1
    max_tokens: Annotated[int | None, typer.Option(
        "--max-tokens", min=1, show_default="200", help="Maximum number of tokens of each completion.",
    )] = None
    temperature: Annotated[float | None, typer.Option(
        "--temperature", min=0, show_default="that of the server", help="Sampling temperature. 0 always takes the "
        "most likely token.",
    )] = None
    top_p: Annotated[float | None, typer.Option(
        "--top-p", min=0, max=1, show_default="that of the server", help="Total probability of the tokens to sample "
        "from. Several completions differ only with a larger value than the default, and a higher temperature.",
    )] = None
    seed: Annotated[int | None, typer.Option(
        "--seed", show_default=False, help="Random seed that makes completions repeatable.",
    )] = None
    single_line: Annotated[bool, typer.Option(
        "--single-line", help="End after the first line that is not blank.",
    )] = False
    timeout: Annotated[int, typer.Option(
        "--timeout", min=1, max=86_400, help="Time limit in seconds; a completion then ends with the text so far.",
    )] = 300
    filename: Annotated[str, typer.Option(
        "--filename", show_default="FILE", help="Name of the file for the model, which shows the language.",
    )] = ""
    url: Url = None
    api_key: ApiKey = ""
    model: Annotated[str, typer.Option(
        "--model", show_default=False, help="Name of the model, if the server has several.",
    )] = ""
    model_file: Annotated[str, typer.Option(
        "-f", "--model-file", metavar="MODEL", show_default=False, help="Load this model here instead of asking a "
        "server. Same as MODEL of turbopilot serve; demo is the bundled model.",
    )] = ""
    null: Annotated[bool, typer.Option(
        "-0", "--null", help="Print a NUL character after each completion.",
    )] = False
    as_json: AsJson = False
# fmt: on


@takes(CompleteArguments)
def complete(given: CompleteArguments) -> None:
    """Print a completion at a place in a file.

    A running server generates it (turbopilot serve), or with --model-file a model that is loaded for this one
    request. The text is printed while it is generated. In a pipe it is exact, without an added line break; on a
    terminal, control characters are escaped. Several completions (-n) are printed at the end, with a blank line between
    them; for scripts, give --null or --json.

    Lines end with LF or CR LF. Columns count characters, not bytes or screen columns: Vim's charcol('.').

    Example: turbopilot complete main.py --line 10

    Example: turbopilot complete main.py --line 10 --column 4 -n 3 --top-p 0.95 --temperature 0.8

    Example: turbopilot complete main.py --line 10 --model-file demo

    Example: cat main.py | turbopilot complete - --line 10 --filename main.py
    """
    from turbopilot.client.completion import CursorRequest, collect
    from turbopilot.client.cursor import read_at
    from turbopilot.render import complete as complete_text

    text = read_at(given.file, given.line, given.column, given.filename)
    request = CursorRequest(
        text, given.n, given.max_tokens, given.temperature, given.top_p, given.seed,
        single_line=given.single_line, seconds=given.timeout, model=given.model,
    )  # fmt: skip
    with closing(_chunks(given, request)) as chunks:
        if given.as_json:
            console.emit_json(complete_text.as_json(collect(chunks, given.n)))
        elif given.n > 1 or given.null:
            complete_text.show(collect(chunks, given.n), null=given.null)
        else:
            with console.exact_text() as show:
                collect(chunks, given.n, show)


def _chunks(given: CompleteArguments, request: CursorRequest) -> Chunks:
    """Return the chunks of the answer of the chosen model."""
    if not given.model_file:
        from turbopilot.client.completion import served_chunks
        from turbopilot.client.connection import ServerConnection
        from turbopilot.editors import address_at

        otherwise = "--model-file demo needs no server"
        server = ServerConnection(
            address_at(given.url or DEFAULT_URL).url, given.api_key, otherwise
        )
        return served_chunks(server, request)
    for option, value in (("--url", given.url), ("--model", given.model)):
        if value:
            raise InvalidInput(
                f"--model-file cannot be combined with {option}, which is about a server",
                hint="give only one of them",
            )
    from turbopilot.app.local_completion import local_chunks

    return local_chunks(given.model_file, request, console.REPORTER)
