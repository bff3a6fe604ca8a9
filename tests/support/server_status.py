"""Status of a busy server, as `/status` answers it."""

from __future__ import annotations

from typing import Any

GB = 1_000_000_000
MB = 1_000_000
STARTED = 1_795_849_000.0


def sample(i: int, **more: Any) -> dict[str, Any]:
    """Return the measurement of second `i`."""
    return {
        "time": STARTED + i, "running": 2, "waiting": i % 4, "prefill_speed": 100.0 * (i % 9), "decode_speed": 80.0 + i,
        "first_token_ms": 120.0 + i, "cached_share": 0.82, "accepted_share": 0.5, "cpu": 61.0, **more,
    }  # fmt: skip


def slot(index: int, *, decoded: int = 0, request: int | None = None) -> dict[str, Any]:
    """Return a slot; it is free without a request."""
    counts = {"held": 300, "cached": 200, "prefilled": 100, "decoded": decoded, "left": 20}
    return {"index": index, **counts, **({} if request is None else {"request": request})}


def served_model(name: str = "qwen2.5-coder-1.5b", **more: Any) -> dict[str, Any]:
    """Return a model with four slots: one decodes, one is in prefill, two are free."""
    slots = [slot(0, decoded=3, request=7), slot(1, request=8), slot(2), slot(3)]
    return {
        "name": name, "status": "ok", "file": f"{name}-q4_k_m.gguf", "type": "Q4_K_M", "size": 986 * MB,
        "context": 8192, "running": 2, "waiting": 1, "memory": 1800 * MB, "slots": slots,
        "prefix_cache": [{"tokens": 900, "bytes": 30 * MB, "age": 60.0, "idle": 2.0, "hits": 5}],
        "prefix_cache_bytes": 30 * MB, "prefix_cache_limit": 2 * GB, **more,
    }  # fmt: skip


def request_times(name: str = "a1", **more: Any) -> dict[str, Any]:
    """Return the durations of a slow request."""
    return {
        "id": name, "time": STARTED + 50, "route": "/infill", "client": "llama.vscode", "model": "qwen2.5-coder-1.5b",
        "status": 200, "reason": "stop", "is_low": False, "total": 1510.0, "load": 0.0, "queue": 900.0,
        "prefill": 420.0, "decode": 180.0, "other": 10.0, "prompt_tokens": 812, "cached_tokens": 640,
        "completion_tokens": 24, "drafted_tokens": 10, "accepted_tokens": 5, "why": "waited for a free slot", **more,
    }  # fmt: skip


def server_event(number: int, text: str, **more: Any) -> dict[str, Any]:
    """Return an event of the server's log."""
    return {
        "id": number, "time": STARTED + number, "level": "info", "model": "qwen2.5-coder-1.5b", "text": text, **more,
    }  # fmt: skip


def server_status(**more: Any) -> dict[str, Any]:
    """Return the status of a server that has run for a minute."""
    machine = {
        "cores": 8, "memory_total": 16 * GB, "memory_free": 10 * GB, "process_memory": 2 * GB,
        "model_memory_limit": 12 * GB,
        "gpus": [{"name": "NVIDIA L4", "load": 43.0, "memory_total": 24 * GB, "memory_free": 20 * GB}],
    }  # fmt: skip
    return {
        "version": "3.0.0", "started": STARTED, "time": STARTED + 60, "needs_key": False,
        "default_model": "qwen2.5-coder-1.5b", "models": [served_model()], "machine": machine,
        "samples": [sample(i) for i in range(60)], "requests": [request_times()],
        "events": [server_event(1, "loaded in 2.1 s")], "accepted": [], **more,
    }  # fmt: skip
