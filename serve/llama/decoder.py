"""The `Decoder` that runs llama.cpp."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from serve.adapters import AdapterSet
from serve.decoder import BatchItem
from serve.llama.mapped_files import MappedFiles
from serve.llama.tokenizer import LlamaTokenizer
from serve.llama.tuning import Tuning, TuningCache, measure
from serve.settings import ModelOptions
from turbopilot.base.errors import CorruptModel
from turbopilot.llama.context import ContextParameters, LlamaContext, Logits
from turbopilot.llama.flash_attention import OFF
from turbopilot.llama.footprint import KvLayout
from turbopilot.llama.library import VERSION
from turbopilot.llama.model import LlamaModel

log = logging.getLogger("turbopilot.models")


class LlamaDecoder(LlamaTokenizer, LlamaContext):
    """A loaded model with its KV cache. `close` frees both. See `serve.decoder.Decoder` for the interface.

    Args:
        mapped: the model's files; checked before each batch and closed by `close`. None if they are not mapped.
        tuning: cache for the result of `tune`; None if nothing is to be measured.
    """

    def __init__(
        self,
        model: LlamaModel,
        parameters: ContextParameters,
        n_ctx: int,
        layout: KvLayout,
        options: ModelOptions,
        mapped: MappedFiles | None = None,
        tuning: TuningCache | None = None,
    ) -> None:
        LlamaTokenizer.__init__(self, model, options)
        LlamaContext.__init__(self, model, parameters)
        self._mapped, self._tuning_cache = mapped, tuning
        self.tuning: Tuning | None = None  # what `tune` has measured
        self.tuned_before: Tuning | None = None  # the stored result that decided the setup
        self.n_ctx, self.n_seq = n_ctx, layout.n_seq
        self.n_cells = n_ctx * layout.n_seq if layout.is_split else n_ctx
        self.can_cut = model.can_cut
        self._path = model.header.path

    def use_adapters(self, adapters: AdapterSet) -> None:
        """See `serve.decoder.Decoder`."""
        if self.model.adapters:
            self.set_adapters({self.model.adapters[i]: scale for i, scale in adapters})

    def decode(self, items: Sequence[BatchItem]) -> Logits:
        """Compute a batch; raise ModelChanged if a mapped file was changed. See `LlamaContext.decode`."""
        if self._mapped:
            self._mapped.check()
        return super().decode(items)

    @property
    def identity(self) -> str:
        """Key of compatible states. The mtime replaces a digest of the weights, which would take minutes."""
        p, files = self._parameters, [self._path, *(a.header.path for a in self.model.adapters)]
        stats = [(file.resolve(), file.stat()) for file in files]
        named = " ".join(f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats)
        return f"{named} {p.cache_type} {VERSION} {p.flash_attention}"

    @property
    def can_tune(self) -> bool:
        """Whether `tune` has something to measure."""
        return self._tuning_cache is not None

    def tune(self) -> Iterator[bool]:
        """Measure which settings are fast on this machine; yield after each piece of work whether they changed."""
        cache, self._tuning_cache = self._tuning_cache, None
        if cache is None:
            return
        for found in measure(self.model, self._parameters):
            if found is None:
                yield False
                continue
            self.tuning = found
            cache.write(found)
            log.info("tuned: %s", found.line())
            before = self._parameters.flash_attention
            self._parameters = replace(self._parameters, flash_attention=found.flash_attention)
            yield (before == OFF) != (found.flash_attention == OFF)

    def warm_up(self) -> None:
        """Compute one token to read the weights into memory and build the graph.

        Raises:
            CorruptModel: the model computed NaN or infinite logits.
        """
        (logits,) = self.decode([BatchItem(self.start_token, 0, 0, want_logits=True)])
        if not math.isfinite(logits.max()):  # NaN if any is NaN
            raise CorruptModel(
                f"{self._path}: the model computes NaN or infinite logits",
                hint="the file is damaged or was quantized too coarsely: check it with turbopilot verify",
            )
        self.remove(0, 0)

    def close(self) -> None:
        """Free the context and the model. A second call does nothing."""
        super().close()
        self.model.close()
        if self._mapped:
            self._mapped.close()
