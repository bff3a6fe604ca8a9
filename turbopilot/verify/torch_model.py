"""Checkpoint run by transformers; each matrix is read from disk when it is first needed.

A checkpoint's own code never runs: `trust_remote_code` is off, pickles are loaded with `weights_only=True`, and the
network is not used.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from turbopilot.base.counts import count
from turbopilot.base.errors import CorruptCheckpoint, InvalidInput
from turbopilot.verify.reference_layouts import ForeignLayout, foreign_layout
from turbopilot.verify.source import Change, Logits
from turbopilot.verify.streamed_weights import read_state, stream, weightless
from turbopilot.verify.torch_errors import plain_errors, plain_memory, quiet

if TYPE_CHECKING:
    import torch

Precision: TypeAlias = Literal["f32", "bf16"]
_NOISE_BLOCK = 32  # weights that share a scale in most of ggml's types
_ROUTER = ".gate.weight"  # end of a router's name: its weights are never quantized


@dataclass(frozen=True, slots=True)
class TorchDevice:
    """Device that the reference runs on."""

    name: str = "cpu"  # "cpu", "cuda", "cuda:1", "mps"
    precision: Precision = "f32"  # of weights and activations; bf16 alone causes an NMSE of 1e-5


class TorchModel:
    """Network of a checkpoint, with a `Change` applied.

    If `streamed`, each matrix except the output head is dropped after use; by default, if the weights do not fit in
    memory.

    Raises:
        UnsupportedModel: transformers cannot run the architecture without the checkpoint's own code.
        CorruptCheckpoint: a file cannot be read, or weights are missing.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        device: TorchDevice,
        change: Change,
        *,
        streamed: bool | None,
    ) -> None:
        import torch

        self.heard: Callable[[float], None] | None = None  # called with the share loaded
        room = memory_of(device)
        self._device = torch.device(device.name)
        self._dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[device.precision]
        with quiet(), plain_errors(folder):
            layout = foreign_layout(config)
            self._model = _skeleton(folder, layout, self._dtype)
            parameters = list(self._model.parameters())
            self._loaded, self._n_parameters = 0, len(parameters)
            n_bytes = sum(p.numel() for p in parameters) * self._dtype.itemsize
            self.streamed = n_bytes > room if streamed is None else streamed
            state = layout.arrange(read_state(folder)) if layout else read_state(folder)
            load = partial(self._load, noise=change.noise)
            problems = stream(self._model, state, load, dropped=self.streamed)
            for buffer in self._model.buffers():
                buffer.data = buffer.data.to(self._device)
            if layout and layout.adapt:
                layout.adapt(self._model)
        if problems:
            names = ", ".join(problems[:5]) + (" …" if len(problems) > 5 else "")
            raise CorruptCheckpoint(
                f"{folder}: {count(len(problems), 'weight')} missing or of the wrong shape: {names}",
                hint="download the checkpoint again",
            )
        self._model.eval()
        self.changed = not change.tanh_gelu or _use_tanh_gelu(self._model)
        head = self._model.get_output_embeddings()
        self.n_vocab = int(head.weight.shape[0])
        # Granite divides its logits; no other supported class computes anything after the head
        self._divisor = float(getattr(self._model.config, "logits_scaling", 1.0))

    def _load(self, name: str, weight: torch.Tensor, *, noise: float) -> torch.Tensor:
        """Return a parameter on the device, with noise added; report progress."""
        self._loaded += 1
        if self.heard:
            self.heard(min(1.0, self._loaded / self._n_parameters))
        return _noisy(name, weight.to(self._device, self._dtype), noise)

    @property
    def rope_base(self) -> float | None:
        """Base of the rotary embedding, by default that of the model's class; None if the config has none."""
        found = getattr(self._model.config, "rope_parameters", None)
        return found.get("rope_theta") if isinstance(found, Mapping) else None

    def hidden(self, windows: Sequence[Sequence[int]]) -> list[Logits]:
        """Return the input of the output head, (T, D) for each window. Shorter windows are padded at the end."""
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
        """Return the logits, (P, V), for hidden states, (P, D)."""
        import torch

        with torch.inference_mode(), plain_memory():
            given = torch.from_numpy(np.array(hidden, np.float32)).to(self._device, self._dtype)
            out = self._model.get_output_embeddings()(given) / self._divisor
            logits: Logits = out.to("cpu", torch.float32).numpy()
        return logits

    def continued(self, ids: Sequence[int], n: int) -> list[int]:
        """Return n tokens of greedy continuation."""
        cache: Any = None
        found: list[int] = []
        for _ in range(n):
            logits, cache = self.next_logits(found[-1:] or ids, cache)
            found.append(int(logits.argmax()))
        return found

    def next_logits(self, ids: Sequence[int], cache: Any) -> tuple[Logits, Any]:
        """Return the logits of the token after `ids`, (V,), and the KV cache with them.

        Args:
            ids: the tokens that follow those in the cache.
            cache: the cache of an earlier call, which must not be used again; None if it is empty.
        """
        import torch

        with torch.inference_mode(), plain_memory():
            given = torch.tensor([list(ids)], device=self._device)
            out = self._model(
                input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            logits: Logits = out.logits[0, -1].to("cpu", torch.float32).numpy()
        return logits, out.past_key_values


def versions() -> dict[str, str]:
    """Return the versions of torch and transformers; raise InvalidInput if they are not installed."""
    try:
        import torch
        import transformers
    except ImportError as e:
        raise InvalidInput(
            f"verify compares with PyTorch, which cannot be imported: {e}",
            hint="pip install 'turbopilot[verify]'",
        ) from e
    return {"torch": str(torch.__version__), "transformers": str(transformers.__version__)}


def memory_of(device: TorchDevice) -> int:
    """Return the bytes that a model may use on a device; raise InvalidInput if PyTorch cannot use the device."""
    import torch

    from turbopilot.base.machine import total_bytes

    try:
        torch.empty(1, device=device.name)
        if device.name.startswith("cuda"):
            return int(torch.cuda.mem_get_info(torch.device(device.name))[0] * 0.85)
    except (RuntimeError, AssertionError) as e:
        raise InvalidInput(
            f"--device {device.name}: PyTorch cannot use it: {str(e).splitlines()[0]}",
            hint="omit --device to run on the CPU, or install a PyTorch build for this device",
        ) from e
    return int(total_bytes() * 0.6)


def _skeleton(folder: Path, layout: ForeignLayout | None, dtype: torch.dtype) -> Any:
    """Return the network without its weights."""
    import transformers

    if layout:
        config = transformers.AutoConfig.for_model(**layout.config)
    else:
        config = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    # "eager" has the simplest arithmetic, but stores H·T² scores, too many for long contexts.
    attention = "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"
    with weightless():
        return kind._from_config(
            config, attn_implementation=attention, experts_implementation="eager", dtype=dtype
        )


def _noisy(name: str, weight: torch.Tensor, noise: float) -> torch.Tensor:
    """Return a matrix with noise added. The seed is fixed, so that verdicts are reproducible."""
    import torch

    if not noise or weight.ndim < 2 or name.endswith(_ROUTER):
        return weight
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    noisy = torch.empty_like(weight)
    whole, changed = weight.flatten(0, -2), noisy.flatten(0, -2)
    for start in range(0, len(whole), 1024):  # bounds the temporaries
        out, rows = changed[start : start + 1024], whole[start : start + 1024]
        block = _NOISE_BLOCK if rows.shape[1] % _NOISE_BLOCK == 0 else rows.shape[1]
        blocks = rows.float().reshape(-1, block)
        scale = (blocks.square().mean(dim=1, keepdim=True) * noise).sqrt()
        drawn = torch.randn(blocks.shape, generator=generator).to(weight.device)
        out.copy_((blocks + drawn * scale).view(rows.shape))
    return noisy


def _use_tanh_gelu(model: Any) -> bool:
    """Make the model compute GELU by llama.cpp's tanh formula; return False if it already did."""
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
