"""The `turbopilot cluster` commands."""

from __future__ import annotations

import secrets
import signal
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from serve.settings import DEFAULT_PORT
from turbopilot.base.counts import count
from turbopilot.base.errors import ServeError
from turbopilot.commands.serve_config import read_config
from turbopilot.commands.verb import AsJson, takes
from turbopilot.render import console

if TYPE_CHECKING:
    from turbopilot.cluster.roles import ClusterPlan

# fmt: off
_Address = Annotated[str, typer.Option(
    "--address", envvar="RAY_ADDRESS", metavar="ADDRESS",
    help="Ray cluster: auto for the one that this machine belongs to, HOST:PORT, or local for one on this machine "
    "alone, which deploy starts and ends.",
)]
_Name = Annotated[str, typer.Option("--name", help="Name of the application in Ray Serve.")]


@dataclass(frozen=True, slots=True)
class DeployArguments:
    """Arguments of `turbopilot cluster deploy`."""

    model: Annotated[str, typer.Argument(
        help="Same as in turbopilot serve. A file must be at this path on every node; a name is downloaded by each "
        "node. Default: the bundled model.", show_default=False,
    )] = ""
    replicas: Annotated[int, typer.Option(
        "--replicas", min=1, help="Number of engines; with --max-replicas, the smallest number.",
    )] = 1
    max_replicas: Annotated[int | None, typer.Option(
        "--max-replicas", min=1, help="Add engines up to this number while many requests run or wait.",
    )] = None
    busy: Annotated[float, typer.Option(
        "--busy", min=0.1, help="Running and waiting requests for each engine that --max-replicas aims at.",
    )] = 4.0
    num_gpus: Annotated[float, typer.Option("--num-gpus", min=0, help="GPUs of each engine.")] = 0.0
    num_cpus: Annotated[float, typer.Option(
        "--num-cpus", min=0, help="Processor cores of each engine, and its threads unless --config sets them.",
    )] = 1.0
    surge: Annotated[bool | None, typer.Option(
        "--surge/--no-surge", help="In an update, start a new engine before an old one is stopped. Needs free "
        "resources. Default: only for a single engine, if there are some.", show_default=False,
    )] = None
    host: Annotated[str, typer.Option(
        "--host", help="Address that the front listens on. If you allow other machines, require an API key "
        "(api-key-file in --config, or TURBOPILOT_API_KEY).",
    )] = "127.0.0.1"
    port: Annotated[int, typer.Option(
        "-p", "--port", min=0, max=65535, help="Port of the front. 0 picks a free port.",
    )] = DEFAULT_PORT
    fronts: Annotated[int, typer.Option(
        "--fronts", min=1, help="Number of nodes with a front. A single one runs on the head node.",
    )] = 1
    config: Annotated[Path | None, typer.Option(
        "--config", metavar="FILE", help="TOML file with options of turbopilot serve for engines and fronts.",
    )] = None
    address: _Address = "auto"
    name: _Name = "turbopilot"


@dataclass(frozen=True, slots=True)
class ClusterArguments:
    """Arguments of `turbopilot cluster status`."""

    address: _Address = "auto"
    name: _Name = "turbopilot"
    as_json: AsJson = False


@dataclass(frozen=True, slots=True)
class DeleteArguments:
    """Arguments of `turbopilot cluster delete`."""

    address: _Address = "auto"
    name: _Name = "turbopilot"
# fmt: on


@takes(DeployArguments)
def deploy(given: DeployArguments) -> None:
    """Serve a model from several machines, or update what is served.

    Ray Serve starts an engine on each of --replicas places, replaces lost ones, and adds some up to --max-replicas. The
    front is the server that editors connect to; it sends each file's requests to the same engine, for its cached
    prefix. A second deploy replaces the engines one after another, also by those of another model, while requests
    continue.

    Example: turbopilot cluster deploy codegen-q4_0.gguf --replicas 4 --num-gpus 1

    Example: turbopilot cluster deploy --address local --replicas 2
    """
    from turbopilot.cluster import admin
    from turbopilot.render.cluster import state_lines

    plan = _plan(given)
    is_local = given.address == admin.LOCAL
    with admin.connected(given.address, starts=is_local):
        console.info(f"starting {count(plan.size.replicas, 'engine')} of {plan.name}")
        admin.deploy(plan)
        for line in state_lines(admin.state_of(plan.name)):
            console.info(line)
        if is_local:
            console.info("ready    (press Ctrl-C to stop)")
            _wait_for_signal()
            admin.delete(plan.name)


def _plan(given: DeployArguments) -> ClusterPlan:
    from serve.http.security.hosts import is_loopback
    from serve.http.start_lines import open_to_strangers
    from turbopilot.cluster.roles import ClusterPlan, Door, Role, Size
    from turbopilot.cluster.settings import make_settings

    size = Size(
        given.replicas, given.max_replicas, given.busy, given.num_gpus, given.num_cpus, given.surge
    )
    config = read_config(given.config.resolve()) if given.config else {}
    settings = make_settings(given.model, config, size, console.info)
    if not settings.get("api_key") and not is_loopback(given.host):
        console.info(open_to_strangers(given.host))
    role = Role(settings, revision=time.time_ns(), key=secrets.token_urlsafe(32))
    return ClusterPlan(role, size, Door(given.host, given.port, given.fronts), given.name)


def _wait_for_signal() -> None:
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()


@takes(ClusterArguments)
def status(given: ClusterArguments) -> None:
    """Show the engines and fronts of a cluster.

    Example: turbopilot cluster status --json
    """
    from turbopilot.cluster import admin
    from turbopilot.render.cluster import state_lines

    with admin.connected(given.address):
        state = admin.state_of(given.name)
    if given.as_json:
        console.emit_json(asdict(state))
        return
    for line in state_lines(state):
        console.result(line)


@takes(DeleteArguments)
def delete(given: DeleteArguments) -> None:
    """End the engines and fronts of a cluster, once their requests have ended.

    Example: turbopilot cluster delete
    """
    from turbopilot.cluster import admin

    with admin.connected(given.address):
        if not admin.delete(given.name):
            raise ServeError(
                f"{given.name}: no such application on this Ray cluster",
                hint="see turbopilot cluster status, or give another --name",
            )
    console.info(f"deleted  {given.name}")


VERBS: Final = {"deploy": deploy, "status": status, "delete": delete}
