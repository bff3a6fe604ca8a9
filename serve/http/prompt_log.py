"""Prompts and answers as text in the log (`--log-prompts`); nothing is collected while its logger is silent."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from serve.http.log_format import one_line, prompts_log
from serve.models.service import Completion, CompletionService
from serve.request import Event, TextDelta
from serve.runner.generation import Answer


def is_on() -> bool:
    """Whether prompts are logged."""
    return prompts_log.isEnabledFor(logging.INFO)


def note_prompts(service: CompletionService, completion: Completion) -> None:
    """Log the prompts, the suffix and the other files."""
    if not is_on():
        return
    for prompt in completion.prompts:
        _write("prompt", service.text(prompt))
    if completion.suffix:
        _write("suffix", completion.suffix)
    for file in completion.files:
        _write(f"file {one_line(file.name)}", file.text)


def note_answer(answer: Answer) -> None:
    """Log an answer in one piece."""
    if is_on():
        for index, choice in enumerate(answer.choices):
            _write(f"answer {index}", choice.text)


def watched(events: Iterator[tuple[int, Event]]) -> Iterator[tuple[int, Event]]:
    """Pass on the events of a stream, and log its texts when it ends for any reason."""
    return _watched(events) if is_on() else events


def _watched(events: Iterator[tuple[int, Event]]) -> Iterator[tuple[int, Event]]:
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
    """Write on one line, from which the text can be restored exactly."""
    prompts_log.info("%s: %s", what, one_line(text.replace("\\", "\\\\")))
