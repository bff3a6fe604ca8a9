"""Facts about a model, and its state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from serve.adapters import AdapterState
from serve.upstream.member import UpstreamStatus
from turbopilot.llama.device_use import DeviceUse


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts about a model that clients can see; those with defaults come from its file.

    Attributes:
        created: Unix time in seconds.
        n_bytes: size of the file.
        digest: SHA-256 in hexadecimal that changes with the file.
        main_type: quantization type of most weights.
        n_slots: number of requests that are computed at once.
        n_ctx_train: context in tokens that the model was trained with.
        n_embd: width of the network.
        tensor_bytes: size of the weights.
        file_name: name of the file, without its folder.
        chat_template: Jinja template for chats, or "".
        bos, eos: texts of the begin-of-sequence and end-of-sequence tokens; "" if the file does not name them.
        can_fill: whether the model has tokens for fill-in-the-middle.
        certificate: line about the file's valid certificate, or "".
    """

    name: str
    n_ctx: int
    n_vocab: int
    created: int
    n_bytes: int = 0
    n_weights: int = 0
    digest: str = ""
    architecture: str = ""
    main_type: str = ""
    n_slots: int = 1
    n_ctx_train: int = 0
    n_embd: int = 0
    tensor_bytes: int = 0
    file_name: str = ""
    chat_template: str = ""
    bos: str = ""
    eos: str = ""
    can_fill: bool = False
    certificate: str = ""

    @property
    def can_chat(self) -> bool:
        """Whether there is a chat template."""
        return bool(self.chat_template)


EVENT_MODEL: Final = "model"
"""Key of a model's name in the `extra` of log calls; `/status` then shows the message as an event of this model."""
State: TypeAlias = Literal["unloaded", "loading", "ok", "stalled", "draining", "failed"]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """State of a model, for `/health` and `/metrics`.

    Attributes:
        state: "unloaded": the first request for the model loads it; "stalled": a step exceeds its time limit, or no
            upstream answers; "failed": it could not be loaded, or its engine failed permanently.
        waiting: requests in the queue, or waiting for the model to be loaded.
        loads: number of times that the model was loaded.
        refused: number of completions refused because the queue was full.
        restarts: number of times that the engine failed and was restarted.
        reason: reason of "failed" and "stalled", else "".
        certificate: line about the file's valid certificate, or "".
        adapters: the model's LoRA adapters.
        devices: what is in main memory and on each device; empty while the model is not loaded.
        upstreams: the engines that compute it elsewhere.
    """

    name: str
    state: State
    running: int = 0
    waiting: int = 0
    loads: int = 1
    refused: int = 0
    restarts: int = 0
    reason: str = ""
    certificate: str = ""
    adapters: tuple[AdapterState, ...] = ()
    devices: tuple[DeviceUse, ...] = ()
    upstreams: tuple[UpstreamStatus, ...] = ()
