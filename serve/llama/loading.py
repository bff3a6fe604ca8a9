"""Loading of a model file as a decoder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from serve.llama.decoder import GUESSES, LlamaDecoder
from serve.llama.facts import choose_cells, model_family
from serve.llama.mapped_files import MappedFiles, should_map
from serve.llama.tuning import Tuning, TuningCache
from serve.settings import ModelOptions, find_cache_type
from turbopilot.base.counts import count
from turbopilot.base.errors import InvalidInput
from turbopilot.base.machine import usable_cores
from turbopilot.formats.gguf.check import check_model
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.context import ContextParameters
from turbopilot.llama.flash_attention import AUTO, flash_attention
from turbopilot.llama.library import log
from turbopilot.llama.model import LlamaModel, ModelParameters

models_log = logging.getLogger("turbopilot.models")


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Setup of a loaded model, which may differ from the options.

    Attributes:
        is_split: whether each of the `n_parallel` sequences has a separate context.
        tuning: stored result of an earlier measurement, if it decided the setup.
        n_offloaded: number of layers on a GPU.
        n_layers: number of all layers; the output layer counts as one.
    """

    name: str
    description: str
    n_ctx: int
    n_threads: int
    n_parallel: int
    is_split: bool
    cache_type: str
    kv_bytes: int
    n_offloaded: int
    n_layers: int
    devices: tuple[str, ...]
    tuning: Tuning | None = None

    def lines(self) -> list[str]:
        """Return the setup as log lines."""
        parallel = f"{count(self.n_parallel, 'request')} at once"
        if self.n_parallel > 1:
            how = "each with a separate context" if self.is_split else "sharing the context"
            parallel += f", {how}"
        where = ", ".join(self.devices) if self.devices else "no GPU that llama.cpp can use"
        tuned = [f"tuned    {self.tuning.line()}"] if self.tuning else []
        return [
            f"model    {self.name} ({self.description})",
            f"context  {self.n_ctx} tokens, {count(self.n_threads, 'thread')}",
            f"parallel {parallel}",
            f"KV cache {self.cache_type}, {self.kv_bytes / 1e6:,.1f} MB",
            f"GPU      {self.n_offloaded} of {self.n_layers} layers offloaded ({where})",
            *tuned,
        ]


def tuned(path: Path, options: ModelOptions) -> Tuning:
    """Measure both kinds of attention, and store the result for the next start of the server.

    Raises:
        InvalidInput: this model cannot use both kinds, so there is nothing to choose.
        TurboPilotError: see `load`.
    """
    decoder, _ = load(path, options, retunes=True)
    try:
        for _ in decoder.tune():
            pass
        if decoder.tuning is None:
            raise InvalidInput(
                f"{path}: only one kind of attention can be used with these options",
                hint="plain attention needs a CPU, an unquantized KV cache, and enough memory",
            )
        return decoder.tuning
    finally:
        decoder.close()


def load(
    path: Path, options: ModelOptions, *, adapters: Sequence[Path] = (), retunes: bool = False
) -> tuple[LlamaDecoder, LoadReport]:
    """Load a model file with LoRA adapters; return the decoder and the resulting setup.

    `retunes` ignores the stored result of tuning.

    Raises:
        InvalidInput: a file cannot be read, the model does not support an option, or an adapter is not one of it.
        CorruptModel: the file is damaged, or llama.cpp cannot load it.
        ServeError: llama.cpp cannot run the model with these options, for example for lack of memory.
    """
    header = read_gguf(path)
    check_model(header)
    cache_type = find_cache_type(options.cache_type)
    n_ctx, layout = choose_cells(header, replace(options, cache_type=cache_type))
    parameters = ContextParameters(
        n_ctx=layout.n_cells(n_ctx),
        n_batch=options.n_batch,
        n_seq=layout.n_seq,
        n_outputs=min(options.n_batch, layout.n_seq + GUESSES),
        n_threads=options.threads,
        cache_type=cache_type,
        kv_unified=not layout.is_split,
    )
    with ExitStack() as loaded:
        mapped = MappedFiles(header) if should_map(header) else None
        if mapped:
            loaded.callback(mapped.close)
        else:
            models_log.info("%s: other users can write it, so it is read, not mapped", path)
        model_parameters = ModelParameters(options.n_gpu_layers, use_mmap=mapped is not None)
        model = LlamaModel(header, model_parameters)
        loaded.callback(model.close)
        model.load_adapters([read_gguf(adapter) for adapter in adapters])
        attention = flash_attention(
            header, parameters, uses_gpu=model.uses_gpu, wanted=options.flash_attention
        )
        cache = TuningCache(model, parameters) if attention is None and options.tunes else None
        tuning = cache.read() if cache and not retunes else None
        if attention is None:
            attention = tuning.flash_attention if tuning else AUTO
        parameters = replace(parameters, flash_attention=attention)
        decoder = LlamaDecoder(
            model, parameters, n_ctx, layout, options, mapped, None if tuning else cache
        )
        loaded.pop_all()
    # llama.cpp logs "offloaded" even without a device.
    n_offloaded, n_layers = log.offloaded or (0, model.n_layers + 1)
    kv_bytes = log.buffers().kv
    return decoder, LoadReport(
        tuning=tuning, name=decoder.name, n_ctx=n_ctx,
        n_threads=options.threads or usable_cores(), n_parallel=layout.n_seq, is_split=layout.is_split,
        cache_type=cache_type, kv_bytes=kv_bytes,
        n_offloaded=n_offloaded if model.devices else 0, n_layers=n_layers, devices=tuple(map(str, model.devices)),
        description=f"{options.family or model_family(header)}, {header.n_weights / 1e6:,.1f} million weights, "
        f"{header.main_type()}, {header.bits_per_weight:.1f} bits per weight",
    )  # fmt: skip
