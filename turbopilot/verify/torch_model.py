"""A checkpoint run by transformers, whole in memory or a matrix at a time.

A checkpoint's own code never runs: `trust_remote_code` is off, pickles are read as weights only (both by
transformers), and nothing is looked up on the network.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from turbopilot.base.errors import CorruptCheckpoint, InvalidInput
from turbopilot.verify.reference_layouts import Layout, foreign_layout
from turbopilot.verify.source import Change, Logits
from turbopilot.verify.streamed_weights import read_state, stream, weightless
from turbopilot.verify.torch_words import plain_errors, plain_memory, quiet

if TYPE_CHECKING:
    import torch

Precision: TypeAlias = Literal["f32", "bf16"]
_NOISE_BLOCK = 32  # weights that share a scale in most of ggml's types


@dataclass(frozen=True, slots=True)
class Device:
    """Where and how precisely the reference runs.

    Attributes:
        name: "cpu", "cuda", "cuda:1", "mps".
        precision: of weights and activations. What is not "f32" is itself off by about NMSE 1e-5.
    """

    name: str = "cpu"
    precision: Precision = "f32"


class TorchModel:
    """A checkpoint's network.

    Args:
        folder: holds config.json and the weights.
        config: what config.json says.
        device: where it runs.
        change: what is different from the checkpoint.
        streamed: read each matrix from disk when it is needed and drop it again.

    Raises:
        UnsupportedModel: transformers knows no such architecture without running the checkpoint's code.
        CorruptCheckpoint: a file cannot be read, or weights are missing from it.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        device: Device,
        change: Change,
        *,
        streamed: bool,
    ) -> None:
        import torch

        self.streamed = streamed
        self.heard: Callable[[float], None] = _nobody
        self._device = torch.device(device.name)
        self._dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[device.precision]
        layout = foreign_layout(config)
        with quiet(), plain_errors(folder):
            if streamed:
                state = read_state(folder)
                self._model = _skeleton(folder, layout.config if layout else None, self._dtype)
                problems = stream(
                    self._model,
                    layout.arrange(state) if layout else state,
                    partial(self._load, noise=change.noise),
                    keep=self._model.get_output_embeddings(),
                )
                _to(self._model, self._device)
            else:
                self._model, problems = _whole(folder, layout, self._dtype)
                self._model.to(self._device)
                if change.noise:
                    with torch.inference_mode():
                        for name, weight in self._model.named_parameters():
                            weight.copy_(_noisy(name, weight, change.noise))
        if problems:
            names = ", ".join(problems[:5]) + (" …" if len(problems) > 5 else "")
            raise CorruptCheckpoint(
                f"{folder}: {len(problems)} weights are missing or misshapen: {names}",
                hint="download the checkpoint again",
            )
        self._model.eval()
        parameters = list(self._model.parameters())
        self._loaded, self._n_parameters = 0, len(parameters)
        self.n_weights = sum(p.numel() for p in parameters)
        self.changed = not change.tanh_gelu or _use_tanh_gelu(self._model)
        head = self._model.get_output_embeddings()
        self.n_vocab = int(head.weight.shape[0])

    def _load(self, name: str, weight: torch.Tensor, *, noise: float) -> torch.Tensor:
        """A matrix as it is needed now; tells of the share of all that was read in this pass."""
        self._loaded += 1
        self.heard(min(1.0, self._loaded / self._n_parameters))
        return _noisy(name, weight.to(self._device, self._dtype), noise)

    def hidden(self, windows: Sequence[Sequence[int]]) -> list[Logits]:
        """What the output head would be given: (T, D) of each window; shorter ones are padded behind, causally."""
        import torch

        self._loaded = 0
        longest = max(map(len, windows))
        ids = [[*one, *[0] * (longest - len(one))] for one in windows]
        with torch.inference_mode(), plain_memory():
            out = self._model.base_model(
                input_ids=torch.tensor(ids, device=self._device), use_cache=False
            ).last_hidden_state.to("cpu", torch.float32)
        return [out[i, : len(one)].numpy() for i, one in enumerate(windows)]

    def head(self, hidden: Logits) -> Logits:
        """(P, D) → (P, V) logits."""
        import torch

        with torch.inference_mode(), plain_memory():
            given = torch.from_numpy(np.array(hidden, np.float32)).to(self._device, self._dtype)
            out = self._model.get_output_embeddings()(given)
            logits: Logits = out.to("cpu", torch.float32).numpy()
        return logits

    def continued(self, ids: Sequence[int], n: int) -> list[int]:
        """The n tokens after the ids, always the likeliest."""
        import torch

        given = torch.tensor([list(ids)], device=self._device)
        cache: Any = None
        found: list[int] = []
        with torch.inference_mode():
            for _ in range(n):
                out = self._model(input_ids=given, past_key_values=cache, use_cache=True)
                cache, given = out.past_key_values, out.logits[:, -1:].argmax(-1)
                found.append(int(given))
        return found


def _nobody(_share: float) -> None:
    """Nobody hears."""


def versions() -> dict[str, str]:
    """Of the packages that run the reference.

    Raises:
        InvalidInput: they are not installed.
    """
    try:
        import torch
        import transformers
    except ImportError as e:
        raise InvalidInput(
            f"verify compares with PyTorch, which cannot be imported: {e}",
            hint="pip install 'turbopilot[verify]'",
        ) from e
    return {"torch": str(torch.__version__), "transformers": str(transformers.__version__)}


def memory_of(device: Device) -> int:
    """Bytes that a model may take there, beside everything else.

    Raises:
        InvalidInput: there is no such device.
    """
    import torch

    from turbopilot.base.machine import total_bytes

    try:
        torch.empty(1, device=device.name)
        if device.name.startswith("cuda"):
            return int(torch.cuda.mem_get_info(torch.device(device.name))[0] * 0.85)
    except (RuntimeError, AssertionError) as e:
        raise InvalidInput(
            f"--device {device.name}: PyTorch cannot use it: {str(e).splitlines()[0]}",
            hint="leave it out to run on the CPU, or install a PyTorch that is made for it",
        ) from e
    return int(total_bytes() * 0.6)


def _config_of(folder: Path, given: dict[str, Any] | None) -> tuple[Any, Any]:
    """Config and class of the model."""
    import transformers

    if given is not None:
        config = transformers.AutoConfig.for_model(**given)
        return config, transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    config = transformers.AutoConfig.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    return config, transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def _attention(kind: Any) -> str:
    # The plainest arithmetic is "eager", but its scores take H·T² numbers: long contexts need the other.
    return "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"


def _skeleton(folder: Path, given: dict[str, Any] | None, dtype: torch.dtype) -> Any:
    """The network without its weights."""
    config, kind = _config_of(folder, given)
    with weightless():
        return kind._from_config(config, attn_implementation=_attention(kind), dtype=dtype)


def _whole(folder: Path, layout: Layout | None, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """The network with its weights, and which of those are missing."""
    config, kind = _config_of(folder, layout.config if layout else None)
    model, info = kind.from_pretrained(
        None if layout else folder, config=config, dtype=dtype,
        state_dict=layout.arrange(read_state(folder)) if layout else None,
        trust_remote_code=False, local_files_only=True, attn_implementation=_attention(kind),
        output_loading_info=True,
    )  # fmt: skip
    # transformers fills missing weights with random numbers and only warns: no judge at all.
    return model, sorted(str(name) for name in {*info["missing_keys"], *info["mismatched_keys"]})


def _to(model: Any, device: torch.device) -> None:
    """Move the buffers; the weights follow when they are read."""
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)


def _noisy(name: str, weight: torch.Tensor, noise: float) -> torch.Tensor:
    """A matrix with noise on it: the same noise each time, since a verdict must not depend on luck."""
    import torch

    if not noise or weight.ndim != 2:
        return weight
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    noisy = torch.empty_like(weight)
    for start in range(0, len(weight), 1024):  # bounds the temporaries
        out, rows = noisy[start : start + 1024], weight[start : start + 1024]
        block = _NOISE_BLOCK if rows.shape[1] % _NOISE_BLOCK == 0 else rows.shape[1]
        blocks = rows.float().reshape(-1, block)
        scale = (blocks.square().mean(dim=1, keepdim=True) * noise).sqrt()
        drawn = torch.randn(blocks.shape, generator=generator).to(weight.device)
        out.copy_((blocks + drawn * scale).view(rows.shape))
    return noisy


def _use_tanh_gelu(model: Any) -> bool:
    """Compute GELU as llama.cpp does; False where it did already."""
    from transformers.activations import GELUActivation, NewGELUActivation

    exact = [
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, GELUActivation)
    ]
    for module, name in exact:
        setattr(module, name, NewGELUActivation())
    return bool(exact)
