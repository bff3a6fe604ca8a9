"""The original TurboPilot's model files, ggml's `.bin` from before GGUF, read into what a checkpoint is read into.

Rows are placed and quantized rows moved as whole blocks, so that nothing is rounded a second time.

Source: ggml `examples/{gpt-j,starcoder,gpt-neox}` (the converters and loaders of mid 2023).
"""

from converters.legacy_ggml.old_model import MODEL_TYPES, TokenizerNeeded, is_old, open_old

__all__ = ["MODEL_TYPES", "TokenizerNeeded", "is_old", "open_old"]
