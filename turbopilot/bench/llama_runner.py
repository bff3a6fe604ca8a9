"""The process in which a model is measured: the only module here that imports llama_cpp. Started by `bench.child`.

Reads {"path", "setup", "n_ctx", "task", …}, loads the model as `serve` does, and hands it to one of `TASKS`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NoReturn

from turbopilot.base.kl_divergence import Logits
from turbopilot.base.machine import usable_cores
from turbopilot.bench.resident import drop_mapped, resident
from turbopilot.bench.setup import Setup
from turbopilot.bench.tasks import TASKS, DecodeFailed, NotFinite
from turbopilot.formats.ggml_types import CACHE_TYPES
from turbopilot.formats.gguf.file import read_gguf
from turbopilot.llama.child import leave, listen, read_job, tell
from turbopilot.llama.devices import gpu_devices
from turbopilot.llama.flash_attention import UBATCH, flash_attention
from turbopilot.llama.text_normalizer import text_normalizer

_ALL_LAYERS: Final = 999  # llama.cpp caps it at what there is


def main() -> None:
    """Do one job; leave with 0, or with 1 after having told {"failed": at what, "why"}."""
    job = read_job()
    import llama_cpp
    import numpy  # noqa: F401 — what it takes belongs to the base, not to the model

    listen(llama_cpp)
    llama_cpp.llama_backend_init()
    tell({"base": resident().now})
    model = LoadedModel(
        llama_cpp,
        Path(job["path"]),
        Setup(**job["setup"]),
        job["n_ctx"],
        no_alloc=job["task"] == "planned",
    )
    try:
        TASKS[job["task"]](model, job)
    except NotFinite as e:
        _fail("numbers", str(e))
    except DecodeFailed as e:
        _fail("decode", str(e))
    except OSError as e:  # only the store is written here
        tell({"errno": e.errno})
        _fail("store", e.strerror or str(e))
    leave(0)


def _fail(at: str, why: str = "") -> NoReturn:
    tell({"failed": at, "why": why})
    leave(1)


class LoadedModel:
    """A model with a context. See `tasks.Model` for what its methods are."""

    def __init__(
        self, lib: Any, path: Path, setup: Setup, n_ctx: int, *, no_alloc: bool = False
    ) -> None:
        from llama_cpp._ggml import libggml

        self._lib, self._ggml = lib, libggml
        before = gpu_devices(libggml)
        n_gpu_layers = setup.n_gpu_layers
        if n_gpu_layers is None:
            n_gpu_layers = _ALL_LAYERS if before else 0
        params = lib.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers
        if no_alloc:
            params.no_alloc, params.load_mode = True, lib.LLAMA_LOAD_MODE_NONE
        self._model = lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            _fail("model")
        if lib.llama_model_has_encoder(self._model) or not lib.llama_model_has_decoder(self._model):
            _fail("kind")
        header = read_gguf(path)
        attention = flash_attention(
            header,
            n_ctx=n_ctx,
            n_batch=setup.n_batch,
            kv_bytes=0,
            cache_type=setup.cache_type,
            uses_gpu=bool(before) and n_gpu_layers > 0,
            wanted=setup.flash_attention,
        )
        self._context = self._make_context(setup, n_ctx, attention)
        self._free = {str(d): d.free for d in before}
        self._vocab = lib.llama_model_get_vocab(self._model)
        self._memory = lib.llama_get_memory(self._context)
        self._files = {t.path for t in header.tensors}
        self._normalized = text_normalizer(header.metadata)
        self.n_vocab = int(lib.llama_vocab_n_tokens(self._vocab))
        self.n_ctx = n_ctx  # llama.cpp may give more, for which a model need not have positions
        self.n_batch = int(lib.llama_n_batch(self._context))
        self.version = str(lib.__version__)
        bos = int(lib.llama_vocab_bos(self._vocab))
        self.begin = bos if bos >= 0 and lib.llama_vocab_get_add_bos(self._vocab) else None
        self._batch = lib.llama_batch_init(self.n_batch, 0, 1)
        tell(
            {
                "n_ctx": int(lib.llama_n_ctx(self._context)),
                "n_threads": setup.n_threads or usable_cores(),
                "devices": [str(d) for d in before],
                "version": self.version,
                "built_for": lib.llama_print_system_info().decode("utf-8", "replace").strip(),
            }
        )

    def _make_context(self, setup: Setup, n_ctx: int, attention: int) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = min(setup.n_batch, n_ctx)
        params.n_ubatch = min(params.n_batch, UBATCH)
        params.n_seq_max = setup.n_seq
        params.n_outputs_max = max(setup.n_outputs, setup.n_seq) if setup.n_outputs else 0
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = setup.n_threads or usable_cores()
        params.flash_attn_type = attention
        params.type_k = params.type_v = CACHE_TYPES[setup.cache_type]
        context = self._lib.llama_init_from_model(self._model, params)
        return context or _fail("context")

    def tokenize(self, text: str) -> list[int]:
        """See `tasks.Model`."""
        data = self._normalized(text).encode()
        room = len(data) + 16  # a token is at least one byte of text
        ids = (self._lib.llama_token * room)()
        n = int(self._lib.llama_tokenize(self._vocab, data, len(data), ids, room, False, False))
        if n < 0:
            raise DecodeFailed(f"llama.cpp cannot tokenize a text of {len(data):,} bytes")
        return list(ids[:n])

    def read(self, ids: Sequence[int], start: int, outputs: range) -> Logits:
        """See `tasks.Model`."""
        import numpy as np

        b = self._batch
        b.n_tokens = len(ids)
        for i, token in enumerate(ids):
            b.token[i] = token
            b.pos[i] = start + i
            b.n_seq_id[i] = 1
            b.seq_id[i][0] = 0
            b.logits[i] = start + i in outputs
        code = int(self._lib.llama_decode(self._context, b))
        if code:
            raise DecodeFailed(f"llama_decode returned {code}")
        self._lib.llama_synchronize(self._context)
        n = len(range(max(start, outputs.start), min(start + len(ids), outputs.stop)))
        if not n:
            return np.empty((0, self.n_vocab), np.float32)
        return np.ctypeslib.as_array(self._lib.llama_get_logits(self._context), (n, self.n_vocab))

    def forget(self) -> None:
        """See `tasks.Model`."""
        self._lib.llama_memory_clear(self._memory, False)

    def drop_mapped(self) -> bool:
        """See `tasks.Model`."""
        return drop_mapped(self._files)

    def memory(self) -> dict[str, Any]:
        """See `tasks.Model`."""
        taken = {
            str(d): max(0, self._free.get(str(d), d.free) - d.free) for d in gpu_devices(self._ggml)
        }
        return {**asdict(resident()), "devices": taken}


if __name__ == "__main__":
    main()
