"""What Tabby's agent asks beside completions."""

from __future__ import annotations

import os
import platform

from flask import Blueprint, Response

from serve.http.routes.common import json_answer
from serve.models import ModelPool
from turbopilot.base.version import __version__


def blueprint(models: ModelPool) -> Blueprint:
    """`/v1/health` and `/v1/events`."""
    routes = Blueprint("tabby", __name__)

    @routes.get("/v1/health")
    @routes.post("/v1/health")
    def health() -> Response:
        version = {
            "build_date": "",
            "build_timestamp": "",
            "git_sha": "",
            "git_describe": f"turbopilot {__version__}",
        }
        return json_answer(
            {
                "model": models.known[0].name,
                "device": "",
                "arch": platform.machine(),
                "cpu_info": platform.processor(),
                "cpu_count": os.cpu_count() or 1,
                "cuda_devices": [],
                "version": version,
            }
        )

    @routes.post("/v1/events")
    def events() -> Response:
        """Which suggestion was seen, taken or dismissed. Nobody is told, nothing is kept."""
        return Response(status=200)

    return routes
