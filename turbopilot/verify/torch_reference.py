"""Checkpoint as a `ReferenceModel`, with results cached by the contents of the checkpoint.

The cache holds the input of the output head, (P, D), instead of the logits, (P, V). The head computes the same logits
from it, so nothing is rounded or lost, and verifying ten files of one model runs the network once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from turbopilot.base.errors import CorruptCheckpoint, InvalidInput
from turbopilot.base.file_digest import file_digests
from turbopilot.base.progress import Progress, silent
from turbopilot.verify import hyperparameters, tokenizer_files, torch_model
from turbopilot.verify.reference_cache import ReferenceCache
from turbopilot.verify.reference_tokenizer import open_tokenizer
from turbopilot.verify.source import Change, Logits, Window
from turbopilot.verify.torch_decoder import TorchDecoder
from turbopilot.verify.torch_model import TorchDevice, TorchModel

_GROUP = 2048  # positions that a streamed model computes in one pass over its layers
_ALIKE = 512  # tokens; longer windows are not grouped
_SOUND, _CPU = Change(), TorchDevice()


class TorchReference:
    """Hugging Face checkpoint folder as a `ReferenceModel`.

    Args:
        folder: contains config.json, the weights and the tokenizer.
        device: runs the model.
        cache: folder for results of all runs; None to keep nothing.
        streamed: read the weights from disk matrix by matrix; by default if they do not fit in memory.
        progress: called while the files are hashed.

    Raises:
        InvalidInput: a file, torch or the device is missing.
        UnsupportedModel, CorruptCheckpoint: see `TorchModel`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: TorchDevice = _CPU,
        cache: Path | None = None,
        streamed: bool | None = None,
        progress: Progress = silent,
    ) -> None:
        self._config = _read_config(folder)
        self.versions = torch_model.versions()
        self.name = str(folder)
        self._folder, self._device = folder, device
        self._tokenizer = open_tokenizer(folder)
        self._models: dict[Change, TorchModel] = {}  # shared with the changed references
        self._change = _SOUND
        self._streamed = streamed
        model = self._model()
        self.n_vocab, self._streamed = model.n_vocab, model.streamed
        self.files = file_digests(_model_files(folder), cache, progress)
        about = {
            "files": dict(self.files), "device": device.name.split(":")[0], "precision": device.precision,
            **self.versions,
        }  # fmt: skip
        self.notes = ReferenceCache(cache, about)
        self.n_ctx = _n_ctx(folder, self._config)
        # If config.json lacks the RoPE base, the default of the model's class counts.
        rope = {"rope_theta": model.rope_base}
        self.hyperparameters = hyperparameters.of_config({**rope, **self._config})
        self.tokenizer_files = tokenizer_files.of_folder(folder)

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        return self._tokenizer.encode(text)

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of some ids."""
        return self._tokenizer.decode(ids)

    def prepare(self, windows: Sequence[Window], progress: Progress = silent) -> None:
        """Compute the hidden states of these windows in as few passes over the weights as possible."""
        todo = [w for w in windows if not self.notes.has(self._label, w)]
        what = "reference" if self._change == _SOUND else "limits"
        total = sum(len(w.ids) for w in windows)
        done = total - sum(len(w.ids) for w in todo)
        for group in _groups(todo, streamed=bool(self._streamed)):
            model = self._model(whole=True)
            tokens = sum(len(w.ids) for w in group)
            progress(done, total, what)

            def heard(share: float, at: int = done, n: int = tokens) -> None:
                progress(int(at + share * n), total, what)

            model.heard = heard
            hidden = model.hidden([w.ids for w in group])
            for w, states in zip(group, hidden, strict=True):
                if not np.isfinite(states).all():
                    raise CorruptCheckpoint(
                        f"{self.name}: the checkpoint's own logits are NaN or infinite in {w.name!r}",
                        hint="the weights are damaged: download the checkpoint again",
                    )
                self.notes.keep(self._label, w, states[np.asarray(w.measured)])
                done += len(w.ids)
        progress(total, total, what)

    def logits(self, window: Window) -> Iterator[Logits]:
        """Yield the logits of a window, one block at a time."""
        self.prepare([window])
        hidden = self.notes.states(self._label, window)
        head = self._model()
        at = 0
        for block in window.blocks(self.n_vocab):
            yield head.head(hidden[at : at + len(block)])
            at += len(block)

    def changed(self, change: Change) -> TorchReference | None:
        """Return the model with a change applied; None if the change has no effect."""
        other = copy(self)
        other._change = change
        return other if other._model().changed else None

    def continued(self, ids: Sequence[int], n: int) -> list[int] | None:
        """Return n tokens of greedy continuation; None if the weights are streamed, which is too slow."""
        question = f"continued {n} {','.join(map(str, ids))}"
        if kept := self.notes.get(question):
            return [int(i) for i in kept["ids"]]
        if self._streamed:
            return None
        found = self._model(whole=True).continued(ids, n)
        self.notes[question] = {"ids": found}
        return found

    def decoder(self, vocabulary: Any) -> TorchDecoder:
        """Return the model as the decoder of an engine; see `TorchDecoder`."""
        return TorchDecoder(self._model(whole=True), self.name, vocabulary)

    @property
    def _label(self) -> str:
        return f"noise {self._change.noise!r}, tanh {self._change.tanh_gelu}"

    def _model(self, *, whole: bool = False) -> TorchModel:
        """Return the model with the current change; weights are loaded lazily. If `whole`, free other models first."""
        if whole:
            for change in [c for c in self._models if c != self._change]:
                del self._models[change]
        if self._change not in self._models:
            self._models[self._change] = TorchModel(
                self._folder, self._config, self._device, self._change, streamed=self._streamed
            )
        return self._models[self._change]


def _groups(windows: Sequence[Window], *, streamed: bool) -> Iterator[list[Window]]:
    """Yield windows to run together: single ones, or several of similar length if each pass reads all weights."""
    group: list[Window] = []
    for w in sorted(windows, key=lambda w: len(w.ids)) if streamed else windows:
        longest = max([len(w.ids), *(len(other.ids) for other in group)])
        if group and (not streamed or longest > _ALIKE or longest * (len(group) + 1) > _GROUP):
            yield group
            group = []
        group.append(w)
    if group:
        yield group


def _model_files(folder: Path) -> list[Path]:
    """Return the files that the logits depend on."""
    weights = [*folder.glob("*.safetensors")] or [*folder.glob("pytorch_model*.bin")]
    return sorted([folder / "config.json", *weights])


def _read_config(folder: Path) -> dict[str, Any]:
    config = folder / "config.json"
    if not config.is_file():
        what = "no such folder"
        if folder.exists():
            inside = "has no config.json, so it is not a Hugging Face checkpoint"
            what = inside if folder.is_dir() else "is a file, not a checkpoint folder"
        hint = "give a folder with config.json, weights and tokenizer (see turbopilot download)"
        raise InvalidInput(f"{folder}: {what}", hint=hint)
    try:
        parsed = json.loads(config.read_text("utf-8"))
    except RecursionError:
        raise CorruptCheckpoint(
            f"{config}: is nested too deeply", hint="download it again"
        ) from None
    except (ValueError, OSError) as e:
        raise CorruptCheckpoint(f"{config}: cannot be read: {e}", hint="download it again") from e
    if not isinstance(parsed, dict):
        raise CorruptCheckpoint(f"{config}: is not a JSON object", hint="download it again")
    return parsed


def _n_ctx(folder: Path, config: Mapping[str, Any]) -> int:
    for field in ("max_position_embeddings", "n_positions", "n_ctx"):
        if isinstance(n := config.get(field), int) and n > 0:
            return n
    raise CorruptCheckpoint(
        f"{folder}: config.json has no context length (max_position_embeddings, n_positions)",
        hint="download it again",
    )
