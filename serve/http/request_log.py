"""Log of requests: request ids, one line per request, prompts and completions (`--log-prompts`), and log formats."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import Final

from flask import Flask, Response, g, request

from serve.log_options import LogOptions
from serve.models.completion import Completion
from serve.models.service import CompletionService
from serve.request import Event, TextDelta
from serve.runner.generation import Answer, Generation

log = logging.getLogger("turbopilot.access")
REQUEST_ID_HEADER = "X-Request-Id"
# Request ids from clients are logged and sent back, so they must be short and printable.
_NAME = re.compile(r"[!-~]{1,128}")
# Id of the request that this thread processes, or "". Each line that the thread logs has it.
request_id: ContextVar[str] = ContextVar("request_id", default="")
# `extra={FIELDS: {...}}` of a log call adds fields to the JSON format.
FIELDS: Final = "fields"
# Requests that monitors and browsers repeat: logged at DEBUG, unless access was refused. Views, and paths without one.
QUIET: Final = frozenset({"health", "metrics", "slots", "status", "/favicon.ico"})

# Off at every log level: only --log-prompts turns it on.
prompts_log = logging.getLogger("turbopilot.prompts")
prompts_log.setLevel(logging.CRITICAL)


def one_line(text: str) -> str:
    """Escape unprintable characters, so that text from clients cannot forge log lines or control a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def set_up(options: LogOptions) -> None:
    """Configure logging to stderr, unless logging is already configured."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if options.form == "json" else TextFormatter())
    level = logging.DEBUG if options.debug else logging.INFO
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("gguf").setLevel(logging.WARNING)  # gguf logs every file that it writes
    prompts_log.setLevel(logging.INFO if options.prompts else logging.CRITICAL)


def _request_of(record: logging.LogRecord) -> str:
    return str(getattr(record, "request_id", "") or request_id.get())


class TextFormatter(logging.Formatter):
    """Log format with time, level, request id and message on one line; a traceback follows on separate lines."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Format the line."""
        message = one_line(record.message)
        name = _request_of(record)
        shown = logging.makeLogRecord(record.__dict__)  # a copy: other handlers use the record
        shown.message = f"[{name}] {message}" if name else message
        return super().formatMessage(shown)


class JsonFormatter(logging.Formatter):
    """Log format with one JSON object per line: ts (UTC), level, logger, message, request_id, fields, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Format the line."""
        when = datetime.fromtimestamp(record.created, timezone.utc)
        line: dict[str, object] = {
            "ts": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if name := _request_of(record):
            line["request_id"] = name
        fields = getattr(record, FIELDS, None)
        if isinstance(fields, Mapping):
            line |= fields
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, separators=(",", ":"))


def choose_request_id(given: str) -> str:
    """Return the client's request id if it is short and printable, else a random one."""
    return given if _NAME.fullmatch(given) else secrets.token_hex(8)


def count_tokens(generation: Generation) -> None:
    """Add the token counts of this generation to the log line of the current request."""
    g.generation = generation


def register(app: Flask) -> None:
    """Add hooks that give each request an id before all other hooks run, and log it when its response has ended."""

    @app.before_request
    def begin() -> None:
        g.began = time.monotonic()
        g.request_id = choose_request_id(request.headers.get(REQUEST_ID_HEADER, ""))
        request_id.set(g.request_id)

    @app.after_request
    def note(response: Response) -> Response:
        """Log method, path, status, time and tokens; never a header (it may contain a key), query or body."""
        name: str = g.get("request_id", "")
        began: float = g.get("began", time.monotonic())
        generation: Generation | None = g.get("generation")
        fields: dict[str, object] = {
            "method": request.method,
            "path": request.path,
            "status": response.status_code,
        }
        line = f"{request.method} {one_line(request.path)} {response.status_code}"
        is_quiet = (request.endpoint or request.path) in QUIET
        level = logging.INFO
        if is_quiet and response.status_code not in (401, 403, 421):
            level = logging.DEBUG

        def write() -> None:
            seconds = time.monotonic() - began
            fields["ms"] = round(1000 * seconds, 1)
            if generation:
                usage = generation.usage
                fields["prompt_tokens"] = usage.prompt_tokens
                fields["cached_tokens"] = usage.cached_tokens
                fields["completion_tokens"] = usage.completion_tokens
            extra = {"request_id": name, FIELDS: fields}
            log.log(level, "%s %.0f ms", line, 1000 * seconds, extra=extra)

        response.call_on_close(write)  # not now: a stream ends long after its headers
        response.headers[REQUEST_ID_HEADER] = name
        return response


def log_refused(status: int, reason: str) -> None:
    """Log a request that is not valid HTTP; never its data, which may contain a key."""
    log.info("%d %s", status, reason, extra={FIELDS: {"status": status}})


def _logs_prompts() -> bool:
    return prompts_log.isEnabledFor(logging.INFO)


def log_prompts(service: CompletionService, completion: Completion) -> None:
    """Log the prompts, the suffix and the other files of a completion, if prompts are logged."""
    if not _logs_prompts():
        return
    for prompt in completion.prompts:
        _write("prompt", service.text(prompt))
    if completion.suffix:
        _write("suffix", completion.suffix)
    for file in completion.files:
        _write(f"file {one_line(file.name)}", file.text)


def log_answer(answer: Answer) -> None:
    """Log the texts of a response that is not streamed, if prompts are logged."""
    if _logs_prompts():
        for index, choice in enumerate(answer.choices):
            _write(f"answer {index}", choice.text)


def log_events(events: Iterator[tuple[int, Event]]) -> Iterator[tuple[int, Event]]:
    """Pass on the events of a stream; if prompts are logged, log its texts when it ends for any reason."""
    return _logged(events) if _logs_prompts() else events


def _logged(events: Iterator[tuple[int, Event]]) -> Iterator[tuple[int, Event]]:
    texts: dict[int, list[str]] = {}
    try:
        for index, event in events:
            said = texts.setdefault(index, [])
            if isinstance(event, TextDelta):
                said.append(event.text)
            yield index, event
    finally:
        for index in sorted(texts):
            _write(f"answer {index}", "".join(texts[index]))


def _write(what: str, text: str) -> None:
    """Log a text on one line, escaped so that it can be restored exactly."""
    prompts_log.info("%s: %s", what, one_line(text.replace("\\", "\\\\")))
