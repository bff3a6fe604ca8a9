"""Model files of scripts/check_gpu, made when they are first needed, and their prompts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import cycle
from pathlib import Path

from bench.gpu_check import GpuCheck, run_turbopilot
from bench.random_checkpoint import make_checkpoint
from bench.workload import Texts
from turbopilot.formats.gguf.file import read_gguf

_NUMBER = 4  # tokens of the number in front of a prompt


class Models:
    """Model files in all types, made when they are first needed: the bundled model, or a random one."""

    def __init__(self, check: GpuCheck, name: str) -> None:
        self._folder, self._geometry = check.folder, check.sizes.geometry
        self._name = name
        self._texts: dict[int, list[str]] = {}
        self._n_prompts = 1000  # which has as many digits as all further ones

    @cached_property
    def f16(self) -> Path:
        source, path = "demo", self._folder / f"{self._name}-F16.gguf"
        if self._name == "random":
            source = str(self._folder / "checkpoint")
            make_checkpoint(Path(source), self._geometry)
        run_turbopilot("convert", source, "-o", str(path))
        return path

    @cached_property
    def n_layers(self) -> int:
        """Layers, without the output layer."""
        header = read_gguf(self.f16)
        return int(str(header.metadata[f"{header.architecture}.block_count"]))

    def layers(self) -> dict[str, int]:
        """Return the numbers of layers to put on the GPU, by name; "all" includes the output layer."""
        return {"all": self.n_layers + 1, "half": self.n_layers // 2, "0": 0}

    def prompts(self, n_tokens: int) -> Iterator[str]:
        """Yield prompts of about `n_tokens`, without end. None begins as another one does, so no cache helps."""
        if n_tokens not in self._texts:
            texts = Texts(self.f16)
            self._texts[n_tokens] = list(texts.fresh(n_tokens - _NUMBER))
            texts.close()
        for text in cycle(self._texts[n_tokens]):
            self._n_prompts += 1
            yield f"{self._n_prompts}\n{text}"

    def file(self, type_name: str) -> Path:
        """Return the file of a type."""
        path = self._folder / f"{self._name}-{type_name}.gguf"
        if not path.exists() and path != self.f16:
            run_turbopilot("quantize", str(self.f16), type_name, "-o", str(path))
        return path
