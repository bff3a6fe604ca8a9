"""Old import path of serve.prompt.fim."""

from serve.prompt.fim import CHARS_PER_TOKEN, Prompt, PromptText, build_prompt

__all__ = ["CHARS_PER_TOKEN", "Prompt", "PromptText", "build_prompt"]
