"""Prompts as the dialects spell them: text, token ids, and lists of either; where a text ends. Pure."""

from __future__ import annotations

from serve.api.fields import Fields
from serve.prompt.fim import ContextFile, PromptText
from serve.request import StopRules
from turbopilot.base.errors import InvalidRequest

# One request may ask for this many texts. Source: OpenAI's limit on `n`.
MAX_CHOICES = 128
# Stands for "as many tokens as fit"; it is clamped to the context. Ollama's and llama.cpp's -1 and -2 mean that.
UNLIMITED = 2**31
# Log probabilities of so many tokens in each place. Source: OpenAI's chat limit; its completions' was 5.
MAX_LOGPROBS = 20
_WANTED = "a string, a list of strings, token ids or a list of lists of token ids"


def read_prompts(f: Fields, name: str = "prompt") -> tuple[PromptText, ...]:
    """OpenAI's four forms; nothing where it is absent.

    Raises:
        InvalidRequest: it is none of them.
    """
    value = f.raw(name)
    if isinstance(value, list) and value and not isinstance(value[0], str):
        if _are_ids(value):
            return (tuple(value),)
        if not all(isinstance(v, list) and _are_ids(v) for v in value):
            f.fail(name, _WANTED)
        return tuple(tuple(v) for v in value)
    return f.texts(name, _WANTED)


def _are_ids(values: list[object]) -> bool:
    return all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 2**31 for v in values)


def read_model(f: Fields) -> str:
    """The name of a model; any is accepted, whatever it is."""
    value = f.raw("model")
    return value if isinstance(value, str) else ""


def read_choices(f: Fields, name: str, prompts: int) -> int:
    """How many texts are wanted of each prompt.

    Raises:
        InvalidRequest: more than MAX_CHOICES in all.
    """
    n = f.integer(name, 1, least=1, most=MAX_CHOICES)
    if n * prompts > MAX_CHOICES:
        raise InvalidRequest(f"{name} times prompts is more than {MAX_CHOICES}", param=name)
    return n


def read_stop(f: Fields, *, strings: tuple[str, ...] | None = None) -> StopRules:
    """The stop strings, llama.cpp's `n_indent` and our own `single_line`."""
    return StopRules(
        strings=f.texts("stop") if strings is None else strings,
        single_line=f.flag("single_line"),
        n_indent=f.integer("n_indent", 0, least=0),
    )


def read_length(f: Fields, name: str, default: int) -> int:
    """Tokens to generate; less than nothing is "as many as fit"."""
    n = f.integer(name, default)
    return n if n >= 0 else UNLIMITED


def read_files(f: Fields, field: str, name: str, text: str) -> tuple[ContextFile, ...]:
    """Other files: a list of objects, each with a name and a text under these keys."""
    value = f.raw(field)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        f.fail(field, f"a list of objects with {name} and {text}")
    files = (Fields(v, f"{field}[{i}].") for i, v in enumerate(value))
    found = (ContextFile(file.text(name), file.text(text)) for file in files)
    return tuple(file for file in found if file.text)
