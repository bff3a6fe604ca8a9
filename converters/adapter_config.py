"""Settings of a PEFT LoRA adapter (adapter_config.json), and whether they can be expressed in GGUF.

Source: PEFT's `LoraConfig` in src/peft/tuners/lora/config.py, and `LoraLayer.update_layer` in layer.py for the scaling.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from converters.config_ranges import RANGES
from converters.hfconfig import HfConfig
from converters.spec import Require
from turbopilot.base.errors import UnsupportedModel
from turbopilot.base.quoting import quoted

CONFIG_NAME: Final = "adapter_config.json"
MERGE: Final = (
    "merge the adapter into its checkpoint with PEFT's merge_and_unload, and convert that"
)
_RULES: Final = (
    Require("peft_type", ("LORA",)),
    Require("bias", ("none",), absent="none"),
    Require("lora_bias", (False,), absent=False),
    Require("use_dora", (False,), absent=False),
    Require("use_qalora", (False,), absent=False),
    # The others (PiSSA, OLoRA, CorDA, LoftQ) change the weights of the model when training begins.
    Require("init_lora_weights", (True, False, "gaussian", "eva", "orthogonal"), absent=True),
)
# Fields that must be empty, and what they do.
_EMPTY: Final = {
    "modules_to_save": "whole layers are trained",
    "trainable_token_indices": "tokens are trained",
    "target_parameters": "parameters other than those of layers are adapted",
    "layer_replication": "layers of the model are repeated",
    "alora_invocation_tokens": "the adapter takes effect only after these tokens",
}
# PEFT takes a key as a regular expression; a name is matched like one, except that "." stands for itself.
_NAME: Final = re.compile(r"\^?[\w.-]+")


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Settings of an adapter.

    `ranks` and `alphas` are the values of modules that differ from `rank` and `alpha`, by the end of their names.
    """

    base: str  # path or repository of the model that it was trained on; "" if unknown
    rank: int
    alpha: float
    is_rank_stabilized: bool
    ranks: Mapping[str, float]
    alphas: Mapping[str, float]

    def rank_of(self, module: str) -> int:
        """Return the rank of a module."""
        return int(_matching(self.ranks, module, self.rank))

    def scaling(self, module: str) -> float:
        """Return the factor of B·A in a module: alpha / r, or alpha / √r if it is rank-stabilized."""
        rank, alpha = self.rank_of(module), _matching(self.alphas, module, self.alpha)
        return alpha / math.sqrt(rank) if self.is_rank_stabilized else alpha / rank


def is_adapter_folder(folder: Path) -> bool:
    """Return whether a folder contains an adapter and no model."""
    return (folder / CONFIG_NAME).is_file() and not (folder / "config.json").is_file()


def read_settings(folder: Path) -> LoraSettings:
    """Read adapter_config.json.

    Raises:
        UnsupportedModel: the adapter is not a plain LoRA adapter; lists every reason.
        CorruptCheckpoint: the file cannot be read.
    """
    config = HfConfig.read(folder, CONFIG_NAME)
    config.require(_RULES)
    rank, alpha = config.integer("r", absent=8), config.number("lora_alpha", absent=8)
    stabilized = config.flag("use_rslora", absent=False)
    problems = list(config.problems)
    for name, what in _EMPTY.items():
        if config.values.get(name) not in (None, [], {}):
            problems.append(f"{name} is set: {what}")
    patterns = [_pattern(config, name, of, problems) for name, of in _PATTERNS.items()]
    if problems:
        raise UnsupportedModel(
            f"{config.where}: the adapter cannot be converted faithfully:",
            reasons=problems,
            hint=MERGE,
        )
    base = config.values.get("base_model_name_or_path")
    return LoraSettings(
        base if isinstance(base, str) else "", rank, alpha, stabilized, patterns[0], patterns[1]
    )


_PATTERNS: Final = {"rank_pattern": "r", "alpha_pattern": "lora_alpha"}


def _pattern(config: HfConfig, name: str, field: str, problems: list[str]) -> Mapping[str, float]:
    """Return a mapping from names of modules to values of a field; add invalid entries to `problems`."""
    values: Any = config.values.get(name) or {}
    if not isinstance(values, dict):
        problems.append(f"{name} is not an object")
        return {}
    for key, value in values.items():
        whole = type(value) is int or (type(value) is float and field != "r")
        if not whole or value not in RANGES[field]:
            problems.append(f"{name}: the value of {quoted(key)} is {quoted(value)}")
        if not _NAME.fullmatch(key):
            problems.append(f"{name}: {quoted(key)} is a regular expression, not a name")
    return values


def _matching(values: Mapping[str, float], module: str, otherwise: float) -> float:
    """Return the value of the first name that a module's name is or ends with. Source: PEFT's `get_pattern_key`."""
    for name, value in values.items():
        plain = name.removeprefix("^")
        if module == plain or (plain == name and module.endswith(f".{name}")):
            return value
    return otherwise
