"""The judge: a checkpoint as a `Reference`. What it has computed once it keeps, by the contents of the checkpoint.

Kept are not the logits but what the output head is given: (P, D) instead of (P, V) numbers, from which the head
makes the same logits again. So nothing is rounded or left out, and ten files of one model cost one run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from turbopilot.base.errors import CorruptCheckpoint, InvalidInput
from turbopilot.base.file_digest import file_digests
from turbopilot.base.progress import Progress, silent
from turbopilot.verify import hyperparameters, torch_model
from turbopilot.verify.reference_cache import NoCache, ReferenceCache
from turbopilot.verify.reference_tokenizer import open_tokenizer
from turbopilot.verify.source import Change, Logits, Window
from turbopilot.verify.torch_model import Device, TorchModel

_GROUP = 2048  # positions that a streamed model takes through its layers at once
_ALIKE = 512  # windows up to this long are put into one group
_SOUND, _CPU = Change(), Device()


class TorchReference:
    """A Hugging Face checkpoint folder as a `Reference`.

    Args:
        folder: holds config.json, the weights and the tokenizer.
        device: where it runs.
        cache: folder for what was computed before; None to keep nothing.
        streamed: read the weights from disk matrix by matrix; by default where memory is too small for all.
        progress: told while the files are read for their digests.

    Raises:
        InvalidInput: no such folder, no config.json, no tokenizer, torch is not installed, or no such device.
        UnsupportedModel: transformers knows no such architecture without running the checkpoint's code.
        CorruptCheckpoint: a file cannot be read, or weights are missing from it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: Device = _CPU,
        cache: Path | None = None,
        streamed: bool | None = None,
        progress: Progress = silent,
    ) -> None:
        self._config = _read_config(folder)
        self.versions = torch_model.versions()
        self.name = str(folder)
        self._folder, self._device = folder, device
        self._tokenizer = open_tokenizer(folder)
        room = torch_model.memory_of(device)
        self._models: dict[Change, TorchModel] = {}
        # The head alone is enough for what is kept already; it is found without reading any layer.
        self.n_vocab = self._reader(_SOUND).n_vocab
        size = self._reader(_SOUND).n_weights * (4 if device.precision == "f32" else 2)
        self._streamed = size > room if streamed is None else streamed
        self.files = file_digests(_model_files(folder), cache, progress)
        about = {
            "files": dict(self.files), "device": device.name.split(":")[0], "precision": device.precision,
            **self.versions,
        }  # fmt: skip
        self._cache = ReferenceCache(cache, about) if cache else NoCache()
        self.n_ctx = _n_ctx(folder, self._config)
        self.hyperparameters = hyperparameters.of_config(self._config)

    @property
    def streamed(self) -> bool:
        """Whether the model is larger than memory."""
        return self._streamed

    def tokenize(self, text: str) -> list[int]:
        """See `LogitsSource`."""
        return self._tokenizer.encode(text)

    def text(self, ids: Sequence[int]) -> str:
        """See `LogitsSource`."""
        return self._tokenizer.decode(ids)

    def prepare(self, windows: Sequence[Window], progress: Progress = silent) -> None:
        """See `Reference`."""
        self._prepare(_SOUND, windows, progress)

    def logits(self, window: Window) -> Iterator[Logits]:
        """See `LogitsSource`."""
        return self._logits(_SOUND, window)

    def changed(self, change: Change) -> _Changed | None:
        """See `Reference`."""
        if not self._reader(change).changed:
            return None
        return _Changed(self, change)

    def remembered(self, question: str) -> Mapping[str, object] | None:
        """See `Reference`."""
        return self._cache.answer(question)

    def remember(self, question: str, answer: Mapping[str, object]) -> None:
        """See `Reference`."""
        self._cache.keep_answer(question, answer)

    def continued(self, ids: Sequence[int], n: int) -> list[int] | None:
        """See `Reference`."""
        question = f"continued {n} {','.join(map(str, ids))}"
        if kept := self.remembered(question):
            return [int(i) for i in kept["ids"]]  # type: ignore[attr-defined]
        if self._streamed:
            return None
        found = self._runner(_SOUND).continued(ids, n)
        self.remember(question, {"ids": found})
        return found

    def _prepare(self, change: Change, windows: Sequence[Window], progress: Progress) -> None:
        todo = [w for w in windows if not self._cache.has(_label(change), w)]
        total = sum(len(w.ids) for w in windows)
        done = total - sum(len(w.ids) for w in todo)
        for group in _groups(todo, streamed=self._streamed):
            model, what = self._runner(change), "reference" if change == _SOUND else "limits"
            tokens = sum(len(w.ids) for w in group)
            progress(done, total, what)
            model.heard = lambda share, at=done, n=tokens, w=what: progress(
                int(at + share * n), total, w
            )  # type: ignore[misc]
            hidden = model.hidden([w.ids for w in group])
            for w, states in zip(group, hidden, strict=True):
                if not np.isfinite(states).all():
                    raise CorruptCheckpoint(
                        f"{self.name}: its own logits are NaN or infinite in {w.name!r}",
                        hint="the weights are damaged: download the checkpoint again",
                    )
                self._cache.keep(_label(change), w, states[np.asarray(w.measured)])
                done += len(w.ids)
        progress(total, total, "reference")

    def _logits(self, change: Change, window: Window) -> Iterator[Logits]:
        self._prepare(change, [window], silent)
        hidden = self._cache.get(_label(change), window)
        head = self._reader(change)
        at = 0
        for block in window.blocks(self.n_vocab):
            yield head.head(hidden[at : at + len(block)])
            at += len(block)

    def _runner(self, change: Change) -> TorchModel:
        """The model, ready to run: whole in memory where there is room."""
        if self._models.get(change) is None or self._models[change].streamed != self._streamed:
            self._models.clear()  # one at a time
            self._models[change] = self._open(change, streamed=self._streamed)
        return self._models[change]

    def _reader(self, change: Change) -> TorchModel:
        """The model, for its head at least."""
        if change not in self._models:
            self._models[change] = self._open(change, streamed=True)
        return self._models[change]

    def _open(self, change: Change, *, streamed: bool) -> TorchModel:
        return TorchModel(self._folder, self._config, self._device, change, streamed=streamed)


class _Changed:
    """The reference with a change, as a `LogitsSource`."""

    def __init__(self, reference: TorchReference, change: Change) -> None:
        self._of, self._change = reference, change
        self.name, self.n_vocab, self.n_ctx = reference.name, reference.n_vocab, reference.n_ctx
        self.tokenize, self.text = reference.tokenize, reference.text

    def logits(self, window: Window) -> Iterator[Logits]:
        """See `LogitsSource`."""
        return self._of._logits(self._change, window)


def _label(change: Change) -> str:
    return f"noise {change.noise!r}, tanh {change.tanh_gelu}"


def _groups(windows: Sequence[Window], *, streamed: bool) -> Iterator[list[Window]]:
    """What runs at once: a window, or, where each run reads the whole disk, several of about one length."""
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
    """What the logits depend on."""
    weights = [*folder.glob("*.safetensors")] or [*folder.glob("pytorch_model*.bin")]
    return sorted([folder / "config.json", *weights])


def _read_config(folder: Path) -> dict[str, Any]:
    hint = "give the folder that holds config.json, the weights and the tokenizer, as turbopilot download makes it"
    if not folder.exists():
        raise InvalidInput(f"{folder}: no such folder", hint=hint)
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: is a file, not a checkpoint's folder", hint=hint)
    config = folder / "config.json"
    if not config.is_file():
        raise InvalidInput(
            f"{folder}: holds no config.json, so it is no Hugging Face checkpoint", hint=hint
        )
    try:
        parsed = json.loads(config.read_text("utf-8"))
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
        f"{folder}: config.json names no context length (max_position_embeddings, n_positions)",
        hint="download it again",
    )
