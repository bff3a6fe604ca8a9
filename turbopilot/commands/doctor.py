"""The `turbopilot doctor` command."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from serve.settings import DEFAULT_PORT
from turbopilot.commands.verb import AsJson, takes
from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.app.doctor import CheckResult, Places
    from turbopilot.base.backends import Reinstallation


# fmt: off
@dataclass(frozen=True, slots=True)
class DoctorArguments:
    """Arguments of `turbopilot doctor`."""

    url: Annotated[str, typer.Option(
        "--url", help="URL of a running server to check. Default: the server on this machine's port, if there is one.",
    )] = ""
    port: Annotated[int, typer.Option(
        "-p", "--port", min=1, max=65535, help="Port that serve is to use on this machine.",
    )] = DEFAULT_PORT
    offline: Annotated[bool, typer.Option("--offline", help="Send no request to the Hugging Face Hub.")] = False
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Measure the speed, for about two seconds.")] = True
    fix: Annotated[bool, typer.Option(
        "--fix", help="If a fault needs it, print the command that compiles llama.cpp again for this machine, and "
        "run it if you agree.",
    )] = False
    yes: Annotated[bool, typer.Option("--yes", help="With --fix: run the command without asking.")] = False
    as_json: AsJson = False
# fmt: on


@takes(DoctorArguments)
def doctor(given: DoctorArguments) -> None:
    """Check the machine and the installation; name each remedy.

    The checks: the processor's features against those that llama.cpp was compiled for, cores, memory, disk, GPUs and
    their drivers, llama.cpp's build, speed, port, a running server, and the way to the Hugging Face Hub. Speed is
    compared with what numpy reaches on the same processor.

    The exit code is 0 only if every check is ok or skipped; it is 1 after a warning or a problem.

    Example: turbopilot doctor

    Example: turbopilot doctor --offline --json

    Example: turbopilot doctor --url http://127.0.0.1:18080

    Example: turbopilot doctor --fix
    """
    from turbopilot.app.doctor import Places, is_well
    from turbopilot.editors import address_at

    url = address_at(given.url).url if given.url else ""
    places = Places(given.port, url, offline=given.offline, speed=given.speed)
    findings, fix = _examined(places)
    if given.fix and _reinstalled(fix, given):
        findings, fix = _examined(places)
    from turbopilot.render import doctor as doctor_text

    if given.as_json:
        console.emit_json(doctor_text.as_json(findings, fix))
    else:
        doctor_text.show(findings)
    if not is_well(findings):
        raise typer.Exit(1)


def is_terminal() -> bool:
    """Return whether stdin is a terminal, so that the user can be asked."""
    return sys.stdin.isatty()


def _examined(places: Places) -> tuple[tuple[CheckResult, ...], Reinstallation | None]:
    from turbopilot.app.doctor import judge, look, probes, reinstallation

    with console.progress("doctor") as progress:
        machine = look(probes(places), progress)
    findings = judge(machine)
    return findings, reinstallation(machine, findings)


def _reinstalled(fix: Reinstallation | None, given: DoctorArguments) -> bool:
    """Print the command, and run it if the user agrees; return whether it was run."""
    from turbopilot.app.doctor.reinstall import reinstall

    if fix is None:
        console.info("llama.cpp need not be compiled again")
        return False
    console.info(f"to compile llama.cpp for {fix.backend.name} (3 to 10 minutes):\n{fix.shell}")
    if not given.yes:
        if not is_terminal():
            console.info("to run this command here, give --yes")
            return False
        if not typer.confirm("Run it now?", err=True):
            return False
    reinstall(fix)
    return True
