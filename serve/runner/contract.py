"""Interface of a runner, which computes here (`EngineRunner`) or elsewhere (`UpstreamRunner`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from serve.metrics import EngineMetrics
from turbopilot.base.errors import TurboPilotError

if TYPE_CHECKING:
    from serve.runner.generation import Generation


class ComputeWatch(Protocol):
    """Whether requests are answered at present."""

    @property
    def stalled(self) -> str:
        """Reason why requests get no answer; "" if they get one."""

    @property
    def seconds(self) -> float | None:
        """Seconds that the current computation has taken; None if there is none."""


class Runner(Protocol):
    """Runs generations. Every accepted request ends with one `Finished`. Callable from any thread."""

    @property
    def is_remote(self) -> bool:
        """Whether another process computes. It then makes its own constraints and drafts."""

    @property
    def metrics(self) -> EngineMetrics:
        """Counters and gauges."""

    @property
    def watch(self) -> ComputeWatch:
        """Whether requests are answered."""

    @property
    def n_open(self) -> int:
        """Number of queued and running requests."""

    @property
    def n_refused(self) -> int:
        """Number of generations refused because the queue was full."""

    @property
    def n_restarts(self) -> int:
        """Number of restarts after a failure."""

    @property
    def failure(self) -> TurboPilotError | None:
        """The error that ended the runner, if any."""

    why_stopped: str
    """Why new requests are refused and open ones cancelled, once they are."""

    @property
    def is_cut(self) -> bool:
        """Whether the open requests were cancelled because the runner ends."""

    @property
    def is_draining(self) -> bool:
        """Whether new generations are refused because the server is shutting down."""

    def submit(self, generation: Generation) -> None:
        """Queue a generation; raise Overloaded or another TurboPilotError if it is not accepted."""

    def cancel(self, generation: Generation) -> None:
        """Cancel the requests of a generation that have not ended."""

    def drain(self) -> None:
        """Refuse new generations from now on."""

    def wait_until_idle(self, timeout: float | None = None) -> bool:
        """Wait until no request is queued or running; return False after `timeout` seconds."""

    def request_stop(self) -> None:
        """Refuse new generations and cancel the open ones, without waiting for their end."""

    def close(self) -> None:
        """Stop, and wait until all requests have ended."""
