"""The image under test, and containers of it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.deploy.files import ROOT

MINUTES = 60
NAME = "turbopilot-test"


def run(*command: str, timeout: float = 5 * MINUTES) -> str:
    """Run a command and return its output; fail with all of it."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def options(variable: str) -> list[str]:
    return shlex.split(os.environ.get(variable, ""))


def works(engine: list[str]) -> bool:
    try:
        done = subprocess.run([*engine, "info"], capture_output=True, timeout=MINUTES)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def find_engine() -> list[str]:
    """Return the command of Docker or Podman; skip the test if neither works."""
    if engine := options("TURBOPILOT_ENGINE"):
        return engine
    for engine in (["docker"], ["podman"]):
        if works(engine):
            return engine
    return pytest.skip("neither Docker nor Podman works here")


@dataclass(frozen=True)
class Image:
    """An image, and the engine that runs it."""

    engine: list[str]
    name: str

    def output(self, *command: str, entrypoint: str = "") -> str:
        """Return the output of a command in a new container."""
        return run(
            *self.engine, "run", "--rm", *options("TURBOPILOT_RUN_OPTIONS"), "--entrypoint", entrypoint or command[0],
            self.name, *command[0 if entrypoint else 1:],
        )  # fmt: skip

    @contextmanager
    def container(self, *given: str, command: tuple[str, ...] = ()) -> Iterator[Container]:
        """Run a server, or another verb, with a read-only root; remove it afterwards."""
        name = run(
            *self.engine, "run", "--detach", "--read-only", "-p", "127.0.0.1::18080", *given,
            *options("TURBOPILOT_RUN_OPTIONS"), self.name, *command,
        )  # fmt: skip
        try:
            yield Container(self.engine, name)
        finally:
            run(*self.engine, "rm", "--force", "--volumes", name)


@dataclass(frozen=True)
class Container:
    """A running container."""

    engine: list[str]
    name: str

    @property
    def url(self) -> str:
        """Address of the server, on this machine."""
        return "http://" + run(*self.engine, "port", self.name, "18080").splitlines()[0]

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container."""
        return subprocess.run(
            [*self.engine, "exec", self.name, *command], capture_output=True, text=True
        )

    def log(self) -> str:
        done = subprocess.run([*self.engine, "logs", self.name], capture_output=True, text=True)
        return done.stdout + done.stderr

    def wait(self) -> None:
        """Return once the server, or the worker, is ready."""
        command = [*self.engine, "logs", "--follow", self.name]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as log:
            assert log.stdout is not None
            ready = any(line.startswith("ready") for line in log.stdout)
            log.terminate()
        assert ready, self.log()

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Return the answer to a request."""
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(self.url + path, data, timeout=2 * MINUTES) as answer:
            return json.load(answer)

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        run(*self.engine, "stop", "--time", "60", self.name)
        return int(run(*self.engine, "inspect", "--format", "{{.State.ExitCode}}", self.name))


def build_image() -> Image:
    """Return the image to test, built unless TURBOPILOT_IMAGE names one."""
    engine = find_engine()
    if name := os.environ.get("TURBOPILOT_IMAGE"):
        return Image(engine, name)
    # Podman's own format has no health check.
    form = ["--format", "docker"] if "podman" in engine[0] else []
    given = options("TURBOPILOT_BUILD_OPTIONS")
    run(*engine, "build", *form, "-t", NAME, *given, ".", timeout=120 * MINUTES)
    return Image(engine, NAME)
