"""Loading of a model file as a decoder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from serve.llama.decoder import LlamaDecoder
from serve.llama.facts import cache_type_advice, model_family, plain_attention_fits, plan
from serve.llama.mapped_files import MappedFiles, should_map
from serve.llama.tuning import Tuning, TuningCache
from serve.settings import ModelOptions, find_cache_type
from turbopilot.base.backends import built_backends
from turbopilot.base.counts import count
from turbopilot.base.errors import InvalidInput, TurboPilotError
from turbopilot.base.graphics import graphics_cards
from turbopilot.base.machine import free_bytes, usable_cores
from turbopilot.base.sizes import size
from turbopilot.formats.gguf.check import check_model
from turbopilot.formats.gguf.file import GgufHeader, read_gguf
from turbopilot.llama.context import ContextParameters
from turbopilot.llama.device_trial import usable_attention
from turbopilot.llama.device_use import DeviceUse, device_uses, use_table
from turbopilot.llama.devices import Device
from turbopilot.llama.fitting import find_devices, load_stepping_down, machine
from turbopilot.llama.flash_attention import AUTO, flash_attention
from turbopilot.llama.library import log, set_numa
from turbopilot.llama.model import LlamaModel, ModelParameters
from turbopilot.llama.placement import Placement
from turbopilot.llama.unused_gpus import unused_gpu_warning
from turbopilot.llama.worker_link import WorkerLink

models_log = logging.getLogger("turbopilot.models")


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Setup of a loaded model, which may differ from the options.

    Attributes:
        is_split: whether each of the `n_parallel` sequences has a separate context.
        tuning: stored result of an earlier measurement, if it decided the setup.
        n_offloaded: number of layers on devices.
        n_layers: number of all layers; the output head counts as one.
        devices: devices with a part of the model.
        place: those devices, or the reason if there are none.
        uses: what is in main memory and on each device.
        links: links to the workers with a part of the model.
        advice: option with which more layers would be on devices; "" for none.
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
    place: str
    uses: tuple[DeviceUse, ...] = ()
    links: tuple[WorkerLink, ...] = ()
    tuning: Tuning | None = None
    advice: str = ""

    def lines(self) -> list[str]:
        """Return the setup as log lines."""
        parallel = f"{count(self.n_parallel, 'request')} at once"
        if self.n_parallel > 1:
            how = "each with a separate context" if self.is_split else "sharing the context"
            parallel += f", {how}"
        tuned = [f"tuned    {self.tuning.line()}"] if self.tuning else []
        return [
            f"model    {self.name} ({self.description})",
            f"context  {self.n_ctx} tokens, {count(self.n_threads, 'thread')}",
            f"parallel {parallel}",
            f"KV cache {self.cache_type}, {self.kv_bytes / 1e6:,.1f} MB",
            f"GPU      {self.n_offloaded} of {self.n_layers} layers offloaded ({self.place})",
            *(f"         {line}" for line in use_table(self.uses)),
            *([f"advice   {self.advice}"] if self.advice else []),
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
                hint="plain attention needs an unquantized KV cache, and enough memory on every device",
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
    options = replace(options, cache_type=find_cache_type(options.cache_type))
    wish = options.devices.wish
    devices = find_devices(wish)
    free = machine(devices)
    placement = plan(header, options, free)
    if placement.uses_gpu:
        used_devices = [
            d for d, share in zip(devices, placement.shares, strict=True) if share.total
        ]
        attention = usable_attention(
            header, used_devices, options.cache_type, options.flash_attention
        )
        options = replace(options, flash_attention=attention)
    decoder = load_stepping_down(
        header,
        placement,
        free,
        wish,
        lambda p: _load_placed(header, options, devices, p, adapters, retunes),
    )
    used = decoder.model.devices
    try:
        after = find_devices(wish) if used else ()
    except TurboPilotError:  # a worker was lost
        decoder.close()
        raise
    uses = device_uses(log, used, after, (free.free, free_bytes()))
    wants_gpu = not devices and wish.n_gpu_layers != 0 and not wish.names
    if wants_gpu and (warning := unused_gpu_warning(graphics_cards(), built_backends())):
        models_log.warning("%s", warning)
    place = ", ".join(map(str, used)) or _why_none(options, devices)
    advice = cache_type_advice(header, placement, free, options)
    return decoder, replace(_report(header, options, decoder, uses, place), advice=advice)


def _load_placed(
    header: GgufHeader,
    options: ModelOptions,
    devices: tuple[Device, ...],
    placement: Placement,
    adapters: Sequence[Path],
    retunes: bool,
) -> LlamaDecoder:
    """Load a model as a placement says; raise MemoryShort if there is no room."""
    need, given = placement.need, options.main_memory
    parameters = ContextParameters(
        n_ctx=need.layout.n_cells(need.n_ctx), n_batch=options.n_batch, n_seq=need.layout.n_seq,
        n_outputs=need.n_outputs, n_threads=options.threads, cache_type=options.cache_type,
        kv_unified=not need.layout.is_split,
    )  # fmt: skip
    set_numa(given.numa)
    with ExitStack() as loaded:
        mapped = MappedFiles(header) if given.maps and should_map(header) else None
        if mapped:
            loaded.callback(mapped.close)
        elif given.maps:
            models_log.info("%s: other users can write it, so it is read, not mapped", header.path)
        model_parameters = ModelParameters(
            placement, devices, options.devices.tensor_overrides,
            use_mmap=mapped is not None, locks_memory=given.locks,
        )  # fmt: skip
        model = LlamaModel(header, model_parameters)
        loaded.callback(model.close)
        model.load_adapters([read_gguf(adapter) for adapter in adapters])
        attention = flash_attention(
            header, parameters, uses_gpu=model.uses_gpu, wanted=options.flash_attention
        )
        is_open = attention is None
        if model.uses_gpu and attention == AUTO:
            wish = options.devices.wish
            is_open = plain_attention_fits(header, placement, machine(devices), wish)
        cache = TuningCache(model, parameters) if is_open and options.tunes else None
        tuning = cache.read() if cache and not retunes else None
        if tuning:
            attention = tuning.flash_attention
        parameters = replace(parameters, flash_attention=AUTO if attention is None else attention)
        if tuning or (model.uses_gpu and not retunes):  # see `serve.llama.tuning`
            cache = None
        decoder = LlamaDecoder(model, parameters, need.n_ctx, need.layout, options, mapped, cache)
        decoder.tuned_before = tuning
        loaded.pop_all()
    return decoder


def _why_none(options: ModelOptions, devices: tuple[Device, ...]) -> str:
    if options.devices.n_gpu_layers == 0 or options.devices.names:
        return "as given"
    free = ", ".join(f"{d.name} with {size(d.free)}" for d in devices)
    return f"none fits on {free}" if devices else "no GPU that llama.cpp can use"


def _report(
    header: GgufHeader,
    options: ModelOptions,
    decoder: LlamaDecoder,
    uses: tuple[DeviceUse, ...],
    place: str,
) -> LoadReport:
    _, n_layers = log.offloaded or (0, decoder.model.n_layers + 1)
    is_split = decoder.n_cells > decoder.n_ctx
    return LoadReport(
        tuning=decoder.tuned_before, name=decoder.name, n_ctx=decoder.n_ctx,
        n_threads=options.threads or usable_cores(), n_parallel=decoder.n_seq, is_split=is_split,
        cache_type=options.cache_type, kv_bytes=log.buffers().kv,
        n_offloaded=sum(use.layers + use.has_output for use in uses[1:]), n_layers=n_layers,
        devices=tuple(map(str, decoder.model.devices)), place=place, uses=uses,
        links=tuple(d.link for d in decoder.model.devices if d.link),
        description=f"{options.family or model_family(header)}, {header.n_weights / 1e6:,.1f} million weights, "
        f"{header.main_type()}, {header.bits_per_weight:.1f} bits per weight",
    )  # fmt: skip
