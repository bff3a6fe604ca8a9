#!/usr/bin/env python3
"""Send a server hostile requests, and check that it keeps its promises. Run by scripts/attack_server.

    scripts/attack_server                         # 4,500 requests, ten minutes at most
    scripts/attack_server --quick                 # 150 requests, in seconds
    scripts/attack_server --case 17               # one request again, as a violation names it

The server runs a tiny model on a free loopback port. Violations, which are exit code 1 here: the server dies or does
not end after SIGTERM; a well-formed request has no answer in 60 s; a status of 500 and above but 501, 503, and 504 if
the request sets a deadline; an answer that is not HTTP; a traceback in its log; more than 512 MiB beyond its start;
/health without an answer in 10 s; requests that still run 30 s after the last client has left.
Needs Linux: it reads /proc and sets limits of processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from contextlib import suppress
from pathlib import Path

from attack.processes import ForkServer
from attack.requests import Attempt, RequestMaker
from attack.samples import make_samples
from attack.served import Served, sent
from attack.tally import Tally, parser_for, workplace
from bench.client import fetch
from bench.soak import left_over

REQUESTS, QUICK = 4500, 150
MEMORY = 512 << 20  # bytes above those of the start
FREED = 30.0  # seconds after the last client in which all requests must end
GRACE = 40.0  # seconds after SIGTERM; the server has --grace 10
MOST_RESTARTS = 20
FAULTS = (
    "died",
    "hang",
    "status 5xx",
    "protocol",
    "traceback",
    "memory",
    "health",
    "left over",
    "exit code",
)
COLUMNS = {
    "requests": "requests",
    "2xx": "2xx",
    "4xx": "4xx",
    "503": "503",
    "none": "none",
    **{f: f for f in FAULTS},
}


class Attack:
    """State of a run: the server of the moment, and the requests that are under way."""

    def __init__(self, args: argparse.Namespace, model: Path, home: Path, tally: Tally) -> None:
        self._args, self._model, self._home, self.tally = args, model, home, tally
        self._under_way: dict[int, Attempt] = {}
        self._servers: list[Served] = []
        self._renewing = asyncio.Lock()
        self.server = self._started()

    def _started(self) -> Served:
        self._servers.append(Served(self._model, self._home, len(self._servers)))
        return self._servers[-1]

    def close(self) -> None:
        """End all servers."""
        for server in self._servers:
            server.stop(0.0)

    async def renew(self, broken: Served, fault: str, said: str) -> None:
        """Record that a server is broken with all requests that are under way, and start another."""
        async with self._renewing:
            if broken is not self.server:
                return  # another request has noticed it
            files = {f"{i}.http": a.raw for i, a in self._under_way.items()}
            cases = " ".join(map(str, self._under_way))
            log = broken.text()[-20_000:]
            said = f"the server {fault}\n{log}\n{said}\nunder way: {cases}\nserver {fault}"
            oldest = str(min(self._under_way, default=""))
            self.tally.violation("server", fault, oldest, said, dict(files))
            broken.stop(0.0)
            self.read_log(broken)
            if len(self._servers) > MOST_RESTARTS:
                raise RuntimeError(f"{MOST_RESTARTS} servers are broken")
            self.server = self._started()
            await self.server.until_ready()

    async def send(self, maker: RequestMaker, index: int) -> None:
        """Send the request of an index, and check its response."""
        attempt = maker.make(index)
        self._under_way[index] = attempt
        server = self.server
        self.tally.count(attempt.kind, "requests")
        try:
            status, body = await sent(server.port, attempt, self._args.patience)
            self._judge(index, attempt, status, body)
        except asyncio.TimeoutError:
            await self.renew(
                server, "hang", f"no answer to request {index} in {self._args.patience:.0f} s"
            )
        except ValueError as e:
            self._violation(index, attempt, "protocol", repr(e))
        except OSError as e:
            await asyncio.sleep(0.2)
            if server.code is not None:
                await self.renew(server, "died", f"{e!r}, exit code {server.code}")
        finally:
            self._under_way.pop(index, None)
            self.tally.step()

    def _judge(self, index: int, attempt: Attempt, status: int, body: bytes) -> None:
        column = {0: "none", 503: "503"}.get(status, f"{status // 100}xx")
        self.tally.count(attempt.kind, column)
        answered = status in (501, 503) or (status == 504 and attempt.has_deadline)
        faulty = status >= 500 and not answered
        if faulty or (status == 200 and b'"server_error"' in body and b"data: " in body):
            self._violation(
                index, attempt, "status 5xx", f"{status}\n{body[:3000].decode(errors='replace')}"
            )

    def _violation(self, index: int, attempt: Attempt, fault: str, said: str) -> None:
        said = f"{fault} of a {attempt.kind} request\n{said}"
        self.tally.violation(attempt.kind, fault, str(index), said, {"request.http": attempt.raw})

    def read_log(self, server: Served) -> None:
        """Record the tracebacks in a server's log, one by one."""
        before, *pieces = server.text().split("Traceback (most recent call last)")
        for piece in pieces:
            lines = piece.splitlines()
            end = next((i for i, s in enumerate(lines[1:], 1) if s and not s.startswith(" ")), 0)
            trace = "Traceback (most recent call last)" + "\n".join(lines[: end + 1])
            said = f"traceback in the log\n{before[-300:]}\n{trace}"
            self.tally.violation(
                "server", "traceback", f"log-{len(self._servers)}", said, {"log.txt": server.log}
            )
            before = piece

    async def watch(self) -> None:
        """Ask for /health, and look at the memory, four times a second."""
        while True:
            server = self.server
            try:
                await asyncio.wait_for(fetch(server.port, "/health"), self._args.health)
            except asyncio.TimeoutError:
                self.tally.violation(
                    "server", "health", f"server-{len(self._servers)}", "server: no /health", {}
                )
            except (OSError, ValueError):
                pass  # it is being renewed, or `send` notices
            if server.base_memory and server.memory() - server.base_memory > MEMORY:
                await self.renew(server, "memory", f"{server.memory() / 1e6:.0f} MB resident")
            await asyncio.sleep(0.25)

    async def end(self) -> None:
        """Check that nothing is left, and stop the server."""
        with suppress(OSError, ValueError):
            if left := await left_over(self.server.port, FREED):
                self.tally.violation(
                    "server", "left over", "end", f"server: {left}", {"log.txt": self.server.log}
                )
        code = self.server.stop(GRACE)
        if code != 0:
            said = "not ended by SIGTERM" if code is None else f"exit code {code}"
            self.tally.violation(
                "server", "exit code", "end", f"server: {said}", {"log.txt": self.server.log}
            )
        self.read_log(self.server)


async def run(args: argparse.Namespace, model: Path, home: Path) -> int:
    """Attack with the options; return the exit code."""
    wanted = (
        [int(args.case)] if args.case else range(args.cases or (QUICK if args.quick else REQUESTS))
    )
    tally = Tally(args.kept, 60 * args.minutes, len(wanted))
    attack = Attack(args, model, home, tally)
    tally.count("server", "requests", 0)
    try:
        await attack.server.until_ready()
        _, document, _ = await fetch(attack.server.port, "/openapi.json")
        maker = RequestMaker(json.loads(document), args.seed)
        print(f"seed {args.seed}, {len(wanted):,} requests, {args.connections} at once", flush=True)
        todo = iter(wanted)

        async def client() -> None:
            for index in todo:
                if tally.is_over:
                    return
                await attack.send(maker, index)

        watching = asyncio.create_task(attack.watch())
        clients = [asyncio.create_task(client()) for _ in range(args.connections)]
        try:
            await asyncio.gather(*clients)
        finally:
            for task in (watching, *clients):
                task.cancel()
            await asyncio.gather(watching, *clients, return_exceptions=True)
        await attack.end()
    finally:
        attack.close()
    return tally.finish("requests", COLUMNS)


def main() -> None:
    parser = parser_for(__doc__, "turbopilot-attack-server")
    parser.add_argument(
        "--connections", type=int, default=24, help="requests at once (default: 24)"
    )
    parser.add_argument(
        "--patience", type=float, default=60.0, help="seconds for an answer (default: 60)"
    )
    parser.add_argument(
        "--health", type=float, default=10.0, help="seconds for /health (default: 10)"
    )
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end what was started
    with workplace("turbopilot-attack-") as home:
        (home / "samples").mkdir()
        maker = ForkServer(home)
        try:
            samples = make_samples(home / "samples", maker, prefix=False)
        finally:
            maker.close()
        sys.exit(asyncio.run(run(args, samples.gguf, home)))


if __name__ == "__main__":
    main()
