"""Old import path of serve.prompt.fim."""

from serve.prompt.fim import CHARS_PER_TOKEN, Prompt, PromptBuilder, PromptText

__all__ = ["CHARS_PER_TOKEN", "Prompt", "PromptBuilder", "PromptText"]
