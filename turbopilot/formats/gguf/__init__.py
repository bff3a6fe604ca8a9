"""Readers, checks, edits, digests and descriptions of GGUF files."""
