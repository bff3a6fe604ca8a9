"""Entries of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass

from turbopilot.llama.footprint import Footprint, best_type, default_context, footprint
from turbopilot.llama.geometry import Geometry, weights_bytes


@dataclass(frozen=True, slots=True)
class OldBin:
    """A ggml `.bin` that the original TurboPilot's list of models named.

    Attributes:
        repository: on the Hugging Face Hub.
        file: name in the repository.
        model_type: value of `serve --model-type`.
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
        family: heading in the list.
        repository: owner/name on the Hugging Face Hub.
        architecture: from config.json.
        parameters: exact count, as transformers counts them.
        geometry: shapes of the network.
        context: tokens; of StarCoder2, its sliding window.
        licence: of the weights.
        suits: machine or purpose, in words.
        languages: programming languages that its authors name; of those with many, the common ones.
        breadth: the languages in short, if they are too many to list.
        fim: whether it fills in the middle, with known tokens.
        gated: whether the Hub requires a login and an accepted licence.
        revision: branch, tag or commit; "" is main.
        gguf_repository: repository with ready GGUF files; "" if none is known.
        old_bin: the original TurboPilot's file.
        chat_template: in Jinja, if the model's own files have none.
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
    fim: bool = False
    gated: bool = False
    revision: str = ""
    gguf_repository: str = ""
    old_bin: OldBin | None = None
    chat_template: str = ""

    @property
    def url(self) -> str:
        """Page on the Hub."""
        return f"https://huggingface.co/{self.repository}"

    @property
    def languages_in_short(self) -> str:
        """The languages, for a table."""
        return self.breadth or ", ".join(self.languages)

    def footprint(self, type_name: str, n_ctx: int = 0, *, cache_type: str = "F16") -> Footprint:
        """Return the memory for serving; `type_name` is one of `TYPES`, 0 for `n_ctx` is the default of `serve`."""
        weights = weights_bytes(self.geometry, self.parameters, type_name)
        n_ctx = n_ctx or default_context(self.context)
        return footprint(self.geometry, weights, n_ctx, cache_type=cache_type)

    def best_type(self, budget: int) -> str:
        """Return the best type that can be served within `budget` bytes; "" if none fits."""
        return best_type(self.geometry, self.parameters, default_context(self.context), budget)
