"""Deliberate faults in checkpoints, to test that verify notices a model converted from one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from safetensors.torch import load_file, save_file

State: TypeAlias = "dict[str, torch.Tensor]"
Fault: TypeAlias = "Callable[[State, dict[str, Any]], None]"

_LAYER: Final = re.compile(r"(.*\.(?:h|layers)\.)(\d+)(\..*)")


def faulty_checkpoint(source: Path, target: Path, fault: Fault) -> Path:
    """Copy a checkpoint and apply a fault to the copy."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    state = load_file(target / "model.safetensors")
    config = json.loads((target / "config.json").read_text())
    fault(state, config)
    contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(contiguous, target / "model.safetensors", {"format": "pt"})
    (target / "config.json").write_text(json.dumps(config))
    return target


def _layers(config: dict[str, Any]) -> str:
    return "n_layer" if "n_layer" in config else "num_hidden_layers"


def _rename(state: State, number: Callable[[int], int | None]) -> None:
    """Renumber the layers; `number` returns None to remove a layer."""
    for name in list(state):
        if found := _LAYER.fullmatch(name):
            tensor, n = state.pop(name), number(int(found[2]))
            if n is not None:
                state[f"\0{found[1]}{n}{found[3]}"] = tensor
    for name in list(state):
        state[name.removeprefix("\0")] = state.pop(name)


def layer_left_out(state: State, config: dict[str, Any]) -> None:
    """Remove the second layer."""
    _rename(state, lambda i: None if i == 1 else i - (i > 1))
    config[_layers(config)] -= 1


def layer_doubled(state: State, config: dict[str, Any]) -> None:
    """Duplicate the second layer."""
    second = {
        m[1] + "2" + m[3]: t for n, t in state.items() if (m := _LAYER.fullmatch(n)) and m[2] == "1"
    }
    _rename(state, lambda i: i + (i > 1))
    state.update({name: tensor.clone() for name, tensor in second.items()})
    config[_layers(config)] += 1


def epsilon_wrong(state: State, config: dict[str, Any]) -> None:
    """Multiply the epsilon of the norms by ten."""
    name = next(n for n in ("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps") if n in config)
    config[name] *= 10


def rope_base_wrong(state: State, config: dict[str, Any]) -> None:
    """Set the RoPE base to 500,000 instead of 10,000."""
    config.setdefault("rope_parameters", {"rope_type": "default"})["rope_theta"] = 500000.0
    config["rope_theta"] = 500000.0


def transposed(state: State, config: dict[str, Any]) -> None:
    """Transpose the first square matrix."""
    name = next(
        n for n, t in state.items() if t.ndim == 2 and t.shape[0] == t.shape[1] and ".0." in n
    )
    state[name] = state[name].T


def of_q4_0(state: State, config: dict[str, Any]) -> None:
    """Quantize every matrix to Q4_0 and dequantize it."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    kind = GGMLQuantizationType.Q4_0
    for name, tensor in state.items():
        if tensor.ndim == 2:
            values = dequantize(quantize(tensor.float().numpy(), kind), kind)
            state[name] = torch.from_numpy(np.ascontiguousarray(values))
