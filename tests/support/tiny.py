"""Tiny random checkpoints of every family, with the same files as real Hugging Face checkpoints.

They have unusual properties on purpose: the rotary part is smaller than the head, and the embedding has more rows than
the tokenizer has tokens. Weights are spread widely and biases are far from zero, which lets a wrong permutation or a
lost bias change every logit. A new family is one entry of `FAMILY`.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

EOS: Final = "<|endoftext|>"
SPACES: Final = tuple(" " * n for n in range(31, 1, -1))
TABS: Final = tuple("\t" * n for n in range(9, 1, -1))

# 3 layers, 8 heads of 32 dimensions with 16 rotated ones. All dimensions are multiples of 256, as llama.cpp's K types
# require. The MLP has GPT-J's 4·n_embd.
GEOMETRY: Final[Mapping[str, Any]] = {
    "n_embd": 256, "n_layer": 3, "n_head": 8, "rotary_dim": 16, "n_positions": 512, "vocab_size": 1024,
}  # fmt: skip


def stdlib_files(at_least: int) -> list[Path]:
    """Return source files of the running Python in a fixed order, `at_least` bytes in total."""
    files, size = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if size >= at_least:
            break
        files.append(path)
        size += path.stat().st_size
    return files


@cache
def _byte_level_bpe(vocab: int, digits: bool) -> str:
    """Train a GPT-2 style byte-level BPE with `vocab` tokens on stdlib source; return its JSON."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if digits:
        steps: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.Digits(individual_digits=True)]
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (path.read_text("utf-8", errors="replace") for path in stdlib_files(400_000))
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str())


def tiny_tokenizer(
    added: tuple[str, ...],
    n_base: int = 700,
    *,
    special: tuple[str, ...] = (),
    digits: bool = False,
) -> Tokenizer:
    """Build a tokenizer with `n_base` BPE tokens, the last one `<|endoftext|>`, then the added tokens.

    CodeGen and GPT-J have this order. With `digits`, digits are split one by one before GPT-2's regex, as in
    StarCoder's tokenizer.
    """
    tokenizer = Tokenizer.from_str(_byte_level_bpe(n_base - 1, digits))
    tokenizer.add_special_tokens([AddedToken(EOS, special=True, normalized=True)])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=True) for token in added])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


def _save_tokenizer(tokenizer: Tokenizer, tokenizer_class: str, folder: Path) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "add_prefix_space": False, "bos_token": EOS, "eos_token": EOS, "unk_token": EOS,
        "model_max_length": GEOMETRY["n_positions"], "tokenizer_class": tokenizer_class,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), "utf-8")


def _spread(model: torch.nn.Module, seed: int, table: float = 1.0) -> None:
    """Set random weights with logits of order 10, attention that prefers some tokens, and biases far from zero."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like: torch.Tensor, mean: float, std: float) -> torch.Tensor:
        return torch.normal(mean, std, like.shape, generator=generator)

    with torch.no_grad():
        for name, p in model.named_parameters():
            if ("ln_" in name or "norm" in name) and name.endswith("weight"):
                p.copy_(normal(p, 1.0, 0.3))
            elif p.ndim == 1:
                p.copy_(normal(p, 0.0, 0.8))
            else:
                embedded = any(part in name for part in ("wte", "wpe", "embed_in", "embed_tokens"))
                head = any(part in name for part in ("lm_head", "embed_out"))
                std = table if embedded else 0.18 if head else 0.08
                p.copy_(normal(p, 0.0, std))


FIM: Final = ("<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>")

# Names shared by most families since Llama; 8 heads of 32 dimensions with 2 key/value heads.
_MODERN: Final[Mapping[str, Any]] = {
    "hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2,
    "intermediate_size": 768, "max_position_embeddings": 512, "vocab_size": 1024,
}  # fmt: skip
# 8 experts, of which 2 are used for a token.
_EXPERTS: Final[Mapping[str, Any]] = {"num_experts_per_tok": 2, "moe_intermediate_size": 256}
# A leading layer without experts; heads of 64 dimensions, 32 of them rotated, with values of 48.
_LATENT: Final[Mapping[str, Any]] = {
    **_EXPERTS, "num_key_value_heads": 8, "n_routed_experts": 8, "n_shared_experts": 2, "first_k_dense_replace": 1,
    "kv_lora_rank": 128, "q_lora_rank": None, "qk_nope_head_dim": 32, "qk_rope_head_dim": 32, "v_head_dim": 48,
    "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 64,
        "mscale": 0.707, "mscale_all_dim": 0.707,
    },
}  # fmt: skip
_OLD_NAMES: Final = ("n_embd", "n_layer", "n_head", "rotary_dim", "n_positions")


# Granite's, far from the values that would change nothing; 1/√32 is 0.18
_MULTIPLIERS: Final[Mapping[str, Any]] = {
    "embedding_multiplier": 3.0, "residual_multiplier": 0.6, "attention_multiplier": 0.3, "logits_scaling": 2.0,
}  # fmt: skip


def _modern(config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the config with the geometry under Llama's names; the caller's values take precedence."""
    kept = {k: v for k, v in config.items() if k not in _OLD_NAMES}
    return {**_MODERN, **more, **kept}


def _gpt2_class(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, "tokenizer_class": "GPT2Tokenizer"}


def _gpt_bigcode(config: Mapping[str, Any]) -> dict[str, Any]:
    geometry = {k: v for k, v in config.items() if k != "rotary_dim"}
    return {"activation_function": "gelu_pytorch_tanh", **geometry}


def _gptneox(config: Mapping[str, Any]) -> dict[str, Any]:
    values = _modern(config, hidden_act="gelu_new", use_parallel_residual=True)
    values.pop("num_key_value_heads")
    return values


def _gemma(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with heads of 64 dimensions, 512 in all, and the tied head that Gemma always has."""
    return {**_modern(config, head_dim=64), "tie_word_embeddings": True}


def _spaces() -> tuple[Tokenizer, str]:
    return tiny_tokenizer(SPACES + TABS), "CodeGenTokenizer"


def _extra_tokens() -> tuple[Tokenizer, str]:
    return tiny_tokenizer(tuple(f"<|extratoken_{i}|>" for i in range(1, 13))), "GPT2Tokenizer"


def _plain() -> tuple[Tokenizer, str]:
    return tiny_tokenizer(()), "GPT2Tokenizer"


def _starcoder() -> tuple[Tokenizer, str]:
    return tiny_tokenizer((), special=FIM, digits=True), "PreTrainedTokenizerFast"


@dataclass(frozen=True, slots=True)
class TinyFamily:
    """Family of transformers: its model class is `prefix` + `head`; `config` returns the complete config values."""

    prefix: str
    tokenizer: Callable[[], tuple[Tokenizer, str]]
    config: Callable[[Mapping[str, Any]], dict[str, Any]]
    head: str = "ForCausalLM"
    table: float = 1.0  # spread of the embedding


FAMILY: Final[Mapping[str, TinyFamily]] = {
    "codegen": TinyFamily("CodeGen", _spaces, _gpt2_class),
    "gptj": TinyFamily("GPTJ", _extra_tokens, _gpt2_class),
    "gptbigcode": TinyFamily("GPTBigCode", _starcoder, _gpt_bigcode),
    "gptneox": TinyFamily("GPTNeoX", _plain, _gptneox),
    "starcoder2": TinyFamily("Starcoder2", _starcoder, partial(_modern, sliding_window=None)),
    "llama": TinyFamily("Llama", _starcoder, _modern),
    "qwen2": TinyFamily("Qwen2", _starcoder, _modern),
    "stablelm": TinyFamily("StableLm", _starcoder, partial(_modern, use_qkv_bias=True)),
    "qwen3": TinyFamily("Qwen3", _starcoder, partial(_modern, head_dim=64)),
    "qwen3moe": TinyFamily(
        "Qwen3Moe", _starcoder, partial(_modern, **_EXPERTS, num_experts=8, head_dim=64, norm_topk_prob=True),
    ),
    "mixtral": TinyFamily("Mixtral", _starcoder, partial(_modern, num_local_experts=8)),
    "deepseekv2": TinyFamily("DeepseekV2", _starcoder, partial(_modern, **_LATENT)),
    "phi": TinyFamily("Phi", _spaces, partial(_modern, num_key_value_heads=8)),
    "mistral": TinyFamily("Mistral", _starcoder, partial(_modern, sliding_window=None)),
    "gemma": TinyFamily("Gemma", _starcoder, _gemma, table=0.3),  # times 16, the root of the width
    "granite": TinyFamily("Granite", _starcoder, partial(_modern, **_MULTIPLIERS)),
}  # fmt: skip


def tiny_checkpoint(
    family: str, folder: Path, *, dtype: str = "f32", seed: int = 0, **overrides: Any
) -> Path:
    """Write a random checkpoint, "f32" or "f16", into `folder`; `overrides` replace values of its config."""
    folder.mkdir(parents=True, exist_ok=True)
    eos = tiny_tokenizer(()).token_to_id(EOS)
    config = {**GEOMETRY, "bos_token_id": eos, "eos_token_id": eos, "tie_word_embeddings": False}
    made = FAMILY[family]
    _save_tokenizer(*made.tokenizer(), folder)
    settings = getattr(transformers, f"{made.prefix}Config")
    model = getattr(transformers, f"{made.prefix}{made.head}")(
        settings(**made.config({**config, **overrides}))
    )
    _spread(model, seed, made.table)
    if dtype == "f16":
        model = model.half()
    model.save_pretrained(folder)
    return folder
