"""Completions over HTTP: the original TurboPilot's routes and more, answered by llama.cpp.

From the outside in: `http` speaks it, `service` turns a completion into requests of `request`'s terms, `runner`
owns the one thread, `engine` decides each step (with `drafting`, `sampling` and `text`), and `llama` computes it
behind the protocol in `decoder`.
"""
