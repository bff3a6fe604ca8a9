"""Options for GPUs, workers and main memory, of `serve` and of the other commands that load a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from serve.options import Option
from turbopilot.base.errors import InvalidInput
from turbopilot.base.option_values import layers_or_all, parse_size_or_zero, parse_words
from turbopilot.base.sizes import parse_size
from turbopilot.llama.device_memory import compiled_pattern
from turbopilot.llama.placement_wish import (
    DEFAULT_MARGIN,
    EXPERTS_ON_CPU,
    PlacementWish,
    SplitMode,
)

Numa: TypeAlias = Literal["off", "distribute", "isolate", "numactl"]


def words(_option: str, given: Sequence[str]) -> tuple[str, ...]:
    """Return the words of values that may be lists with commas."""
    return parse_words(given)


def parse_shares(option: str, given: Sequence[str]) -> tuple[float, ...]:
    """Return numbers such as "3,1"; raise InvalidInput if one is not a number or all are 0."""
    words = parse_words(given)
    for word in words:
        if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", word, re.ASCII):
            raise InvalidInput(f"{option} {word}: not a number", hint="give for example 3,1")
    found = tuple(map(float, words))
    if found and not any(found):
        raise InvalidInput(f"{option}: every share is 0", hint="give for example 3,1")
    return found


def parse_sizes(option: str, given: Sequence[str]) -> tuple[int, ...]:
    """Return sizes such as "8GiB,6GiB" in bytes."""
    return tuple(parse_size(option, word) for word in parse_words(given))


def parse_overrides(option: str, given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return (pattern, device) pairs; raise InvalidInput if a value is not PATTERN=DEVICE."""
    found = []
    for word in parse_words(given):
        pattern, sign, device = word.rpartition("=")
        if not (pattern and sign and device):
            raise InvalidInput(
                f"{option} {word}: not PATTERN=DEVICE",
                hint=f'for the experts: {option} "{EXPERTS_ON_CPU}"',
            )
        compiled_pattern(pattern)
        found.append((pattern, device))
    return tuple(found)


# fmt: off

@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """Options for placing a model on devices.

    Attributes:
        n_gpu_layers: None means as many as fit.
        margin: in bytes; None means DEFAULT_MARGIN.
        memory: most bytes of each device; the last one applies to all further devices.
    """

    n_gpu_layers: Annotated[int | None, Option(
        "--ngl, --n-gpu-layers", "Layers to put on GPUs and workers: a number, all, or auto for as many as fit. The "
        "output head counts as one more layer.",
        env=("GPU_LAYERS",), auto=True, metavar="N", convert=layers_or_all,
    )] = None
    margin: Annotated[int | None, Option(
        "--gpu-margin", "Memory that --ngl auto leaves free on each device. auto is 512MiB.", auto=True,
        metavar="SIZE", convert=parse_size_or_zero,
    )] = None
    memory: Annotated[tuple[int, ...], Option(
        "--gpu-memory", "Most memory that --ngl auto uses of each device, such as 8GiB,6GiB; the last size applies to "
        "all further devices. Default: what is free.", metavar="SIZE,…", convert=parse_sizes,
    )] = ()
    names: Annotated[tuple[str, ...], Option(
        "--device", "Devices to use, in this order, such as CUDA0,CUDA1; none for the CPU alone. Default: all.",
        metavar="NAME,…", convert=words,
    )] = ()
    main_gpu: Annotated[int | None, Option(
        "--main-gpu", "Number of the device to use with --split-mode none, from 0. auto is the one with the most free "
        "memory.", auto=True, least=0, metavar="N",
    )] = None
    split_mode: Annotated[SplitMode, Option(
        "--split-mode", "How several GPUs share a model (layer, none, row): each has consecutive layers, only one is "
        "used, or each has a part of every matrix, which CUDA and SYCL support.",
    )] = "layer"
    tensor_split: Annotated[tuple[float, ...], Option(
        "--tensor-split", "Share of the layers for each device, such as 3,1. By default, a model that fits on one "
        "device is put there, and others are shared out by free memory.", metavar="N,…", convert=parse_shares,
    )] = ()
    tensor_overrides: Annotated[tuple[tuple[str, str], ...], Option(
        "-ot, --override-tensor", "Put tensors whose names match a regular expression on another device. For a model "
        f'with experts that does not fit: "{EXPERTS_ON_CPU}". Can be repeated.',
        metavar="PATTERN=DEVICE", convert=parse_overrides,
    )] = ()
    workers: Annotated[tuple[str, ...], Option(
        "--rpc", "Workers whose devices are used too (see turbopilot worker). Their protocol has no authentication: "
        "use a private network.", metavar="HOST:PORT,…", convert=words,
    )] = ()

    @property
    def wish(self) -> PlacementWish:
        """The options that decide where the parts of a model go."""
        margin = DEFAULT_MARGIN if self.margin is None else self.margin
        return PlacementWish(
            self.n_gpu_layers, margin, self.memory, self.main_gpu, self.tensor_split, self.split_mode,
            self.names, self.workers, self.tensor_overrides,
        )


@dataclass(frozen=True, slots=True)
class MainMemoryOptions:
    """Options of `serve` for weights in main memory."""

    maps: Annotated[bool, Option(
        "--no-mmap/--mmap", "Read model files into memory instead of mapping them.",
    )] = True
    locks: Annotated[bool, Option(
        "--mlock/--no-mlock", "Keep the weights in main memory: the system may not swap them out or drop them.",
    )] = False
    numa: Annotated[Numa, Option(
        "--numa", "How threads use a machine with several memory nodes (off, distribute, isolate, numactl). It applies "
        "to the whole process.",
    )] = "off"

# fmt: on
