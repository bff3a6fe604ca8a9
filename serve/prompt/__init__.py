"""What a model reads: fill-in-the-middle layouts, chat templates, and prompts cut to the context."""
