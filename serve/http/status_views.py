"""Views of the routes under `/status`, of metrics and clients' reports, and of those that load and unload models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from flask import Response, request

from serve.api.body import read_json
from serve.api.client_report import Report, sweep_report, tabby_report
from serve.api.status import ModelChange, SettingsAnswer
from serve.http import prometheus
from serve.http.channel import WHEN_GONE
from serve.http.respond import json_answer
from serve.models import ModelPool
from serve.runner.generation import WhenGone, stays
from serve.shown_options import ShownOption
from serve.status.client_name import client_name
from serve.status.feed import Viewer
from serve.status.server_status import ServerStatus


def status_views(
    models: ModelPool, status: ServerStatus, shown: Sequence[ShownOption]
) -> dict[str, Callable[..., Response]]:
    """Return the views by the names of their endpoints."""

    def stream() -> Response:
        if request.method == "HEAD":  # waitress would end its body, although there is none
            return Response(mimetype="text/event-stream")
        when_gone: WhenGone = request.environ.get(WHEN_GONE, stays)
        viewer = status.watch()
        response = Response(_pieces(viewer, when_gone), mimetype="text/event-stream")
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Accel-Buffering"] = "no"  # otherwise nginx would buffer the stream
        response.call_on_close(viewer.close)  # also if the stream was never started
        return response

    registry = prometheus.registry(models, status.reports)

    def metrics() -> Response:
        return Response(prometheus.text(registry), content_type=prometheus.CONTENT_TYPE)

    def load() -> Response:
        name = _named().model
        models.find(name)
        with models.use(name, request.environ.get(WHEN_GONE, stays)):
            return json_answer({"success": True})

    def unload() -> Response:
        models.unload_now(_named().model)
        return json_answer({"success": True})

    def reports(read: Callable[[bytes], Report | None]) -> Response:
        if report := read(request.get_data(cache=False)):
            client = client_name(request.headers.get("User-Agent", ""))
            status.reports.count(client, report)
        return Response(status=200)

    settings: SettingsAnswer = {
        "settings": [
            {"flag": o.flag, "value": o.value, "is_default": o.is_default, "help": o.help}
            for o in shown
        ]
    }
    return {
        "tabbyEvents": lambda: reports(tabby_report),
        "nextEditMetrics": lambda: reports(sweep_report),
        "loadModel": load,
        "unloadModel": unload,
        "metrics": metrics,
        "status": lambda: json_answer(status.answer()),
        "statusStream": stream,
        "statusSettings": lambda: json_answer(settings),
    }


def _named() -> ModelChange:
    return ModelChange.read(read_json(request.get_data(cache=False)))


def _pieces(viewer: Viewer, when_gone: WhenGone) -> Iterator[bytes]:
    forget = when_gone(viewer.go)
    try:
        yield from viewer
    finally:
        forget()
