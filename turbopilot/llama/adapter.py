"""LoRA adapter in llama.cpp."""

from __future__ import annotations

import os
from typing import Any

from turbopilot.base.errors import CorruptModel
from turbopilot.formats.gguf.file import GgufHeader
from turbopilot.llama.library import llama_cpp, log


class LlamaAdapter:
    """An adapter loaded for one model, which frees it when it is closed; see `LlamaModel.load_adapters`.

    Args:
        model: llama.cpp's pointer to the model.
        header: the adapter's header, which `check_adapter` has accepted for the model.

    Raises:
        CorruptModel: llama.cpp refuses the file; the message has llama.cpp's reason.
    """

    def __init__(self, model: Any, header: GgufHeader) -> None:
        self.header = header
        log.clear()
        self.pointer = llama_cpp.llama_adapter_lora_init(model, os.fsencode(header.path))
        if not self.pointer:
            raise CorruptModel(
                f"{header.path}: llama.cpp cannot load the adapter: {log.reason()}",
                hint="convert or download it again; if it is new, update llama-cpp-python",
            )
