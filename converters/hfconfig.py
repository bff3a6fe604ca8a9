"""Typed access to config.json that collects all errors and raises them together."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.config_ranges import RANGES
from converters.spec import Require
from turbopilot.base.errors import CorruptCheckpoint, InvalidInput, UnsupportedModel
from turbopilot.base.quoting import MOST_QUOTED, shortened

MAX_BYTES = 4 << 20  # published files have a few KB, with the names of many classes some 100 KB
_NEEDED: Any = object()
# Built into llama.cpp's graphs. Source: llama-hparams.h; ggml_rope_yarn_corr_dims in ggml.c.
_YARN = (
    Require("beta_fast", (32,), absent=32),
    Require("beta_slow", (1,), absent=1),
    Require("attention_factor", (None,)),
    Require("truncate", (True,), absent=True),
)


@dataclass(frozen=True, slots=True)
class Rope:
    """Settings of the rotary position embedding."""

    theta: float  # base frequency
    fraction: float  # share of each head's dimensions that is rotated
    kind: str  # "default", "linear", which divides positions by `factor`, or "yarn"
    factor: float
    trained: int = 0  # YaRN's original context length
    mscale: float = 0.0  # YaRN's `mscale_all_dim`


class HfConfig:
    """Content of a config.json.

    An invalid field is recorded in `problems` and read as a placeholder, so that all errors are reported at once.
    """

    def __init__(self, values: dict[str, Any], where: str = "config.json") -> None:
        self.values = values
        self.where = where
        self.problems: list[str] = []

    @classmethod
    def read(cls, folder: Path, name: str = "config.json") -> HfConfig:
        """Read the file `name` in a folder.

        Raises:
            InvalidInput: the folder or the file is missing.
            CorruptCheckpoint: the file cannot be read, is too large, or is not a JSON object.
        """
        path = folder / name
        if not path.is_file():
            lacks = f"contains no {name}, so it is not a Hugging Face checkpoint"
            raise InvalidInput(
                f"{folder}: {lacks if folder.exists() else 'no such folder'}",
                hint="give the folder that contains config.json, tokenizer.json and *.safetensors",
            )
        try:
            if (n_bytes := path.stat().st_size) > MAX_BYTES:
                raise CorruptCheckpoint(
                    f"{path}: has {n_bytes:,} bytes; at most {MAX_BYTES:,} are plausible",
                    hint="download the checkpoint again",
                )
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as e:
            raise CorruptCheckpoint(
                f"{path}: cannot be read: {e.strerror}", hint="check the file and its disk"
            ) from e
        except (ValueError, RecursionError) as e:
            raise CorruptCheckpoint(
                f"{path}: not JSON: {e}", hint="download the checkpoint again"
            ) from e
        if not isinstance(values, dict):
            raise CorruptCheckpoint(f"{path}: contains {type(values).__name__}, not an object")
        return cls(values, str(path))

    def over(self, **changes: Any) -> HfConfig:
        """Return a copy with changed values; both share `problems`."""
        other = HfConfig({**self.values, **changes}, self.where)
        other.problems = self.problems
        return other

    @property
    def architectures(self) -> list[str]:
        """Class names in the field `architectures`."""
        value = self.values.get("architectures")
        return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []

    # Each of these returns `absent` if the field is missing or null.

    def integer(self, name: str, absent: int = _NEEDED) -> int:
        """Return an integer field, which must be in its range of `RANGES`."""
        return int(self._in_range(name, absent, int))

    def number(self, name: str, absent: float = _NEEDED) -> float:
        """Return a number field as float; it must be in its range of `RANGES`."""
        return float(self._in_range(name, absent, (int, float)))

    def flag(self, name: str, absent: bool = _NEEDED) -> bool:
        """Return a boolean field."""
        return bool(self._read(name, absent, bool, False))

    def text(self, name: str, absent: str = _NEEDED) -> str:
        """Return a string field."""
        return str(self._read(name, absent, str, ""))

    def _read(self, name: str, absent: Any, kind: Any, harmless: Any) -> Any:
        value = self.values.get(name)
        if value is None:
            if absent is _NEEDED:
                self._note(f"{name} is missing")
                return harmless
            return absent
        if not _is(value, kind):
            wanted = "a boolean" if kind is bool else "a text"
            self._note(f"{name} is {_shown(value)}, which is not {wanted}")
            return harmless
        return value

    def _in_range(self, name: str, absent: Any, kind: Any) -> Any:
        value = self._read(name, absent, object, 1)
        plausible = RANGES[name]
        if self.values.get(name) is None or (_is(value, kind) and value in plausible):
            return value
        wanted = "an integer" if kind is int else "a number"
        self._note(f"{name} is {_shown(value)}; expected {wanted} from {plausible}")
        return 1

    def rope(self, fraction: float = 1.0, kinds: tuple[str, ...] = ("default", "linear")) -> Rope:
        """Return the rotary settings, as written by any version of transformers; `kinds` are those of the graph.

        Since 5.0 they are in one object, `rope_parameters`. Earlier versions use `rope_theta` (GPT-NeoX:
        `rotary_emb_base`), `partial_rotary_factor` (GPT-NeoX: `rotary_pct`; default `fraction`) and `rope_scaling`.
        """
        merged: dict[str, Any] = {}
        for name in ("rope_scaling", "rope_parameters"):
            value = self.values.get(name)
            if value is not None and not isinstance(value, dict):
                self._note(f"{name} is {_shown(value)}, which is not an object")
            merged |= value if isinstance(value, dict) else {}
        inner = self.over(**merged)
        theta = inner.number("rope_theta", absent=inner.number("rotary_emb_base", absent=10000.0))
        part = inner.number(
            "partial_rotary_factor", absent=inner.number("rotary_pct", absent=fraction)
        )
        kind = inner.text("rope_type", absent=inner.text("type", absent="default"))
        factor = inner.number("factor", absent=1.0)
        if kind not in kinds:
            supported = " and ".join(map(repr, kinds))
            inner._note(f"rope type is {_shown(kind)}; llama.cpp's graph supports {supported}")
        if kind != "yarn" or kind not in kinds:
            return Rope(theta, part, kind, factor)
        inner.require(_YARN)
        trained, mscale = inner.integer("original_max_position_embeddings"), inner.number("mscale")
        if mscale != inner.number("mscale_all_dim"):
            inner._note("mscale differs from mscale_all_dim; llama.cpp's graph has one value")
        return Rope(theta, part, kind, factor, trained, mscale)

    def require(self, rules: tuple[Require, ...]) -> None:
        """Record every value that the target graph does not support in `problems`."""
        for rule in rules:
            value = self.values.get(rule.field)
            value = rule.absent if value is None else value
            # 1 == True in Python, but they differ in JSON
            if not any(
                value == a and isinstance(value, bool) == isinstance(a, bool) for a in rule.allowed
            ):
                allowed = " or ".join(json.dumps(a) for a in rule.allowed)
                self._note(
                    f"{rule.field} is {_shown(value)}; llama.cpp's graph supports only {allowed}"
                )

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def raise_problems(self, more: list[str]) -> None:
        """Raise UnsupportedModel with all problems, if any."""
        if reasons := self.problems + more:
            raise UnsupportedModel(
                f"{self.where}: cannot be converted faithfully:", reasons=reasons,
                hint="nothing was written",
            )  # fmt: skip


def _is(value: Any, kind: Any) -> bool:
    """Return whether a JSON value has this type; in Python, True is an integer too."""
    return isinstance(value, kind) and (kind in (bool, object) or not isinstance(value, bool))


def _shown(value: Any) -> str:
    """Return a value as JSON, cut to 100 characters, without the contents of lists and objects."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return shortened(json.dumps(value[:MOST_QUOTED] if isinstance(value, str) else value))
