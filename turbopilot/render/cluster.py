"""State of a cluster as text."""

from __future__ import annotations

from collections.abc import Iterator

from turbopilot.cluster.admin import ClusterState, DeploymentState


def state_lines(state: ClusterState) -> Iterator[str]:
    """Yield lines for `turbopilot cluster status`."""
    for name, part in (("engines", state.engines), ("fronts", state.fronts)):
        if part is None:
            yield f"{name:<8} not deployed"
            continue
        counts = ", ".join(f"{n} {word.lower()}" for word, n in sorted(part.replicas.items()))
        yield f"{name:<8} {part.status.lower()} ({counts or 'none'}){_revisions(part)}"
        if part.message:
            yield f"         {part.message}"
        yield from (f"         {url}" for url in part.urls)


def _revisions(part: DeploymentState) -> str:
    return ": an update is in progress" if len(part.revisions) > 1 else ""
