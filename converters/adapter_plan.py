"""Plan of an adapter's conversion: which rows of which matrices change each GGUF tensor of the model.

PEFT adds scaling · B·A to a weight (out, in), with A (r, in) and B (out, r). A GGUF tensor consists of rows of source
tensors, so the same rows of B, with the same A, change it in the same way: the plan of the base model's conversion
states them. If a GGUF tensor stacks rows of several source tensors, A is stacked and B is block-diagonal.

Source: PEFT's `get_delta_weight` in src/peft/tuners/lora/layer.py; llama.cpp's src/llama-adapter.h (`get_scale`: one
alpha for all tensors, divided by each tensor's rank) and `build_inp_embd` in src/llama-graph.cpp (the embedding's A is
transposed).
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from converters import registry
from converters.adapter_config import CONFIG_NAME, MERGE, LoraSettings, read_settings
from converters.checkpoint import Checkpoint
from converters.encode import Array, encode
from converters.hfconfig import HfConfig
from converters.plan import MAX_LISTED, plan_of_config
from converters.planned import Plan, PlannedTensor
from converters.source_tensor import SourceTensor
from turbopilot.base.errors import TensorMismatch
from turbopilot.base.quoting import quoted
from turbopilot.formats.gguf.check_adapter import A_SUFFIX, B_SUFFIX, EMBEDDING, can_adapt

# base_model.model.MODULE.lora_A.weight; a state that was saved without PEFT has the adapter's name before ".weight".
_NAME: Final = re.compile(
    r"(base_model\.model\.)?(?P<module>.+)\.lora_(embedding_)?(?P<part>[AB])(\.\w+)?"
)
_COPY: Final = re.compile(r"(base_model\.model\.)?(?P<module>.+)\.base_layer\.weight")


@dataclass(frozen=True, slots=True)
class LowRankPair:
    """A and B of one module, in the shapes of a linear layer (for an embedding: of its transpose)."""

    module: str
    a: SourceTensor  # (r, in)
    b: SourceTensor  # (out, r)
    scaling: float

    @property
    def rank(self) -> int:
        """Number of rows of A."""
        return self.a.shape[0]


@dataclass(frozen=True, slots=True)
class AdaptedTensor:
    """A GGUF tensor of the model with the pairs that change it, by the name of their source tensor."""

    target: PlannedTensor
    pairs: Mapping[str, LowRankPair]

    @property
    def rank(self) -> int:
        """Rank of the change."""
        return sum(pair.rank for pair in self.pairs.values())

    @property
    def alpha(self) -> float:
        """The alpha with which llama.cpp scales the change like PEFT, if all pairs have the same scaling."""
        return next(iter(self.pairs.values())).scaling * self.rank

    def planned(self, dtype: str) -> tuple[PlannedTensor, PlannedTensor]:
        """Return the two GGUF tensors, without parts."""
        n_out, n_in = self.target.shape
        shape_a, shape_b = (self.rank, n_in), (n_out, self.rank)
        if self.target.name == EMBEDDING:
            shape_a, shape_b = (n_out, self.rank), (n_in, self.rank)
        names = (self.target.name + A_SUFFIX, self.target.name + B_SUFFIX)
        return PlannedTensor(names[0], shape_a, dtype, ()), PlannedTensor(
            names[1], shape_b, dtype, ()
        )


@dataclass(frozen=True, slots=True)
class AdapterPlan:
    """A planned conversion of an adapter."""

    base: Plan
    settings: LoraSettings
    adapted: tuple[AdaptedTensor, ...]

    @property
    def alpha(self) -> float:
        """The alpha of the file."""
        return self.adapted[0].alpha


def plan_adapter(folder: Path, base: Path, tensors: Mapping[str, SourceTensor]) -> AdapterPlan:
    """Plan which rows of which matrices change each GGUF tensor of the model; report all errors at once.

    Raises:
        UnsupportedModel: see `convert_adapter`.
        TensorMismatch: tensors are unknown, missing, misshapen, or adapt what llama.cpp cannot adapt.
    """
    settings, config = read_settings(folder), HfConfig.read(base)
    spec = registry.find(config)
    model = plan_of_config(spec, config)
    faults: list[str] = []
    pairs = _pairs(tensors, settings, model, faults)
    adapted = []
    for target in model.tensors:
        own = {p.source.name: pairs[p.source.name] for p in target.parts if p.source.name in pairs}
        if own:
            faults += _faults(target, own, model)
            adapted.append(AdaptedTensor(target, own))
    if not pairs and not faults:
        faults.append("the adapter has no tensors")
    if faults:
        more = [f"… and {len(faults) - MAX_LISTED} more"] if len(faults) > MAX_LISTED else []
        title = f"{folder}: the adapter does not fit {base / 'config.json'}, {spec.architecture}:"
        raise TensorMismatch(
            "\n  ".join((title, *faults[:MAX_LISTED], *more)),
            hint=(
                "check that --base is the model that the adapter was trained on. If the adapter has added tokens or "
                f"trained whole layers, {MERGE}"
            ),
        )
    return AdapterPlan(model, settings, tuple(adapted))


def _pairs(
    tensors: Mapping[str, SourceTensor], settings: LoraSettings, model: Plan, faults: list[str]
) -> dict[str, LowRankPair]:
    """Return name of the model's source tensor → pair; add tensors that belong to none to `faults`.

    PEFT also saves a copy of an adapted embedding, which is not used.
    """
    sources = {part.source.name: part.source for t in model.tensors for part in t.parts}
    found: dict[str, dict[str, SourceTensor]] = {}
    for name, tensor in tensors.items():
        named = _NAME.fullmatch(name.removesuffix(".weight"))
        if copied := _COPY.fullmatch(name):
            source = _source_name(f"{copied['module']}.weight", sources, model.spec.prefix)
            if not source or sources[source].shape != tensor.shape:
                faults.append(f"misshapen: {quoted(name)} is {tensor.shape}")
        elif named is None:
            faults.append(f"unknown: {quoted(name)} is not part of a low-rank pair")
        else:
            parts = found.setdefault(named["module"], {})
            if named["part"] in parts:
                faults.append(f"twice: {quoted(name)}")
            parts[named["part"]] = tensor
    pairs: dict[str, LowRankPair] = {}
    for module, parts in found.items():
        source = _source_name(f"{module}.weight", sources, model.spec.prefix)
        if len(parts) < 2:
            one = next(iter(parts.values()))
            faults.append(f"missing: the other matrix of {quoted(one.name)}")
        elif not source:
            faults.append(
                f"unknown: the model has no matrix {quoted(module)}, or ties it to the token embedding"
            )
        else:
            pairs[source] = LowRankPair(module, parts["A"], parts["B"], settings.scaling(module))
            if (wanted := settings.rank_of(module)) != pairs[source].rank:
                faults.append(
                    f"misshapen: {quoted(parts['A'].name)} has the rank {pairs[source].rank}, but "
                    f"{CONFIG_NAME} states {wanted}"
                )
    return pairs


def _source_name(name: str, sources: Container[str], prefix: str) -> str:
    """Return the family's name of a tensor; "" if it has none. Some exports omit the family's prefix."""
    return next((n for n in (name, prefix + name, name.removeprefix(prefix)) if n in sources), "")


def _faults(target: PlannedTensor, pairs: Mapping[str, LowRankPair], model: Plan) -> Iterator[str]:
    """Yield what keeps a tensor from being adapted."""
    is_tied = "output.weight" not in {t.name for t in model.tensors}
    modules = ", ".join(pair.module for pair in pairs.values())
    whole = all(p.rows is None for p in target.parts if p.transpose)
    if len(target.shape) != 2 or not whole or not can_adapt(model.spec.gguf, target.name):
        yield f"unsupported: llama.cpp cannot adapt {modules} ({target.name})"
        return
    if target.name == EMBEDDING and is_tied:
        yield f"unsupported: llama.cpp cannot adapt {modules}, since the model uses it as its output too"
    for part in target.parts:
        if pair := pairs.get(part.source.name):
            n_out, n_in = part.source.shape[::-1] if part.transpose else part.source.shape
            if target.name == EMBEDDING:
                n_out, n_in = n_in, n_out
            for tensor, wanted in ((pair.a, (pair.rank, n_in)), (pair.b, (n_out, pair.rank))):
                if tensor.shape != wanted:
                    yield f"misshapen: {tensor.name} is {tensor.shape}, the model requires {wanted}"
                if tensor.dtype not in ("F32", "F16", "BF16"):
                    yield f"unsupported type: {tensor.name} is {tensor.dtype}"


def matrices(one: AdaptedTensor, checkpoint: Checkpoint, alpha: float) -> tuple[Array, Array]:
    """Return lora_a and lora_b of a tensor in F32, scaled for a file with this alpha."""
    # B's factor makes up for llama.cpp's scale, alpha / rank; it is 1 unless scalings or ranks differ.
    factors = {name: np.float32(p.scaling * one.rank / alpha) for name, p in one.pairs.items()}
    a = {name: _read(checkpoint, pair.a) for name, pair in one.pairs.items()}
    b = {name: _read(checkpoint, pair.b) * factors[name] for name, pair in one.pairs.items()}
    if one.target.name == EMBEDDING:
        ((name, transposed),), (part,) = a.items(), one.target.parts
        return np.ascontiguousarray(transposed.T), b[name] * np.float32(part.scale)
    columns = dict(zip(a, np.cumsum([0, *(len(m) for m in a.values())]), strict=False))
    stacked = np.zeros((one.target.shape[0], one.rank), np.float32)
    row = 0
    for part in one.target.parts:
        if (name := part.source.name) in b:
            rows = b[name] if part.rows is None else b[name][part.rows]
            rows, at = rows * np.float32(part.scale), columns[name]
            stacked[row : row + len(rows), at : at + rows.shape[1]] = rows
        row += part.shape[0]
    return np.concatenate(list(a.values())), stacked


def _read(checkpoint: Checkpoint, tensor: SourceTensor) -> Array:
    return encode(checkpoint.read_rows(tensor, 0, tensor.shape[0]), tensor.dtype, "F32")
