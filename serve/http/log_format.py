"""How the log is written: lines for a person, or JSON for a collector."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import Final

from serve.settings import LogOptions

# The request that this thread works on; "" is none. Every line that it logs bears it.
request_id: ContextVar[str] = ContextVar("request_id", default="")
# `extra={FIELDS: {...}}` of a log call: what JSON shows beside the message.
FIELDS: Final = "fields"

# Prompts and answers. Silent at any level of the others: an operator has to ask for it by name.
prompts_log = logging.getLogger("turbopilot.prompts")
prompts_log.setLevel(logging.CRITICAL)


def one_line(text: str) -> str:
    """Text in which nothing ends a line, drives a terminal or hides: what a client sends writes no lines of ours."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def set_up(options: LogOptions) -> None:
    """Log to stderr, unless logging is set up already."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if options.form == "json" else TextFormatter())
    level = logging.DEBUG if options.debug else logging.INFO
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("gguf").setLevel(logging.WARNING)  # it logs every file that it writes
    prompts_log.setLevel(logging.INFO if options.prompts else logging.CRITICAL)


def _request_of(record: logging.LogRecord) -> str:
    return str(getattr(record, "request_id", "") or request_id.get())


class TextFormatter(logging.Formatter):
    """Time, level, request and message, on one line; a traceback follows on its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line."""
        message = one_line(record.message)
        name = _request_of(record)
        shown = logging.makeLogRecord(record.__dict__)  # other handlers see the record as it was
        shown.message = f"[{name}] {message}" if name else message
        return super().formatMessage(shown)


class JsonFormatter(logging.Formatter):
    """One object a line: ts (UTC), level, logger, message, request_id, what the call adds, and a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
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
