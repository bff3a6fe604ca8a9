"""One model of the catalogue: values, and whether it fits."""

from __future__ import annotations

from dataclasses import dataclass

from turbopilot.llama.footprint import Footprint, best_type, default_context, footprint
from turbopilot.llama.geometry import Geometry, weights_bytes


@dataclass(frozen=True, slots=True)
class OldBin:
    """A ggml `.bin` that the original TurboPilot's list of models named.

    Attributes:
        repository: on the Hugging Face Hub.
        file: its name there.
        model_type: what `serve --model-type` must say to read it.
    """

    repository: str
    file: str
    model_type: str

    @property
    def url(self) -> str:
        """Where it is downloaded."""
        return f"https://huggingface.co/{self.repository}/resolve/main/{self.file}"


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One model of the catalogue.

    Attributes:
        alias: what a person types for it; letter case does not matter.
        family: the heading it stands under.
        repository: owner/name on the Hugging Face Hub.
        architecture: the name in its config.json.
        parameters: exact count, as transformers counts them.
        geometry: its sizes.
        context: tokens that it can be served with; of StarCoder2, its sliding window.
        licence: of the weights.
        suits: which machine or purpose it is for, in words.
        languages: programming languages that its authors name; of those with many, the common ones.
        breadth: the languages in short, where they are too many to list.
        fim: whether it fills in the middle, and its tokens for that are known.
        gated: whether the Hub wants its licence accepted by somebody logged in.
        revision: branch, tag or commit; "" is main.
        gguf_repository: where ready-made GGUF files are known to be; "" where none is.
        old_bin: the original's file of it.
        chat_template: how messages become a prompt, where its own files do not say it.
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
        """Its page on the Hub."""
        return f"https://huggingface.co/{self.repository}"

    @property
    def languages_in_short(self) -> str:
        """The languages, for a table."""
        return self.breadth or ", ".join(self.languages)

    def footprint(self, type_name: str, n_ctx: int = 0, *, cache_type: str = "F16") -> Footprint:
        """Return the memory that serving takes.

        Args:
            type_name: one of `TYPES`.
            n_ctx: tokens of context; 0 is what `serve` takes by default.
            cache_type: as in `serve --cache-type`.
        """
        weights = weights_bytes(self.geometry, self.parameters, type_name)
        n_ctx = n_ctx or default_context(self.context)
        return footprint(self.geometry, weights, n_ctx, cache_type=cache_type)

    def best_type(self, budget: int) -> str:
        """Return the type to serve it in within so many bytes; "" if it fits in none."""
        return best_type(self.geometry, self.parameters, default_context(self.context), budget)
