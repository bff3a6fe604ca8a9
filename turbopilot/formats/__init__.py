"""File formats, read and written without llama.cpp: GGUF, ggml types, the old ggml `.bin`."""
