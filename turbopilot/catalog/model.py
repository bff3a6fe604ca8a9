"""Entries of the model catalogue."""

from __future__ import annotations

from dataclasses import dataclass

from turbopilot.llama.footprint import Footprint, default_context, footprint
from turbopilot.llama.geometry import Geometry, weights_bytes
from turbopilot.llama.model_memory import ModelMemory


@dataclass(frozen=True, slots=True)
class OldBin:
    """A ggml `.bin` file from the original TurboPilot's list of models.

    Attributes:
        repository: owner/name on the Hugging Face Hub.
        file: file name in the repository.
        model_type: value for `serve --model-type`.
    """

    repository: str
    file: str
    model_type: str

    @property
    def url(self) -> str:
        """Download address."""
        return f"https://huggingface.co/{self.repository}/resolve/main/{self.file}"


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One model of the catalogue.

    Attributes:
        alias: name on the command line, in any letter case.
        family: heading in the list of models.
        repository: owner/name on the Hugging Face Hub.
        architecture: from config.json.
        parameters: exact count, as transformers counts them.
        geometry: sizes of the network.
        context: tokens of context; for StarCoder2, its sliding window.
        licence: licence of the weights.
        suits: recommended machine or purpose.
        languages: programming languages that the authors list; only the common ones if there are many.
        breadth: short description of the languages, if there are too many to list.
        fim: name of its fill-in-the-middle layout; "" if it was not trained for fill-in-the-middle.
        next_edit: name of its next-edit format; "" if it does not predict edits.
        gated: whether the Hub requires a login and an accepted licence.
        revision: branch, tag or commit; "" is main.
        gguf_repository: repository with GGUF files; "" if none is known.
        old_bin: `.bin` file for the original TurboPilot.
        chat_template: Jinja template, if the model's files have none.
    """

    alias: str
    family: str
    repository: str
    architecture: str
    parameters: int
    geometry: Geometry
    context: int
    licence: str
    suits: str
    languages: tuple[str, ...] = ()
    breadth: str = ""
    fim: str = ""
    next_edit: str = ""
    gated: bool = False
    revision: str = ""
    gguf_repository: str = ""
    old_bin: OldBin | None = None
    chat_template: str = ""

    @property
    def url(self) -> str:
        """Page of the model on the Hub."""
        return f"https://huggingface.co/{self.repository}"

    @property
    def languages_in_short(self) -> str:
        """Languages in a form short enough for a table."""
        return self.breadth or ", ".join(self.languages)

    def footprint(self, type_name: str, n_ctx: int = 0, *, cache_type: str = "F16") -> Footprint:
        """Return the memory for serving in a type of `TYPES`; `n_ctx=0` is the default of `serve`."""
        weights = weights_bytes(self.geometry, self.parameters, type_name)
        n_ctx = n_ctx or default_context(self.context)
        return footprint(self.geometry, weights, n_ctx, cache_type=cache_type)

    def best_type(self, memory: ModelMemory) -> str:
        """Return the most accurate type that can be served in this memory; "" if none fits."""
        return memory.best_type(self.geometry, self.parameters, default_context(self.context))
