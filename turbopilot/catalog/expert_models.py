"""Qwen3, and models with a mixture of experts, which compute each token with a small part of their weights.

Sources: config.json and model card of each repository; for languages and infilling, the README of QwenLM/Qwen3-Coder
and of deepseek-ai/DeepSeek-Coder-V2. The latter's section 3.2 compares HumanEval's infilling: 86.4 for V2-Lite-Base,
86.4 for DeepSeek-Coder-Base-33B, 86.1 for 7B.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from turbopilot.catalog.model import KnownModel
from turbopilot.catalog.original_models import COMMON_LANGUAGES
from turbopilot.llama.geometry import Experts, Geometry, Latent

_APACHE: Final = "Apache-2.0"

_QWEN3_CODER: Final = KnownModel(
    alias="qwen3-coder-30b-a3b", family="Qwen3", repository="Qwen/Qwen3-Coder-30B-A3B-Instruct",
    architecture="Qwen3MoeForCausalLM", parameters=30_532_122_624,
    geometry=Geometry(
        48, 2048, 32, kv_heads=4, ffn=5472, vocab=151936, gated=True, key_size=128, value_size=128,
        experts=Experts(count=128, used=8, ffn=768),
    ),
    context=262144, licence=_APACHE, fim="qwen", languages=COMMON_LANGUAGES, breadth="358 languages",
    suits="the first to try on a GPU with 24 GB, or with 32 GB of memory: 3.3 of 30.5 billion weights per token",
    # the file that llama.cpp's preset --fim-qwen-30b-default downloads (common/arg.cpp)
    gguf_repository="ggml-org/Qwen3-Coder-30B-A3B-Instruct-Q8_0-GGUF",
)  # fmt: skip

_DEEPSEEK_V2_LITE: Final = KnownModel(
    alias="deepseek-coder-v2-lite", family="DeepSeek-Coder-V2", repository="deepseek-ai/DeepSeek-Coder-V2-Lite-Base",
    architecture="DeepseekV2ForCausalLM", parameters=15_706_484_224,
    geometry=Geometry(
        27, 2048, 16, kv_heads=1, ffn=10944, vocab=102400, gated=True, key_size=576, value_size=512,
        experts=Experts(count=64, used=6, ffn=1408, shared=2816, dense=1),
        latent=Latent(rank=512, key_size=192, value_size=128),
    ),
    context=163840, licence="DeepSeek License", fim="deepseek", languages=COMMON_LANGUAGES, breadth="338 languages",
    suits="the first to try with 16 GB of memory and no GPU: 2.4 of 15.7 billion weights per token",
)  # fmt: skip


def _qwen3(size: str, parameters: int, geometry: Geometry, suits: str) -> KnownModel:
    return KnownModel(
        alias=f"qwen3-{size.lower()}", family="Qwen3", repository=f"Qwen/Qwen3-{size}",
        architecture="Qwen3ForCausalLM", parameters=parameters, geometry=geometry, context=40960, licence=_APACHE,
        suits=suits, breadth="119 human languages, code",
    )  # fmt: skip


_dense = partial(Geometry, kv_heads=8, vocab=151936, gated=True, key_size=128, value_size=128)
_QWEN3S: Final = (
    _qwen3("0.6B", 596_049_920, _dense(28, 1024, 16, ffn=3072, tied=True), "for chat on any machine"),
    _qwen3("1.7B", 1_720_574_976, _dense(28, 2048, 16, ffn=6144, tied=True), "for chat without a GPU"),
    _qwen3("4B", 4_022_468_096, _dense(36, 2560, 32, ffn=9728, tied=True), "for chat on a laptop with 8 GB"),
    _qwen3("8B", 8_190_735_360, _dense(36, 4096, 32, ffn=12288), "for chat on a GPU with 8 GB"),
)  # fmt: skip

EXPERT_MODELS: Final = (_QWEN3_CODER, *_QWEN3S, _DEEPSEEK_V2_LITE)
