"""Programming tasks: what quantizing and converting cost in completions, not only in logits."""
