"""The state of the models and of this machine, as `/status` shows it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from serve.api.health import device_health, upstream_health
from serve.api.status import (
    CachedPrefix,
    GpuStatus,
    MachineStatus,
    ServedModelStatus,
    SlotStatus,
)
from serve.metrics import EngineMetrics, SlotState
from serve.models import ModelPool, ModelStatus
from serve.models.service import CompletionService
from serve.models.status import ModelInfo
from turbopilot.base.errors import InvalidRequest
from turbopilot.base.load import GpuLoad, process_bytes
from turbopilot.base.machine import allowed_processors, free_bytes, total_bytes


def model_statuses(models: ModelPool) -> list[ServedModelStatus]:
    """Return the state of each model, the default one first. Does not wait for loading or computing."""
    loaded = {service.model.name: service for service in models.loaded}
    facts = zip(models.known, models.statuses, models.sizes, strict=True)
    return [_model(info, status, size, loaded.get(info.name)) for info, status, size in facts]


def _model(
    info: ModelInfo, status: ModelStatus, size: int, service: CompletionService | None
) -> ServedModelStatus:
    found: ServedModelStatus = {
        "name": info.name,
        "status": status.state,
        "file": info.file_name,
        "type": info.main_type,
        "size": info.n_bytes,
        "context": info.n_ctx,
        "running": status.running,
        "waiting": status.waiting,
    }
    if status.reason:
        found["reason"] = status.reason
    if status.certificate:
        found["certificate"] = status.certificate
    if status.upstreams:
        found["upstreams"] = [upstream_health(u) for u in status.upstreams]
    if service:
        _add_loaded(found, service, size)
    return found


def _add_loaded(found: ServedModelStatus, service: CompletionService, size: int) -> None:
    """Add what is known only of a loaded model; `size` is its estimated size in main memory."""
    metrics = service.metrics
    if service.fim_layout:
        found["fim_layout"] = service.fim_layout
    with suppress(InvalidRequest):  # it is not a next-edit model
        found["next_edit"] = service.next_edit.name
    if slots := metrics.slots():
        found["slots"] = [_slot(s) for s in slots]
    if not service.upstreams:
        on_devices = sum(u.weights + u.kv + u.compute for u in service.devices[1:])
        found["memory"] = size + on_devices  # the first of the devices is main memory
    if service.devices:
        found["devices"] = [device_health(use) for use in service.devices]
    if metrics.store_limit:
        found["prefix_cache"] = _prefixes(metrics)
        found["prefix_cache_bytes"] = metrics.stored_bytes
        found["prefix_cache_limit"] = metrics.store_limit


def _slot(s: SlotState) -> SlotStatus:
    found: SlotStatus = {
        "index": s.index, "held": s.n_held, "cached": s.n_cached, "prefilled": s.n_prefilled, "decoded": s.n_decoded,
        "left": s.n_left,
    }  # fmt: skip
    return found if s.request_id is None else {**found, "request": s.request_id}


def _prefixes(metrics: EngineMetrics) -> list[CachedPrefix]:
    return [
        {"tokens": p.n_tokens, "bytes": p.n_bytes, "age": p.age, "idle": p.idle, "hits": p.n_hits}
        for p in metrics.prefixes()
    ]


def machine_status(models: ModelPool, gpus: Sequence[GpuLoad]) -> MachineStatus:
    """Return the memory of this machine and of this process."""
    found: MachineStatus = {
        "cores": len(allowed_processors()),
        "memory_total": total_bytes(),
        "memory_free": free_bytes(),
        "gpus": [_gpu(g) for g in gpus],
    }
    if (taken := process_bytes()) is not None:
        found["process_memory"] = taken
    if not any(service.upstreams for service in models.loaded):
        found["model_memory_limit"] = models.memory
    return found


def _gpu(g: GpuLoad) -> GpuStatus:
    found: GpuStatus = {"name": g.name, "memory_total": g.total, "memory_free": g.free}
    return found if g.load is None else {**found, "load": g.load}
