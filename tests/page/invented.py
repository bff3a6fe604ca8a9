"""An invented status of a server, for what the bundled model's server cannot show."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from serve.api.status import StatusAnswer
from tests.page.talking import HOSTILE

if TYPE_CHECKING:
    from playwright.sync_api import Page

NOW = 1_800_000_000.0
GIB = 2**30


def model(name: str, state: str, **more: Any) -> dict[str, Any]:
    plain = {
        "file": f"{name}.gguf",
        "type": "Q4_0",
        "size": GIB,
        "context": 2048,
        "running": 0,
        "waiting": 0,
    }
    return {"name": name, "status": state, **plain, **more}


def request(number: int, **more: Any) -> dict[str, Any]:
    phases = {"load": 0.0, "queue": 1.0, "prefill": 100.0 * number, "decode": 50.0, "other": 0.5}
    tokens = {
        "prompt_tokens": 400, "cached_tokens": 300, "completion_tokens": 20, "drafted_tokens": 0, "accepted_tokens": 0,
    }  # fmt: skip
    plain = {
        "route": "/infill",
        "client": "llama.vim",
        "model": "one",
        "status": 200,
        "reason": "stop",
        "is_low": False,
    }
    total = sum(phases.values())
    return {
        "id": f"r{number}",
        "time": NOW - number,
        **plain,
        "total": total,
        **phases,
        **tokens,
        "why": "",
        **more,
    }


def status(**more: Any) -> dict[str, Any]:
    """Return a valid answer with four models, of which one is computed by upstreams."""
    device = {
        "device": "CUDA0", "description": "a GPU", "layers": 24, "has_output": True, "weights": GIB, "kv": GIB // 4,
        "compute": GIB // 8, "free_before": 8 * GIB, "free_after": 6 * GIB,
    }  # fmt: skip
    slot = {
        "index": 0,
        "held": 900,
        "request": 7,
        "cached": 640,
        "prefilled": 220,
        "decoded": 12,
        "left": 52,
    }
    upstream = {
        "name": "http://10.0.0.5:8000", "engine": "vLLM", "status": "down", "slots": 8, "in_flight": 0,
        "outcomes": {"done": 5120, "failed": 3}, "reason": "connection refused",
    }  # fmt: skip
    loaded = {
        "memory": 2 * GIB, "devices": [device], "slots": [slot], "prefix_cache_bytes": GIB // 8,
        "prefix_cache_limit": GIB, "fim_layout": "starcoder", "certificate": f"certified {HOSTILE}",
        "prefix_cache": [{"tokens": 1840, "bytes": GIB // 8, "age": 80.0, "idle": 3.0, "hits": 40}],
    }  # fmt: skip
    gpu = {"name": "a GPU", "load": 40.0, "memory_total": 8 * GIB, "memory_free": 6 * GIB}
    sample = {
        "time": NOW,
        "running": 1,
        "waiting": 0,
        "prefill_speed": 420.0,
        "decode_speed": 61.7,
        "cpu": 55.0,
    }
    answer = {
        "version": "1", "started": NOW - 12_300, "time": NOW, "needs_key": False, "default_model": "one",
        "models": [
            model("one", "ok", **loaded), model("two", "unloaded"), model("three", "failed", reason=HOSTILE),
            model("four", "ok", upstreams=[upstream]),
        ],
        "machine": {
            "cores": 8, "memory_total": 32 * GIB, "memory_free": 12 * GIB, "process_memory": 3 * GIB,
            "model_memory_limit": 16 * GIB, "gpus": [gpu],
        },
        "samples": [{**sample, "time": NOW - i} for i in range(60, -1, -1)],
        "requests": [
            request(1, client="the page", is_low=True), request(9, why="read 900 new prompt tokens"),
            request(2, client=HOSTILE, reason="refused", status=503),
        ],
        "events": [{"id": 1, "time": NOW - 60, "level": "error", "model": "three", "text": HOSTILE}],
        "accepted": [{"client": "tabby-agent/1.8", "shown": 412, "accepted": 103, "dismissed": 60}],
        **more,
    }  # fmt: skip
    TypeAdapter(StatusAnswer).validate_python(answer)
    return answer


def show(page: Page, answer: dict[str, Any]) -> None:
    """Answer the page's next requests for the status with this one, and open the status view."""
    event = f"data: {json.dumps(answer)}\n\n"
    page.route("**/status", lambda route: route.fulfill(json=answer))
    page.route(
        "**/status/stream",
        lambda route: route.fulfill(content_type="text/event-stream", body=event),
    )
    page.get_by_role("tab", name="Status").click()
    page.get_by_role("heading", name="Models").wait_for()
