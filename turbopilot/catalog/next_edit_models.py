"""Models that predict the next edit: they rewrite the lines around the cursor.

Sources: the model cards of the repositories; server/eval of https://github.com/cursortab/cursortab.nvim, which compares
them; https://blog.sweep.dev/posts/oss-next-edit. Zeta, Instinct and Sweep's models are fine-tuned from Qwen2.5-Coder,
Zeta 2 and 2.1 from Seed-Coder-8B-Base, and have the same geometry.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from turbopilot.catalog.model import KnownModel
from turbopilot.catalog.original_models import COMMON_LANGUAGES
from turbopilot.llama.geometry import Geometry

_gated = partial(Geometry, gated=True)
_QWEN_7B: Final = _gated(28, 3584, 28, kv_heads=4, ffn=18944, vocab=152064)
_next_edit = partial(
    KnownModel, family="Next edits", licence="Apache-2.0", languages=COMMON_LANGUAGES, context=32768,
    architecture="Qwen2ForCausalLM",
)  # fmt: skip
_sweep = partial(_next_edit, next_edit="sweep", breadth="92 languages")
_zeta2 = partial(
    _next_edit, architecture="LlamaForCausalLM", parameters=8_250_462_208, breadth="89 languages",
    geometry=_gated(32, 4096, 32, kv_heads=8, ffn=14336, vocab=155136),
)  # fmt: skip
_zeta = partial(
    _next_edit, parameters=7_615_616_512, geometry=_QWEN_7B, breadth="92 languages"
)  # fmt: skip

NEXT_EDIT_MODELS: Final = (
    _sweep(
        alias="sweep-next-edit-0.5b", repository="sweepai/sweep-next-edit-0.5B", parameters=494_032_768,
        geometry=_gated(24, 896, 14, kv_heads=2, ffn=4864, vocab=151936, tied=True),
        suits="next edits on any machine; published as GGUF (Q8_0)",
    ),
    _sweep(
        alias="sweep-next-edit-1.5b", repository="sweepai/sweep-next-edit-1.5B", parameters=1_543_714_304,
        geometry=_gated(28, 1536, 12, kv_heads=2, ffn=8960, vocab=151936, tied=True),
        suits="the first to try for next edits without a GPU; published as GGUF (Q8_0)",
    ),
    _sweep(
        alias="sweep-next-edit-7b", repository="sweepai/sweep-next-edit-v2-7B", parameters=7_615_616_512,
        geometry=_QWEN_7B, suits="next edits on a GPU with 8 GB or more",
    ),
    _zeta2(
        alias="zeta-2.1", repository="zed-industries/zeta-2.1", next_edit="zeta2.1",
        suits="next edits in Zed on a GPU with 8 GB or more",
    ),
    _zeta2(
        alias="zeta-2", repository="zed-industries/zeta-2", next_edit="zeta2",
        gguf_repository="bartowski/zed-industries_zeta-2-GGUF",
        suits="the first to try for next edits on a GPU with 8 GB or more",
    ),
    _zeta(
        alias="zeta", repository="zed-industries/zeta", next_edit="zeta",
        gguf_repository="bartowski/zed-industries_zeta-GGUF", suits="next edits; zeta-2 is newer",
    ),
    _zeta(
        alias="instinct", repository="continuedev/instinct", next_edit="instinct",
        gguf_repository="continuedev/instinct-GGUF", suits="next edits in Continue",
    ),
)  # fmt: skip
