"""Prompts: fill-in-the-middle layouts, chat templates, and truncation to the context."""
