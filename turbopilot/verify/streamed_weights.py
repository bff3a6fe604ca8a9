"""Lazy loading of PyTorch weights: each module reads its parameters just before it runs.

Files are memory-mapped, so the operating system loads and evicts pages as needed. If the model does not fit in memory,
modules also drop their parameters after they run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turbopilot.verify.stored_parameters import StoredParameter, stored

if TYPE_CHECKING:
    import torch

    Load = Callable[[str, torch.Tensor], torch.Tensor]


def read_state(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint, memory-mapped.

    Read *.safetensors if there are any, otherwise pytorch_model*.bin with `weights_only=True`.
    """
    import torch
    from safetensors.torch import load_file

    state: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        state.update(load_file(path))
    for path in () if state else sorted(folder.glob("pytorch_model*.bin")):
        state.update(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    if not state:
        raise FileNotFoundError("no weights: neither *.safetensors nor pytorch_model*.bin")
    return state


@contextmanager
def weightless() -> Iterator[None]:
    """Create models whose parameters are on the meta device, without memory; buffers are created as usual.

    Buffers that checkpoints do not store (rotary frequencies, causal masks) are computed when a module is created, so
    the whole model cannot be created on the meta device.
    """
    import torch
    from torch import nn

    register = nn.Module.register_parameter
    resets = {kind: kind.reset_parameters for kind in (nn.Linear, nn.Embedding, nn.LayerNorm)}

    def without_memory(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:  # a tied parameter stays the same object
            param = nn.Parameter(param.to("meta"), requires_grad=False)
        register(module, name, param)

    def nothing(_: nn.Module) -> None:
        """Skip random initialization."""

    try:
        setattr(nn.Module, "register_parameter", without_memory)  # noqa: B010 — mypy knows methods cannot be assigned
        for kind in resets:
            setattr(kind, "reset_parameters", nothing)  # noqa: B010
        with torch.no_grad():
            yield
    finally:
        setattr(nn.Module, "register_parameter", register)  # noqa: B010
        for kind, reset in resets.items():
            setattr(kind, "reset_parameters", reset)  # noqa: B010


def stream(
    model: Any, state: Mapping[str, torch.Tensor], load: Load, *, dropped: bool
) -> list[str]:
    """Make every module of a `weightless` model load its own parameters just before it runs.

    `load` converts a checkpoint tensor, given with its name, into the parameter. If `dropped`, all modules except the
    output head, which runs often, drop their parameters after they run. Return the names of parameters that the
    checkpoint lacks or stores with another shape.
    """
    # A tied matrix is one parameter with two names; checkpoints store it under the first.
    named = list(model.named_parameters(remove_duplicate=False))
    first = {id(p): name for name, p in reversed(named)}
    head = model.get_output_embeddings()
    problems = []
    for path, module in model.named_modules():
        own: dict[str, tuple[str, StoredParameter, Any]] = {}
        for name, empty in module.named_parameters(recurse=False):
            full = first[id(empty)]
            found = stored(model.base_model_prefix, (full, f"{path}.{name}"), len(empty), state)
            if found is None or found.shape != tuple(empty.shape):
                problems.append(full)
            else:
                own[name] = (full, found, empty)
        if own:
            _hook(module, own, load, dropped=dropped and module is not head)
    return sorted(set(problems))


def _hook(
    module: Any, own: dict[str, tuple[str, StoredParameter, Any]], load: Load, *, dropped: bool
) -> None:
    from torch import nn

    def before(_module: Any, _given: Any) -> None:
        for name, (full, parts, empty) in own.items():
            if module._parameters[name] is empty:
                weight = load(full, parts.read())
                module._parameters[name] = nn.Parameter(weight, requires_grad=False)

    def after(_module: Any, _given: Any, _out: Any) -> None:
        for name, (_, _, empty) in own.items():
            module._parameters[name] = empty

    module.register_forward_pre_hook(before)
    if dropped:
        module.register_forward_hook(after)
