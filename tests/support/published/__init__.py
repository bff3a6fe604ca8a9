"""Published models: the fields of config.json that the converter reads, and the names and shapes of the tensors.

Each JSON file has `repository`, `size` and `config`. `buffers` lists tensors of the checkpoint that transformers' class
does not have. `tensors` lists all tensors if transformers has no class for the model. "{i}" stands for every layer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from converters.hfconfig import HfConfig
from converters.source_tensor import SourceTensor

FOLDER: Final = Path(__file__).parent
NAMES: Final = sorted(p.stem for p in FOLDER.glob("*.json"))


@dataclass(frozen=True)
class Published:
    """Model without weights: `sources` refer to a file that does not exist."""

    repository: str
    config: HfConfig
    sources: dict[str, SourceTensor]


@cache
def published(name: str) -> Published:
    said = _read(name)
    config = said["config"]
    n_layer = config.get("num_hidden_layers") or config["n_layer"]
    shapes = _every(said.get("tensors", {}), n_layer) or _by_class(config)
    shapes |= _every(said.get("buffers", {}), n_layer)
    nowhere = Path("model.safetensors")
    sources = {n: SourceTensor(n, "F16", shape, nowhere, 0) for n, shape in shapes.items()}
    return Published(said["repository"], HfConfig(config), sources)


def published_config(name: str) -> HfConfig:
    return HfConfig(_read(name)["config"])


def _read(name: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return said


def _every(table: dict[str, list[int]], n_layer: int) -> dict[str, tuple[int, ...]]:
    return {
        name.format(i=i): tuple(shape)
        for name, shape in table.items()
        for i in range(n_layer if "{i}" in name else 1)
    }


def _by_class(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    values = {k: v for k, v in config.items() if k != "architectures"}
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config["model_type"] == "gpt_neox":  # the name in files, which the class translates
        shapes["embed_out.weight"] = shapes.pop("lm_head.weight")
    if model.config.tie_word_embeddings:  # saved once
        shapes = {
            n: s for n, s in shapes.items() if n not in ("lm_head.weight", "embed_out.weight")
        }
    return _hub_names(shapes, config["model_type"])


# Tensor of all experts in transformers' classes → tensors of each expert on the Hub.
_OF_EXPERTS: Final = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
_MIXTRAL: Final = {
    ".mlp.": ".block_sparse_moe.", ".gate_proj.": ".w1.", ".up_proj.": ".w3.", ".down_proj.": ".w2.",
}  # fmt: skip


def _hub_names(shapes: dict[str, tuple[int, ...]], model_type: str) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        layer, _, matrix = name.partition(".experts.")
        if matrix not in _OF_EXPERTS:
            found[name] = shape
            continue
        n, rows, columns = shape
        parts = _OF_EXPERTS[matrix]
        for e in range(n):
            for part in parts:
                found[f"{layer}.experts.{e}.{part}.weight"] = (rows // len(parts), columns)
    for here, there in _MIXTRAL.items() if model_type == "mixtral" else ():
        found = {name.replace(here, there): shape for name, shape in found.items()}
    return found
