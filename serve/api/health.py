"""Answers about the state of the server, and the token of Copilot's plugins."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from serve.api.body import Count
from serve.upstream.member import UpstreamStatus
from turbopilot.llama.device_use import DeviceUse

State = Literal["unloaded", "loading", "ok", "stalled", "draining", "failed"]


class TabbyVersion(TypedDict):
    """Version of the server, in Tabby's format."""

    build_date: str
    build_timestamp: str
    git_sha: str
    git_describe: str


class TabbyHealth(TypedDict):
    """Information about the server, in Tabby's format."""

    model: str
    device: str
    arch: str
    cpu_info: str
    cpu_count: Count
    cuda_devices: list[str]
    version: TabbyVersion


class CopilotToken(TypedDict):
    """A token for Copilot's plugins. `token` is the caller's API key; without API keys it is a fixed text."""

    token: str
    expires_at: Annotated[int, Field(ge=0, description="Unix time in seconds.")]
    refresh_in: Annotated[
        int, Field(ge=0, description="Seconds until the plugin requests a new token.")
    ]


class AdapterHealth(TypedDict):
    """A LoRA adapter: the name of its file, and its scale for requests that choose none."""

    id: Count
    name: str
    scale: float


class DeviceHealth(TypedDict):
    """Part of a model on one device, or in main memory ("CPU"), in bytes.

    `layers` is the number of layers, without the output head. The free memory is that before the model was loaded, and
    after.
    """

    device: str
    description: str
    layers: Count
    has_output: bool
    weights: Count
    kv: Count
    compute: Count
    free_before: Count
    free_after: Count


class UpstreamHealth(TypedDict):
    """State of an engine that computes completions elsewhere (`--upstream`), by its URL.

    "ejected": it fails or is slow, and gets no requests for a while; "probing": it gets one; "down": it does not
    answer, for this `reason`. `outcomes` counts requests by how they ended there.
    """

    name: str
    engine: str
    status: Literal["healthy", "ejected", "probing", "draining", "down"]
    slots: Count
    in_flight: Count
    outcomes: dict[str, Count]
    reason: NotRequired[str]


class ModelHealth(TypedDict):
    """State of one model.

    `reason` is set if it is "failed" or "stalled", `devices` if it is loaded, `lora` if it has adapters, `upstreams` if
    others compute it. `certificate` has the figures of the file's valid certificate (turbopilot verify --sign).
    """

    name: str
    status: State
    running: Count
    waiting: Count
    reason: NotRequired[str]
    certificate: NotRequired[str]
    devices: NotRequired[list[DeviceHealth]]
    lora: NotRequired[list[AdapterHealth]]
    upstreams: NotRequired[list[UpstreamHealth]]


def device_health(use: DeviceUse) -> DeviceHealth:
    """Return the part of a model on one device."""
    return {
        "device": use.device, "description": use.description, "layers": use.layers, "has_output": use.has_output,
        "weights": use.weights, "kv": use.kv, "compute": use.compute,
        "free_before": use.free_before, "free_after": use.free_after,
    }  # fmt: skip


def upstream_health(s: UpstreamStatus) -> UpstreamHealth:
    """Return the state of an upstream."""
    found: UpstreamHealth = {
        "name": s.name, "engine": s.engine, "status": s.state, "slots": s.slots, "in_flight": s.in_flight,
        "outcomes": s.outcomes,
    }  # fmt: skip
    return {**found, "reason": s.reason} if s.reason else found


class HealthAnswer(TypedDict):
    """State of the server. `model` is the default model; `status` and `reason` are those of the default model.

    If a computation exceeds its time limit, `status` is "stalled", since the other models wait for it. It is "stalled",
    too, if none of its upstreams answers.
    """

    status: Literal["loading", "ok", "stalled", "draining", "failed"]
    model: str
    running: Count
    waiting: Count
    models: list[ModelHealth]
    reason: NotRequired[str]
