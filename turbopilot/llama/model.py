"""Model in llama.cpp: weights and vocabulary."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from turbopilot.base.errors import (
    CorruptModel,
    DecoderFailed,
    InvalidInput,
    MemoryShort,
    ServeError,
)
from turbopilot.formats.gguf.check import check_model
from turbopilot.formats.gguf.check_adapter import check_adapter
from turbopilot.formats.gguf.file import GgufHeader
from turbopilot.llama.adapter import LlamaAdapter
from turbopilot.llama.devices import Device, buffer_type, check_workers, cpu_buffer
from turbopilot.llama.library import llama_cpp, log, start_backend
from turbopilot.llama.placement import CPU, Placement
from turbopilot.llama.text_normalizer import text_normalizer
from turbopilot.llama.trial import try_model

_ROPE_NONE: Final = -1  # enum llama_rope_type, LLAMA_ROPE_TYPE_NONE
_OVERRIDE_STRING: Final = 3  # enum llama_model_kv_override_type, LLAMA_KV_OVERRIDE_TYPE_STR
_SPLIT_MODES: Final = {"none": 0, "layer": 1, "row": 2}  # enum llama_split_mode in llama.h


class _Override(ctypes.Structure):
    """llama_model_tensor_buft_override in llama.h; an empty one ends a list."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


@dataclass(frozen=True, slots=True)
class ModelParameters:
    """Parameters for loading a model.

    Attributes:
        placement: None puts everything on the CPU.
        devices: the devices of the placement, in its order.
        tensor_overrides: (pattern, device) pairs for tensors that go elsewhere; the device may be "CPU".
        locks_memory: keep the weights in main memory (mlock).
        repack: repack the weights of some types for the processor's widest instructions.
        check_tensors: reject NaN and infinity in weights, which the rounding of activations could hide.
        no_alloc: compute sizes without allocating memory.
        overrides: metadata key → text that replaces the value in the file.
    """

    placement: Placement | None = None
    devices: tuple[Device, ...] = ()
    tensor_overrides: tuple[tuple[str, str], ...] = ()
    vocab_only: bool = False
    use_mmap: bool = True
    locks_memory: bool = False
    repack: bool = True
    check_tensors: bool = False
    no_alloc: bool = False
    is_trial: bool = False
    overrides: Mapping[str, str] = field(default_factory=dict)

    @property
    def used(self) -> list[tuple[Device, int]]:
        """The devices with a part of the model, and their numbers of layers."""
        if self.placement is None:
            return []
        pinned = {name.lower() for _, name in self.tensor_overrides}
        placed = zip(self.devices, self.placement.counts, strict=True)
        return [(d, n) for d, n in placed if n or d.name.lower() in pinned]


class LlamaModel:
    """A loaded model. Its header is checked first, because llama.cpp aborts on some malformed files.

    Attributes:
        adapters: the loaded LoRA adapters.
        devices: devices that have a part of the model, with their free memory before it was loaded.
        placed: those devices by name and description, each with its number of layers.
        n_layers: layers, without the output layer.
        bos: token id, or -1 if there is none.
        eos: token id, or -1 if there is none.
        can_cut: whether a sequence can be truncated; False for recurrent models.
        rotates: whether positions are rotations of keys and queries; False for learned position vectors.

    Raises:
        CorruptModel: the file is damaged, or llama.cpp refuses it; the message has llama.cpp's reason.
        MemoryShort: a device, or main memory, has no room for the weights.
        ServeError: the model does not generate text.
    """

    def __init__(self, header: GgufHeader, parameters: ModelParameters = ModelParameters()) -> None:
        self._pointer: Any = None
        if not parameters.vocab_only:
            check_model(header)
            if not (parameters.is_trial or parameters.no_alloc):
                try_model(header)
        self.header = header
        self.adapters: tuple[LlamaAdapter, ...] = ()
        self._is_trial = parameters.is_trial
        start_backend()
        log.clear()
        self.devices = tuple(device for device, _ in parameters.used)
        self.placed = tuple((str(device), n) for device, n in parameters.used)
        self.uses_gpu = bool(self.devices)
        params, _kept = _model_params(parameters)
        self._pointer = llama_cpp.llama_model_load_from_file(os.fsencode(header.path), params)
        if not self._pointer:
            self.check_workers()
            if log.is_out_of_memory:
                raise MemoryShort(
                    f"{header.path}: no memory for its weights: {log.reason()}",
                    hint="give fewer layers with --ngl, or a smaller file",
                )
            if "does not support split buffers" in log.reason():
                raise InvalidInput(
                    f"--split-mode row: {log.reason()}", hint="use --split-mode layer"
                )
            raise CorruptModel(
                f"{header.path}: llama.cpp cannot load it: {log.reason()}",
                hint="convert or download it again; if it is new, update llama-cpp-python",
            )
        generates = llama_cpp.llama_model_has_decoder(self._pointer)
        if not generates or llama_cpp.llama_model_has_encoder(self._pointer):
            self.close()
            raise ServeError(f"{header.path}: {header.architecture} does not generate text")
        self._normalize = text_normalizer(header.metadata)
        self._read_facts()

    def _read_facts(self) -> None:
        model = self._pointer
        vocab = self._vocab = llama_cpp.llama_model_get_vocab(model)
        self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(vocab))
        self.n_layers = int(llama_cpp.llama_model_n_layer(model))
        self.n_ctx_train = int(llama_cpp.llama_model_n_ctx_train(model))
        self.bos = int(llama_cpp.llama_vocab_bos(vocab))
        self.eos = int(llama_cpp.llama_vocab_eos(vocab))
        self.adds_bos = bool(llama_cpp.llama_vocab_get_add_bos(vocab))
        self.is_sentencepiece = (
            int(llama_cpp.llama_vocab_type(vocab)) == llama_cpp.LLAMA_VOCAB_TYPE_SPM
        )
        self.can_cut = not (
            llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model)
        )
        self.rotates = int(llama_cpp.llama_model_rope_type(model)) != _ROPE_NONE

    def load_adapters(self, headers: Sequence[GgufHeader]) -> None:
        """Load LoRA adapters, for contexts that are created from now on.

        Raises:
            InvalidInput: a file is not an adapter of this model.
            CorruptModel: a file is damaged, or llama.cpp refuses it or cannot compute with it.
        """
        for header in headers:
            check_adapter(header, self.header)
        if headers and not self._is_trial:
            try_model(self.header, headers)
        try:
            self.adapters = tuple(LlamaAdapter(self._pointer, header) for header in headers)
        except CorruptModel:
            self.check_workers()
            raise

    def check_workers(self) -> None:
        """Raise DeviceLost if a worker with a part of the model is lost; results before are wrong then."""
        check_workers(self.devices)

    @property
    def pointer(self) -> Any:
        """Pointer of llama.cpp to the model."""
        return self._pointer

    @property
    def vocab(self) -> Any:
        """Pointer of llama.cpp to the vocabulary."""
        return self._vocab

    @property
    def first_token(self) -> int | None:
        """Token that precedes every text; None if the model does not add one."""
        return self.bos if self.adds_bos and self.bos >= 0 else None

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Return the token ids of a text, normalized for the model's tokenizer, without added tokens.

        If `parse_special` is set, the names of special tokens become those tokens; otherwise they remain text.
        """
        data = self._normalize(text).encode("utf-8", "replace")
        # A token is at least one byte, except for one or two spaces that are added in front.
        size = len(data) + 16
        while True:
            ids = (llama_cpp.llama_token * size)()
            n = llama_cpp.llama_tokenize(
                self._vocab, data, len(data), ids, size, False, parse_special
            )
            if n >= 0:
                return list(ids[:n])
            if -n <= size:
                raise DecoderFailed(f"llama.cpp cannot tokenize a text of {len(data):,} bytes")
            size = -n

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes of a token; for special tokens the name if `special` is set, otherwise b""."""
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, size, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            size = -n

    def token_text(self, token: int) -> str:
        """Return the text of a token in the vocabulary; "" if there is no such token."""
        if not 0 <= token < self.n_vocab:
            return ""
        text: bytes = llama_cpp.llama_vocab_get_text(self._vocab, token)
        return text.decode(errors="replace")

    def is_eog(self, token: int) -> bool:
        """Return whether the token ends generation."""
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))

    def close(self) -> None:
        """Free the model; its contexts must be closed first. A second call does nothing."""
        if self._pointer:
            llama_cpp.llama_model_free(self._pointer)  # and its adapters
            self._pointer, self.adapters = None, ()


def _model_params(parameters: ModelParameters) -> tuple[Any, list[Any]]:
    """Return llama_model_params, and the arrays that they point to, which must live until the model is loaded."""
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = parameters.vocab_only
    params.check_tensors = parameters.check_tensors
    params.use_extra_bufts = parameters.repack
    params.no_alloc = parameters.no_alloc
    params.load_mode = _load_mode(parameters)
    kept = _place(params, parameters)
    if parameters.overrides:
        # One additional entry: an empty entry ends the list.
        table = (llama_cpp.llama_model_kv_override * (len(parameters.overrides) + 1))()
        for entry, (key, value) in zip(table, parameters.overrides.items(), strict=False):
            entry.tag, entry.key = _OVERRIDE_STRING, key.encode()
            entry.value.val_str = value.encode()
        params.kv_overrides = table
    return params, kept


def _load_mode(parameters: ModelParameters) -> int:
    if parameters.no_alloc:
        return int(llama_cpp.LLAMA_LOAD_MODE_NONE)
    if parameters.locks_memory:
        mapped, read = llama_cpp.LLAMA_LOAD_MODE_MMAP_MLOCK, llama_cpp.LLAMA_LOAD_MODE_MLOCK
    else:
        mapped, read = llama_cpp.LLAMA_LOAD_MODE_AUTO, llama_cpp.LLAMA_LOAD_MODE_NONE
    return int(mapped if parameters.use_mmap else read)


def _place(params: Any, parameters: ModelParameters) -> list[Any]:
    """Set the fields for devices. The list of devices is always given: without one, llama.cpp uses all GPUs."""
    used = parameters.used
    devices = (ctypes.c_void_p * (len(used) + 1))(*(device.pointer for device, _ in used))
    params.devices = ctypes.cast(devices, ctypes.c_void_p)
    params.n_gpu_layers = params.main_gpu = 0
    kept: list[Any] = [devices]
    if parameters.placement is not None and used:
        params.n_gpu_layers = parameters.placement.n_gpu_layers
        params.split_mode = _SPLIT_MODES[parameters.placement.split_mode]
        split = (ctypes.c_float * llama_cpp.llama_max_devices())(*(float(n) for _, n in used))
        params.tensor_split = ctypes.cast(split, ctypes.POINTER(ctypes.c_float))
        kept.append(split)
    if parameters.tensor_overrides:
        buffers = {d.name.lower(): buffer_type(d.pointer) for d, _ in used} | {
            CPU.lower(): cpu_buffer()
        }
        table = (_Override * (len(parameters.tensor_overrides) + 1))()
        for entry, (pattern, device) in zip(table, parameters.tensor_overrides, strict=False):
            entry.pattern, entry.buffer_type = pattern.encode(), buffers[device.lower()]
        params.tensor_buft_overrides = ctypes.cast(table, ctypes.c_void_p)
        kept.append(table)
    return kept
