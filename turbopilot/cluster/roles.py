"""Plain values that Ray sends to the replicas on other machines: role, size and address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from turbopilot.base.errors import InvalidInput

ENGINE: Final = "engine"  # names of the two deployments of an application
FRONT: Final = "front"
DEFAULT_NAME: Final = "turbopilot"
# Seconds that the requests of an engine or a revision that leaves have to finish. The default time limit of a request
# is shorter.
DRAIN_SECONDS: Final = 130.0


@dataclass(frozen=True, slots=True)
class Role:
    """Settings that an engine serves. A front frames prompts with the settings of the engines that it sends them to.

    Attributes:
        settings: options of `turbopilot serve` by the names of its parameters, `model` among them.
        revision: number that grows with each deployment.
        key: API key that engines require and the front sends; clients never see it.
    """

    settings: Mapping[str, Any]
    revision: int
    key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Size:
    """How many replicas there are, and what each one takes.

    Attributes:
        replicas: engine replicas, or the least number of them if `max_replicas` is larger.
        max_replicas: None keeps the number fixed.
        busy: open requests for each replica that autoscaling aims at.
        num_gpus, num_cpus: what Ray reserves for each engine; num_gpus may be a fraction.
        surge: whether an update starts a new engine before it stops an old one, which takes free resources; None does
            so for a single engine, if there are some.
    """

    replicas: int = 1
    max_replicas: int | None = None
    busy: float = 4.0
    num_gpus: float = 0.0
    num_cpus: float = 1.0
    surge: bool | None = None

    def __post_init__(self) -> None:
        """Raise InvalidInput if the maximum is below the minimum."""
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise InvalidInput(
                f"--max-replicas {self.max_replicas}: fewer than --replicas {self.replicas}",
                hint="give at least as many, or leave it out for a fixed number",
            )

    def surges(self, free: Mapping[str, float]) -> bool:
        """Return whether an update starts a new engine first, with these free resources ("CPU", "GPU").

        Without resources for it, such an update would wait forever. Several engines can do without: the others answer
        meanwhile.
        """
        if self.surge is not None:
            return self.surge
        needs = {"CPU": self.num_cpus, "GPU": self.num_gpus}
        return self.replicas == 1 and all(free.get(name, 0) >= n for name, n in needs.items())

    @property
    def scales(self) -> bool:
        """Whether the number of replicas follows the queue."""
        return self.max_replicas is not None and self.max_replicas > self.replicas


@dataclass(frozen=True, slots=True)
class Door:
    """Address of the fronts.

    Attributes:
        port: 0 picks a free port on each node.
        fronts: number of nodes with a front. A single front runs on the head node, so that its address stays the same.
    """

    host: str = "127.0.0.1"
    port: int = 18080
    fronts: int = 1


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """An application on a Ray cluster: its name, what it serves, and its size."""

    role: Role
    size: Size = field(default_factory=Size)
    door: Door = field(default_factory=Door)
    name: str = DEFAULT_NAME


def front_name(name: str) -> str:
    """Return the name of the fronts' application. It is one of its own, so that updates of engines leave it running."""
    return f"{name}-front"
