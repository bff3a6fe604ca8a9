"""Typed reads of config.json that collect every fault and raise at the end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.spec import Require
from turbopilot.base.errors import CorruptCheckpoint, InvalidInput, UnsupportedModel
from turbopilot.base.quoting import quoted

_NEEDED: Any = object()


@dataclass(frozen=True, slots=True)
class Rope:
    """Settings of rotary positions."""

    theta: float  # base of the angles
    fraction: float  # of each head's dimensions that are rotated
    kind: str  # "default" or "linear", which stretches positions by `factor`
    factor: float


class HfConfig:
    """A config.json; a bad field is noted in `problems` and read as a harmless value, to report all at once."""

    def __init__(self, values: dict[str, Any], where: str = "config.json") -> None:
        self.values = values
        self.where = where
        self.problems: list[str] = []

    @classmethod
    def read(cls, folder: Path) -> HfConfig:
        """Read `folder`/config.json.

        Raises:
            InvalidInput: the folder or the file is missing.
            CorruptCheckpoint: it is not a JSON object.
        """
        path = folder / "config.json"
        if not path.is_file():
            lacks = "holds no config.json, so it is not a Hugging Face checkpoint"
            raise InvalidInput(
                f"{folder}: {lacks if folder.exists() else 'no such folder'}",
                hint="give the folder that holds config.json, tokenizer.json and *.safetensors",
            )
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as e:
            raise CorruptCheckpoint(
                f"{path}: not JSON: {e}", hint="download the checkpoint again"
            ) from e
        if not isinstance(values, dict):
            raise CorruptCheckpoint(f"{path}: holds {type(values).__name__}, not an object")
        return cls(values, str(path))

    def over(self, **changes: Any) -> HfConfig:
        """Return the config with other values; both share `problems`."""
        other = HfConfig({**self.values, **changes}, self.where)
        other.problems = self.problems
        return other

    @property
    def architectures(self) -> list[str]:
        """Names in `architectures`."""
        value = self.values.get("architectures")
        return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []

    # Each returns `absent` for `null` and for a missing field.

    def integer(self, name: str, absent: int = _NEEDED) -> int:
        """Return a whole number."""
        return int(self._read(name, absent, int, 1))

    def number(self, name: str, absent: float = _NEEDED) -> float:
        """Return a number."""
        return float(self._read(name, absent, (int, float), 1.0))

    def flag(self, name: str, absent: bool = _NEEDED) -> bool:
        """Return a truth value."""
        return bool(self._read(name, absent, bool, False))

    def text(self, name: str, absent: str = _NEEDED) -> str:
        """Return a text."""
        return str(self._read(name, absent, str, ""))

    def _read(self, name: str, absent: Any, kind: Any, harmless: Any) -> Any:
        value = self.values.get(name)
        if value is None:
            if absent is _NEEDED:
                self._note(f"{name} is missing")
                return harmless
            return absent
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            wanted = "a truth value" if kind is bool else "a usable value"
            self._note(f"{name} is {quoted(value)}, which is not {wanted}")
            return harmless
        return value

    def rope(self, fraction: float = 1.0) -> Rope:
        """Return the rotary settings from the fields of any version of transformers.

        Since 5.0 they are in one object, `rope_parameters`; before, in `rope_theta` (GPT-NeoX: `rotary_emb_base`),
        `partial_rotary_factor` (`rotary_pct`; default `fraction`) and `rope_scaling`.
        """
        merged: dict[str, Any] = {}
        for name in ("rope_scaling", "rope_parameters"):
            value = self.values.get(name)
            if value is not None and not isinstance(value, dict):
                self._note(f"{name} is {quoted(value)}, which is not an object")
            merged |= value if isinstance(value, dict) else {}
        inner = self.over(**merged)
        theta = inner.number("rope_theta", absent=inner.number("rotary_emb_base", absent=10000.0))
        part = inner.number(
            "partial_rotary_factor", absent=inner.number("rotary_pct", absent=fraction)
        )
        kind = inner.text("rope_type", absent=inner.text("type", absent="default"))
        factor = inner.number("factor", absent=1.0)
        if kind not in ("default", "linear"):
            inner._note(
                f"rope type is {quoted(kind)}; llama.cpp's graph computes 'default' or 'linear'"
            )
        if not (theta > 0 and factor > 0 and 0 < part <= 1):
            inner._note(
                f"rotary settings are impossible: theta {theta}, factor {factor}, fraction {part}"
            )
        return Rope(theta, part, kind, factor)

    def require(self, rules: tuple[Require, ...]) -> None:
        """Note every value that the target's graph does not support."""
        for rule in rules:
            value = self.values.get(rule.field)
            value = rule.absent if value is None else value
            # 1 == True in Python, but not in a config
            if not any(
                value == a and isinstance(value, bool) == isinstance(a, bool) for a in rule.allowed
            ):
                allowed = " or ".join(json.dumps(a) for a in rule.allowed)
                self._note(
                    f"{rule.field} is {json.dumps(value)}; llama.cpp's graph computes {allowed} only"
                )

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def raise_problems(self, more: list[str]) -> None:
        """Raise UnsupportedModel with all problems, if there are any."""
        if reasons := self.problems + more:
            raise UnsupportedModel(
                f"{self.where}: cannot be converted faithfully:", reasons=reasons,
                hint="nothing was written",
            )  # fmt: skip
