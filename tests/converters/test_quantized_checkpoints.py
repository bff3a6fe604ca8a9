"""Quantized checkpoints are refused: the error names the method and how to get a usable model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from converters import convert
from tests.support.tiny import tiny_checkpoint
from turbopilot.base.errors import UnsupportedModel


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("q") / "llama")


def changed(
    source: Path, target: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> Path:
    """Return a copy of the checkpoint with a changed config and additional tensors."""
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    values = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**values, **config}))
    state = {**load_file(source / "model.safetensors"), **tensors}
    save_file(state, target / "model.safetensors")
    return target


LAYER = "model.layers.0.mlp.up_proj."
INTS = torch.zeros(4, 4, dtype=torch.int32)


@pytest.mark.parametrize(
    ("config", "tensors", "words"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, {}, "GPTQ"),
        ({"quantization_config": {"quant_method": "awq"}}, {}, "AWQ"),
        ({"quantization_config": {"quant_method": "fp8"}}, {}, "FP8"),
        ({"quantization_config": {"load_in_8bit": True}}, {}, "bitsandbytes"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, {}, "compressed-tensors"),
        ({"quantization_config": {"quant_method": "newest"}}, {}, "newest"),
        ({"quantization_config": [4]}, {}, "an unknown method"),
        ({}, {LAYER + "qweight": INTS, LAYER + "g_idx": INTS[0].clone()}, "GPTQ"),
        ({}, {LAYER + "qweight": INTS, LAYER + "qzeros": INTS.clone()}, "AWQ"),
        ({}, {LAYER + "weight_scale_inv": torch.ones(2, 2)}, "FP8"),
        ({}, {LAYER + "weight_packed": INTS}, "compressed-tensors"),
        ({}, {LAYER + "SCB": torch.ones(4)}, "bitsandbytes"),
        ({}, {LAYER + "weight": torch.zeros(768, 256).to(torch.float8_e4m3fn)}, "F8_E4M3"),
    ],
)
def test_quantized_weights_are_refused_and_the_method_is_named(
    llama: Path,
    tmp_path: Path,
    config: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    words: str,
) -> None:
    folder = changed(llama, tmp_path / "x", config, tensors)
    with pytest.raises(UnsupportedModel, match=words) as caught:
        convert(folder, tmp_path / "out.gguf")
    assert "turbopilot quantize" in caught.value.hint
    assert not list(tmp_path.glob("out.gguf*"))


@pytest.mark.parametrize("value", [None, {}])
def test_empty_quantization_config_is_ignored(llama: Path, tmp_path: Path, value: object) -> None:
    convert(changed(llama, tmp_path / "x", {"quantization_config": value}, {}), tmp_path / "o.gguf")
