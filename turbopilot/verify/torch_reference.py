"""The judge: a checkpoint run by transformers in FP32 on the CPU. The tokenizer and foreign layouts lie beside it.

A checkpoint's own code never runs: `trust_remote_code` is off, pickles are read as weights only (both by
transformers), and nothing is looked up on the network.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from turbopilot.errors import CorruptCheckpoint, InvalidInput, UnsupportedModel
from turbopilot.verify.reference_layouts import Layout, foreign_layout
from turbopilot.verify.reference_tokenizer import open_tokenizer
from turbopilot.verify.source import Logits

_NOISE_BLOCK = 32  # weights that share a scale in most of ggml's types


class TorchReference:
    """A Hugging Face checkpoint folder as a `Reference`.

    Args:
        folder: holds config.json, the weights and the tokenizer.

    Raises:
        InvalidInput: no such folder, no config.json, no tokenizer, or torch is not installed.
        UnsupportedModel: transformers knows no such architecture without running the checkpoint's code.
        CorruptCheckpoint: a file cannot be read, or weights are missing from it.
    """

    def __init__(self, folder: Path) -> None:
        config = _read_config(folder)
        try:
            import torch
            import transformers
        except ImportError as e:
            raise InvalidInput(
                f"verify compares with PyTorch, which cannot be imported: {e}",
                hint="pip install 'turbopilot[verify]'",
            ) from e
        self.name = str(folder)
        with _quiet():
            self._model = _load_model(folder, foreign_layout(config))
            self._tokenizer = open_tokenizer(folder)
        head = self._model.get_output_embeddings()
        self.n_vocab = int(head.weight.shape[0])
        self.n_ctx = int(self._model.config.get_text_config().max_position_embeddings)
        self.versions = {
            "torch": str(torch.__version__),
            "transformers": str(transformers.__version__),
        }

    def tokenize(self, text: str) -> list[int]:
        """See `LogitsSource`."""
        return self._tokenizer.encode(text)

    def text(self, ids: Sequence[int]) -> str:
        """See `LogitsSource`."""
        return self._tokenizer.decode(ids)

    def logits(self, ids: Sequence[int]) -> Logits:
        """See `LogitsSource`. Holds the whole (T, V) in memory: 200 MB for 1024 positions of CodeGen."""
        import torch

        with torch.inference_mode():
            out = self._model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
        array: Logits = np.asarray(out.to(torch.float32).numpy())
        return array

    def use_tanh_gelu(self) -> bool:
        """See `Reference`."""
        from transformers.activations import GELUActivation, NewGELUActivation

        exact = [
            (module, name)
            for module in self._model.modules()
            for name, child in module.named_children()
            if isinstance(child, GELUActivation)
        ]
        for module, name in exact:
            setattr(module, name, NewGELUActivation())
        return bool(exact)

    def add_noise(self, noise: float) -> None:
        """See `Reference`. The same noise each time: a verdict must not depend on luck."""
        import torch

        generator = torch.Generator().manual_seed(0)
        with torch.inference_mode():
            # A tied matrix is one parameter here, so it is perturbed once.
            for weight in self._model.parameters():
                if weight.ndim != 2:
                    continue
                for rows in weight.split(1024):  # bounds the temporaries
                    block = _NOISE_BLOCK if rows.shape[1] % _NOISE_BLOCK == 0 else rows.shape[1]
                    blocks = rows.view(-1, block)
                    scale = (blocks.square().mean(dim=1, keepdim=True) * noise).sqrt()
                    blocks += torch.randn(blocks.shape, generator=generator) * scale


def _read_config(folder: Path) -> dict[str, Any]:
    hint = "give the folder that holds config.json, the weights and the tokenizer, as turbopilot download makes it"
    if not folder.exists():
        raise InvalidInput(f"{folder}: no such folder", hint=hint)
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: is a file, not a checkpoint's folder", hint=hint)
    config = folder / "config.json"
    if not config.is_file():
        raise InvalidInput(
            f"{folder}: holds no config.json, so it is no Hugging Face checkpoint", hint=hint
        )
    try:
        parsed = json.loads(config.read_text("utf-8"))
    except (ValueError, OSError) as e:
        raise CorruptCheckpoint(f"{config}: cannot be read: {e}", hint="download it again") from e
    if not isinstance(parsed, dict):
        raise CorruptCheckpoint(f"{config}: is not a JSON object", hint="download it again")
    return parsed


def _load_model(folder: Path, layout: Layout | None) -> Any:
    import torch
    import transformers

    try:
        given: dict[str, Any] = {}
        kind: Any = transformers.AutoModelForCausalLM
        if layout:
            config = transformers.AutoConfig.for_model(**layout.config)
            given = {"config": config, "state_dict": layout.arrange(_state(folder))}
            kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        # Eager attention: every architecture has it, and it is the plainest arithmetic to judge by.
        model, info = kind.from_pretrained(
            None if layout else folder, dtype=torch.float32, trust_remote_code=False,
            local_files_only=True, attn_implementation="eager", output_loading_info=True, **given,
        )  # fmt: skip
    except Exception as e:
        # safetensors, torch, json and transformers each have their own exceptions: all mean "unreadable".
        raise _load_error(folder, e) from e
    # transformers fills missing weights with random numbers and only warns: no judge at all.
    bad = sorted(str(name) for name in {*info["missing_keys"], *info["mismatched_keys"]})
    if bad:
        names = ", ".join(bad[:5]) + (" …" if len(bad) > 5 else "")
        raise CorruptCheckpoint(
            f"{folder}: {len(bad)} weights are missing or misshapen: {names}",
            hint="download the checkpoint again",
        )
    return model.eval()


def _state(folder: Path) -> dict[str, Any]:
    """All tensors of a checkpoint: safetensors where there are any, else PyTorch's files, weights only."""
    import torch
    from safetensors.torch import load_file

    state: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        state.update(load_file(path))
    for path in () if state else sorted(folder.glob("pytorch_model*.bin")):
        state.update(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    if not state:
        raise FileNotFoundError("no weights: neither *.safetensors nor pytorch_model*.bin")
    return state


def _load_error(folder: Path, e: Exception) -> Exception:
    words = _first_line(e)
    if "trust_remote_code" in str(e):
        return UnsupportedModel(
            f"{folder}: needs code of its own to run, and verify never runs a checkpoint's code",
            hint="only architectures that transformers itself knows can be verified",
        )
    if isinstance(e, (KeyError, ValueError)) and "model type" in str(e):
        return UnsupportedModel(
            f"{folder}: {words}", hint="transformers knows no such architecture"
        )
    if isinstance(e, ValueError) and "Unrecognized" in str(e):
        return UnsupportedModel(
            f"{folder}: {words}", hint="it is no language model that transformers knows"
        )
    return CorruptCheckpoint(
        f"{folder}: PyTorch cannot load it: {type(e).__name__}: {words}",
        hint="a file is missing or damaged: download the checkpoint again",
    )


def _first_line(e: Exception) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines and no progress bars of transformers: the shells alone print."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.CRITICAL)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
