"""Completions over HTTP: the original TurboPilot's routes and more, answered by llama.cpp.

From the outside in: `http` reads a request and `api` parses it; `models` finds the loaded model and turns the
completion into the requests of `request`, with `prompt`; `runner` owns the model's one thread; `engine` decides each
step, with `drafting`, `sampling` and `text`; `llama` computes it behind the protocol in `decoder`.
"""
