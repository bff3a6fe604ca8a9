"""Completions over HTTP: the original TurboPilot's routes, answered by llama.cpp.

From the outside in: `routes` and `app` speak HTTP, `service` turns a call into engine requests, `runner`
owns the thread, `engine` and `scheduler` decide each step, `llama_decoder` computes it. Only the errors,
the GGUF reader and the version come from the rest of the project.
"""
