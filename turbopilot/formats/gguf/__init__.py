"""GGUF files: read, check, edit, split, digest, describe."""
