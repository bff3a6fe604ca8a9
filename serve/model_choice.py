"""The models to serve, as named on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from serve.options import Option

# The names that the original TurboPilot uses.
MODEL_TYPES: Final = ("codegen", "starcoder", "wizardcoder", "stablecode")


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model file, the model name that clients send ("" means the name in the file), and what is known about it."""

    name: str
    file: Path
    chat_template: str = ""
    family: str = ""
    fim: str = ""
    next_edit: str = ""
    certificate: str = ""


# A table, one option a field:
# fmt: off

@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Models to serve, as named on the command line."""

    model: Annotated[str | None, Option(
        "model", "GGUF file, old ggml .bin, checkpoint folder, name of a known model (turbopilot models), or "
        "owner/name[:TYPE] on the Hub. Default: the bundled model.", is_model=True,
    )] = None
    model_file: Annotated[str | None, Option(
        "-f, --model-file", "Same as MODEL (the original TurboPilot's flag).",
        env=("TURBOPILOT_MODEL", "MODEL"), is_model=True,
    )] = None
    model_type: Annotated[str | None, Option(
        "-m, --model-type", f"Architecture of an old ggml .bin file ({', '.join(MODEL_TYPES)}). Not needed for GGUF.",
        env=("MODEL_TYPE",), choices=MODEL_TYPES,
    )] = None
    named: Annotated[tuple[str, ...], Option(
        "--model", "Additional model, for requests with this model name. FILE accepts the same values as MODEL. Can be "
        "repeated. The model is loaded by the first request for it. Without MODEL, the first --model is the default. "
        "In the environment variable, separate entries with spaces.", name="models", metavar="NAME=FILE",
    )] = ()
    draft: Annotated[str | None, Option(
        "--draft", "Draft model for speculative decoding: a much smaller model with the same vocabulary. Completions "
        "stay the same but are generated faster. Accepts the same values as MODEL.", is_model=True,
    )] = None
    lora: Annotated[tuple[str, ...], Option(
        "--lora", "LoRA adapter of the default model, a GGUF file (see turbopilot convert --base), and the scale of "
        "its effect, by default 1. Can be repeated. With --lora-switch, a scale of 0 loads it for requests that choose "
        "it.", metavar="FILE[:SCALE]", is_model=True,
    )] = ()

# fmt: on
