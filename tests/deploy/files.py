"""Files for deployment, as values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import yaml

from turbopilot.cli import app
from turbopilot.commands.serve_flags import all_options

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose"
KUBERNETES = DEPLOY / "kubernetes"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))

# The variables of the original's image. Source: run.sh and Dockerfile.default of ravenscroftj/turbopilot.
ORIGINAL_VARIABLES = ("THREADS", "MODEL", "MODEL_TYPE", "GPU_LAYERS", "BATCHSIZE")
OPTION_VARIABLES = {name for _, option in all_options() for name in option.variables}
# Read by other code than the options: of the cache's folder, and of the Hub's client.
OTHER_VARIABLES = {"TURBOPILOT_CACHE", "HF_HOME"}


def documents(path: Path) -> list[Any]:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text("utf-8")))


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Return (instruction, arguments) of a Dockerfile, without comments and line breaks."""
    lines = [x for x in dockerfile.read_text("utf-8").splitlines() if not x.startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    parts = (line.partition(" ") for line in text.splitlines() if line)
    return [(name, arguments) for name, _, arguments in parts]


def image_environment(dockerfile: Path) -> dict[str, str]:
    """Return the variables that an image sets."""
    found = [arguments for name, arguments in instructions(dockerfile) if name == "ENV"]
    return dict(word.split("=", 1) for arguments in found for word in arguments.split())


def manifests(kind: str) -> Iterator[Any]:
    """Yield the manifests of a kind in deploy/kubernetes, before Kustomize changes them."""
    for path in sorted(KUBERNETES.glob("*.yaml")):
        yield from (m for m in documents(path) if m["kind"] == kind)


def unit_settings(unit: Path) -> list[tuple[str, str]]:
    """Return (name, value) of a systemd unit's settings."""
    lines = unit.read_text("utf-8").splitlines()
    pairs = [line.partition("=") for line in lines if not line.startswith(("#", "["))]
    return [(name, value) for name, sign, value in pairs if sign]


def flags_of(verb: str) -> set[str]:
    """Return the flags of a verb of the command line."""
    command = typer.main.get_command(app)
    found: set[str] = set()
    for parameter in command.commands[verb].params:  # type: ignore[attr-defined]
        found |= {*parameter.opts, *parameter.secondary_opts}
    return found
