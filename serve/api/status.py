"""Answers of the routes under `/status`, which the page and `turbopilot top` show."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from serve.api.body import Body, Count, Positive, Share
from serve.api.health import DeviceHealth, State, UpstreamHealth

EventLevel: TypeAlias = Literal["info", "warning", "error"]
RequestEnd: TypeAlias = Literal[
    "stop", "length", "cancelled", "superseded", "deadline", "error", "refused"
]
UnixTime = Annotated[float, Field(ge=0, description="Unix time in seconds.")]
Percent = Annotated[float, Field(ge=0, le=100)]
Seconds = Annotated[float, Field(ge=0, description="Seconds.")]


class StatusSample(TypedDict):
    """Activity of all models between two measurements, about a second apart.

    Speeds are in tokens per second. A value is absent if nothing happened from which to compute it.
    """

    time: UnixTime
    running: Count
    waiting: Count
    prefill_speed: Positive
    decode_speed: Positive
    first_token_ms: NotRequired[Positive]
    cached_share: NotRequired[Share]
    """Share of the prompts' tokens that were in the KV cache."""
    accepted_share: NotRequired[Share]
    """Share of the draft tokens that the models confirmed."""
    cpu: NotRequired[Percent]
    """Load of all processor cores."""
    gpu: NotRequired[Percent]
    """Load of the busiest GPU."""


class CachedPrefix(TypedDict):
    """A prefix in the prefix cache. `age` is the time since it was stored, `idle` since it was last used."""

    tokens: Count
    bytes: Count
    age: Seconds
    idle: Seconds
    hits: Count


class SlotStatus(TypedDict):
    """Activity of a slot, in tokens. `request` is the id of the running request; absent if the slot is free."""

    index: Count
    held: Count
    request: NotRequired[Count]
    cached: Count
    prefilled: Count
    decoded: Count
    left: Count


class ServedModelStatus(TypedDict):
    """State of one model. Optional fields are present if it is loaded or has what they describe."""

    name: str
    status: State
    reason: NotRequired[str]
    file: str
    type: str
    size: Count
    context: Count
    fim_layout: NotRequired[str]
    next_edit: NotRequired[str]
    certificate: NotRequired[str]
    running: Count
    waiting: Count
    memory: NotRequired[Count]
    """Estimated bytes of the loaded model and its whole prefix cache, in main memory and on devices."""
    devices: NotRequired[list[DeviceHealth]]
    upstreams: NotRequired[list[UpstreamHealth]]
    slots: NotRequired[list[SlotStatus]]
    prefix_cache: NotRequired[list[CachedPrefix]]
    prefix_cache_bytes: NotRequired[Count]
    prefix_cache_limit: NotRequired[Count]


class MachineStatus(TypedDict):
    """Memory of this machine and of the server's process, in bytes."""

    cores: Count
    memory_total: Count
    memory_free: Count
    process_memory: NotRequired[Count]
    """Absent if the operating system does not report it."""
    model_memory_limit: NotRequired[Count]
    """Limit for all loaded models together (--model-memory); absent if upstreams compute."""
    gpus: list[GpuStatus]


class GpuStatus(TypedDict):
    """A GPU: load in percent if it is known, memory in bytes."""

    name: str
    load: NotRequired[Percent]
    memory_total: Count
    memory_free: Count


class RequestTimes(TypedDict):
    """Durations of one finished completion request in milliseconds, and its tokens; never its text.

    `total` = `load` (waiting for the model) + `queue` + `prefill` + `decode` + `other` (reading the request, building
    the prompt, and sending the answer). If it ended before its first token, the stage that it had reached has the
    time. `why` says in a few words what took most of the time if it was slow: longer than twice the median of earlier
    requests. `time` is that of its end.
    """

    id: str
    time: UnixTime
    route: str
    client: str
    """Name in the User-Agent header."""
    model: str
    status: Annotated[int, Field(ge=100, le=599)]
    reason: RequestEnd
    is_low: bool
    """Whether it had the lowest priority, as the page's requests do."""
    total: Positive
    load: Positive
    queue: Positive
    prefill: Positive
    decode: Positive
    other: Positive
    prompt_tokens: Count
    cached_tokens: Count
    completion_tokens: Count
    drafted_tokens: Count
    accepted_tokens: Count
    why: str


class ServerEvent(TypedDict):
    """An event such as the loading of a model. `id` grows with each event."""

    id: Count
    time: UnixTime
    level: EventLevel
    model: str
    text: str


class AcceptedShare(TypedDict):
    """Completions that a client reported as shown, accepted and dismissed; `client` is as in `RequestTimes`.

    Clients of Tabby report at `/v1/events`, Sweep's at `/backend/track_autocomplete_metrics`. An accepted part of a
    completion counts as accepted. At most 50 clients are counted one by one, all others as "other".
    """

    client: str
    shown: Count
    accepted: Count
    dismissed: Count


class StatusAnswer(TypedDict):
    """State of the server, of its models and of the machine; the newest requests and events come last.

    `/status` has the measurements of the last five minutes, and the last 200 requests and events. Each event of
    `/status/stream` has the newest measurement (the first event has none), and the last 50 requests and events.
    Measurements are taken only while the stream has a viewer, and for ten seconds after `/status` was read.
    """

    version: str
    started: UnixTime
    time: UnixTime
    needs_key: bool
    default_model: str
    models: list[ServedModelStatus]
    machine: MachineStatus
    samples: list[StatusSample]
    requests: list[RequestTimes]
    events: list[ServerEvent]
    accepted: list[AcceptedShare]


class SettingStatus(TypedDict):
    """An option of `turbopilot serve`. `value` is its value as text; of a secret, only whether it is set."""

    flag: str
    value: str
    is_default: bool
    help: str


class SettingsAnswer(TypedDict):
    """The options of the running server."""

    settings: list[SettingStatus]


class EditorSetting(TypedDict):
    """Text to copy into a place, such as a file, a shell or a dialog."""

    where: str
    format: str
    text: str


class EditorStatus(TypedDict):
    """An editor's plugin, its settings for this server, and a request as it would send it."""

    name: str
    editor: str
    plugin: str
    settings: list[EditorSetting]
    notes: list[str]
    source: str
    evidence: str
    check: NotRequired[CheckRequest]


class CheckRequest(TypedDict):
    """A request to send to this server, to see whether the editor's requests would succeed."""

    method: Literal["GET", "POST"]
    path: str
    body: NotRequired[dict[str, object]]
    streams: bool


class EditorsAnswer(TypedDict):
    """All editors, with settings for the server's address in the request's Host header.

    `key_placeholder` stands for the API key in the texts, and is "" if the server requires none. A plugin whose
    settings do not contain it cannot send a key.
    """

    editors: list[EditorStatus]
    key_placeholder: str


class ModelChange(Body):
    """A model to load or unload, as in llama.cpp's router (tools/server/README.md, `POST /models/load`).

    Ours differs: a load answers when the model is loaded, and an already loaded, or unloaded, model is not an error.
    As there, unloading ends the requests of the model.
    """

    example: ClassVar[dict[str, str]] = {"model": "turbopilot-demo"}
    model: str
    """Name of a model in `/v1/models`; an unknown name is an error."""


class ModelChanged(TypedDict):
    """A model was loaded or unloaded."""

    success: bool
