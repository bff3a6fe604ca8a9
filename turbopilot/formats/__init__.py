"""File formats, read and written without llama.cpp: GGUF, ggml types, and the old ggml `.bin`."""
