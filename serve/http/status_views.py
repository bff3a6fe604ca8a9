"""Views of the routes for operators under `/status`, and of those that load and unload models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from flask import Response, request

from serve.api.status import SettingsAnswer
from serve.http.channel import WHEN_GONE
from serve.http.respond import json_answer
from serve.runner.generation import WhenGone, stays
from serve.shown_options import ShownOption
from serve.status.feed import Viewer
from serve.status.server_status import ServerStatus


def status_views(
    status: ServerStatus, shown: Sequence[ShownOption]
) -> dict[str, Callable[..., Response]]:
    """Return the views by the names of their endpoints."""

    def stream() -> Response:
        when_gone: WhenGone = request.environ.get(WHEN_GONE, stays)
        viewer = status.watch()
        response = Response(_pieces(viewer, when_gone), mimetype="text/event-stream")
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Accel-Buffering"] = "no"  # otherwise nginx would buffer the stream
        response.call_on_close(viewer.close)  # also if the stream was never started
        return response

    settings: SettingsAnswer = {
        "settings": [
            {"flag": o.flag, "value": o.value, "is_default": o.is_default, "help": o.help}
            for o in shown
        ]
    }
    return {
        "status": lambda: json_answer(status.answer()),
        "statusStream": stream,
        "statusSettings": lambda: json_answer(settings),
    }


def _pieces(viewer: Viewer, when_gone: WhenGone) -> Iterator[bytes]:
    forget = when_gone(viewer.go)
    try:
        yield from viewer
    finally:
        forget()
