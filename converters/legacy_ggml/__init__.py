"""The original TurboPilot's model files: ggml's `.bin`, from before GGUF. Read into what a checkpoint is read into.

Such a file has its hyperparameters, its vocabulary and its tensors one after the other, under the names of
the family. What the engine makes of checkpoints it then makes of these: rows are placed, and quantized rows
are moved as whole blocks, so that nothing is rounded a second time.

Source: ggml `examples/{gpt-j,starcoder,gpt-neox}` (the converters and loaders of mid 2023).
"""

from converters.legacy_ggml.old_model import (
    MODEL_TYPES,
    OldModel,
    TokenizerNeeded,
    is_old,
    open_old,
)

__all__ = ["MODEL_TYPES", "OldModel", "TokenizerNeeded", "is_old", "open_old"]
