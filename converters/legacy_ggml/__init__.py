"""Import of the original TurboPilot's model files (ggml `.bin`, older than GGUF) without requantizing them.

Source: ggml `examples/{gpt-j,starcoder,gpt-neox}` (the converters and loaders of mid 2023).
"""

from converters.legacy_ggml.old_model import MODEL_TYPES, TokenizerNeeded, open_old

__all__ = ["MODEL_TYPES", "TokenizerNeeded", "open_old"]
