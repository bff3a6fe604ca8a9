"""Trial of a device: a child process computes attention on it before this process does.

Drivers compile programs for a GPU while a model computes. One that crashes then ends the process, and a server with
it; here, only a child is lost. Flash attention has the largest of these programs, so a crash with it is tried again
without it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from turbopilot.base.cache_folder import cache_folder
from turbopilot.base.errors import ServeError, TurboPilotError
from turbopilot.formats.gguf.file import GgufHeader
from turbopilot.llama.child import ChildFailed, run_child
from turbopilot.llama.devices import Device
from turbopilot.llama.flash_attention import PLAIN
from turbopilot.llama.library import VERSION
from turbopilot.llama.trial import SKIP_VARIABLE

log = logging.getLogger("turbopilot.models")

_SECONDS: Final = 600  # software Vulkan compiles for minutes on a busy machine
_BUSY: Final = "busy or unavailable"  # in the text of cudaErrorDevicesUnavailable
# Metadata that decides which programs a device runs, besides the types of the weights.
_SHAPE: Final = (
    "embedding_length", "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.value_length",
)  # fmt: skip


def usable_attention(
    header: GgufHeader,
    devices: Sequence[Device],
    cache_type: str,
    wanted: bool | None,
    run: Callable[..., Any] = run_child,
) -> bool | None:
    """Return which attention to use on devices: False if flash attention crashes there, else `wanted`.

    A success is stored in the cache folder, for this model's shape, device and version of llama.cpp. Workers are not
    tried: they are processes of their own.

    Args:
        header: the model file.
        devices: devices with a part of the model.
        cache_type: type of the KV cache, in lower case.
        wanted: True for flash attention, False for plain attention, None for what llama.cpp chooses.
        run: as `run_child`.

    Raises:
        ServeError: the attention that is needed or wanted crashes on a device.
    """
    if os.environ.get(SKIP_VARIABLE) == "1":
        return wanted
    for device in devices:
        if device.link:
            continue
        if crash := _crash(header, device, cache_type, wanted, run):
            if wanted is not None or cache_type not in PLAIN:
                raise ServeError(
                    _sentence(device, cache_type, crash), hint=_hint(device, wanted, cache_type)
                )
            log.warning("%s; flash attention is not used", _sentence(device, cache_type, crash))
            return usable_attention(header, devices, cache_type, False, run)
    return wanted


def _sentence(device: Device, cache_type: str, crash: str) -> str:
    return f"{device}: attention with a KV cache in {cache_type} crashed there in a trial: {crash}"


def _hint(device: Device, wanted: bool | None, cache_type: str) -> str:
    others = f"update the driver, or leave the device out: --device none, or another one than {device.name}"
    if cache_type not in PLAIN:
        return f"use --cache-type f16; or {others}"
    return f"use --flash-attn off; or {others}" if wanted else others


def _crash(
    header: GgufHeader,
    device: Device,
    cache_type: str,
    wanted: bool | None,
    run: Callable[..., Any],
) -> str:
    """Return how a child ended that computes attention on a device; "" if it computed."""
    success = _file(header, device, cache_type, wanted)
    if success.exists():
        return ""
    job = {
        "model": str(header.path), "device": device.name, "cache_type": cache_type, "flash_attention": wanted,
    }  # fmt: skip
    try:
        run("turbopilot.llama.device_trial_child", job, timeout=_SECONDS)
    except ChildFailed as e:
        # Loading reports other failures, such as a lack of memory. A GPU may admit one process alone (CUDA's compute
        # mode), which is this one.
        if e.code >= 0 or _BUSY in e.last_words:
            return ""
        return e.last_words if "it took more than" in e.last_words else f"signal {-e.code}"
    except TurboPilotError:
        return ""
    with suppress(OSError):
        success.parent.mkdir(parents=True, exist_ok=True)
        success.touch()
    return ""


def _file(header: GgufHeader, device: Device, cache_type: str, wanted: bool | None) -> Path:
    """Return the file that exists if the trial has succeeded."""
    shape = tuple(header.metadata.get(f"{header.architecture}.{key}") for key in _SHAPE)
    types = tuple(sorted({t.type_name for t in header.tensors}))
    key = (header.architecture, shape, types, str(device), cache_type, wanted, VERSION)
    name = hashlib.sha256(repr(key).encode()).hexdigest()[:24]
    return cache_folder() / "devices" / name
