"""LoRA adapters of a model, and the choice of those that a request uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, TypeAlias

from serve.options import Option
from turbopilot.base.errors import AdaptersFixed, InvalidRequest

# (adapter's index, scale) pairs in ascending order, without scales of 0. All sequences of a batch are computed with the
# same set, and a KV cache computed with one set is wrong for every other.
AdapterSet: TypeAlias = tuple[tuple[int, float], ...]

# Larger scales give weights that no training has seen. llama.cpp has no limit.
MOST_SCALE: Final = 1000.0


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """An adapter's file, and its scale for requests that choose none."""

    path: Path
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class AdapterOptions:
    """LoRA adapters of the default model, and whether requests may choose among them."""

    files: tuple[AdapterFile, ...] = ()
    can_switch: Annotated[
        bool,
        Option(
            "--lora-switch/--no-lora-switch",
            "Let clients choose the scales of LoRA adapters: with the field lora of a request, or for all requests "
            "with POST /lora-adapters. Requests with different scales take turns and share no cache.",
        ),
    ] = False


@dataclass(frozen=True, slots=True)
class AdapterState:
    """A loaded adapter: its index, its file, and its present scale for requests that choose none."""

    id: int
    path: Path
    scale: float


def split_scale(text: str) -> tuple[str, str, str]:
    r"""Return the file, the colon and the scale of FILE[:SCALE]; a colon in a path of Windows belongs to the file.

    >>> split_scale("style.gguf:0.5")
    ('style.gguf', ':', '0.5')
    >>> split_scale(r"C:\style.gguf")
    ('C:\\style.gguf', '', '')
    """
    file, colon, scale = text.rpartition(":")
    return (file, colon, scale) if file and not {"/", "\\"} & {*scale} else (text, "", "")


class AdapterScales:
    """Scales of a model's adapters. Callable from any thread."""

    def __init__(self, options: AdapterOptions = AdapterOptions()) -> None:
        self._options = options
        self._set = self._checked({i: f.scale for i, f in enumerate(options.files)})

    @property
    def states(self) -> tuple[AdapterState, ...]:
        """All adapters, in the order of the command line."""
        scales = dict(self._set)
        return tuple(
            AdapterState(i, f.path, scales.get(i, 0.0)) for i, f in enumerate(self._options.files)
        )

    @property
    def paths(self) -> Sequence[Path]:
        """The adapters' files."""
        return [f.path for f in self._options.files]

    def chosen(self, wanted: Mapping[int, float] | None) -> AdapterSet:
        """Return the adapters of a request.

        Args:
            wanted: scale by index; adapters that are missing are off. None means the server's scales, which also apply
                if requests may not choose.

        Raises:
            InvalidRequest: there is no adapter with this index.
        """
        return self._checked(wanted) if wanted and self._options.can_switch else self._set

    def set(self, wanted: Mapping[int, float]) -> None:
        """Set the scales for requests that choose none; adapters that are missing are off.

        Raises:
            AdaptersFixed: the server does not allow it.
            InvalidRequest: there is no adapter with this index.
        """
        if not self._options.can_switch:
            raise AdaptersFixed(
                "the scales of LoRA adapters cannot be changed",
                hint="start the server with --lora-switch",
            )
        self._set = self._checked(wanted)

    def _checked(self, wanted: Mapping[int, float]) -> AdapterSet:
        n = len(self._options.files)
        if unknown := [i for i in wanted if not 0 <= i < n]:
            loaded = f"ids are 0 to {n - 1}" if n else "none is loaded"
            raise InvalidRequest(f"there is no LoRA adapter {unknown[0]}: {loaded}", param="lora")
        return tuple(sorted((i, float(scale)) for i, scale in wanted.items() if scale))
