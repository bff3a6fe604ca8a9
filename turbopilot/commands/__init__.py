"""Commands of `turbopilot`, one module each. Heavy imports stay inside the functions, so that `--help` is fast."""
