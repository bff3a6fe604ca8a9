"""HTTP server for code completions, with llama.cpp as the backend.

A request passes through these packages: `http` receives it and `api` parses it. `models` finds or loads the model and
builds engine requests (`request`) from the completion, with the help of `prompt`. `runner` owns the one thread of each
model. `engine` plans each step, with `drafting`, `sampling` and `text`. `llama` runs it and implements the protocol in
`decoder`. `upstream` is a runner that has other engines compute instead.
"""
