"""Lookup of a parameter of transformers in a checkpoint, which may store it under another name or in parts.

transformers keeps all experts of a layer in two parameters, (E, 2·X, D) with the gates above the ups and (E, D, X).
Checkpoints have three matrices for each expert, and are joined when the parameter is loaded.

Source: transformers' conversion_mapping.py (`gpt_neox`, `qwen2_moe`, `mixtral`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    import torch

    State: TypeAlias = Mapping[str, torch.Tensor]

# End of a parameter's name in transformers → end in checkpoints.
_NAMED_BEFORE: Final = (
    ("lm_head.weight", "embed_out.weight"),  # GPT-NeoX
    (".mlp.gate.weight", ".block_sparse_moe.gate.weight"),  # Mixtral
)
# End of a parameter's name → ends of the matrices of one expert, from top to bottom. "{e}" is the expert's number.
_OF_EXPERTS: Final = (
    (".experts.gate_up_proj", (".experts.{e}.gate_proj.weight", ".experts.{e}.up_proj.weight")),
    (".experts.down_proj", (".experts.{e}.down_proj.weight",)),
    # Mixtral
    (
        ".mlp.experts.gate_up_proj",
        (".block_sparse_moe.experts.{e}.w1.weight", ".block_sparse_moe.experts.{e}.w3.weight"),
    ),
    (".mlp.experts.down_proj", (".block_sparse_moe.experts.{e}.w2.weight",)),
)


@dataclass(frozen=True, slots=True)
class StoredParameter:
    """A parameter's tensors: a single one, or those of each expert, which are joined along the rows and stacked."""

    experts: tuple[tuple[torch.Tensor, ...], ...]
    stacked: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter."""
        if not self.stacked:
            return tuple(self.experts[0][0].shape)
        rows, columns = sum(t.shape[0] for t in self.experts[0]), self.experts[0][0].shape[1]
        return len(self.experts), rows, columns

    def read(self) -> torch.Tensor:
        """Return the whole parameter."""
        import torch

        if not self.stacked:
            return self.experts[0][0]
        return torch.stack([torch.cat(list(matrices)) for matrices in self.experts])


def stored(
    prefix: str, names: tuple[str, ...], n_experts: int, state: State
) -> StoredParameter | None:
    """Return a parameter, which the model has under `names`; None if the checkpoint lacks it.

    Checkpoints may add the base model's prefix, or omit it. `n_experts` is the parameter's first dimension.
    """
    for name in names:
        for spelt in (name, *_replaced_end(name)):
            for full in _prefixed(prefix, spelt):
                if full in state:
                    return StoredParameter(((state[full],),), stacked=False)
        for end, parts in _OF_EXPERTS:
            if not name.endswith(end):
                continue
            for start in _prefixed(prefix, name.removesuffix(end)):
                found = [
                    [state.get(start + part.format(e=e)) for part in parts]
                    for e in range(n_experts)
                ]
                whole = tuple(tuple(t for t in one if t is not None) for one in found)
                if all(len(one) == len(parts) for one in whole):
                    return StoredParameter(whole)
    return None


def _replaced_end(name: str) -> Iterator[str]:
    for end, before in _NAMED_BEFORE:
        if name.endswith(end):
            yield name.removesuffix(end) + before


def _prefixed(prefix: str, name: str) -> tuple[str, str, str]:
    return name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"
