"""The devices of this machine, and the placement of a model on them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from turbopilot.base.errors import MemoryShort
from turbopilot.base.machine import free_bytes
from turbopilot.formats.gguf.file import GgufHeader
from turbopilot.llama.device_memory import ContextNeed, ModelParts, model_parts
from turbopilot.llama.devices import Device, choose_devices, gpu_devices
from turbopilot.llama.library import start_backend
from turbopilot.llama.model import ModelParameters
from turbopilot.llama.placement import (
    CPU,
    DeviceMemory,
    Machine,
    Placement,
    PlacementWish,
    place,
    step_down,
)
from turbopilot.llama.rpc import add_workers

