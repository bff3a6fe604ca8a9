#!/usr/bin/env python3
"""Print the packages of this interpreter's environment that TurboPilot does not need to run, pip last."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed_by(name: str, extras: frozenset[str], found: set[tuple[str, frozenset[str]]]) -> None:
    """Add a package with its extras, and all that they require, to `found`."""
    package = (canonicalize_name(name), extras)
    if package in found:
        return
    try:
        lines = requires(name) or []
    except PackageNotFoundError:  # such as a requirement of another platform
        return
    found.add(package)
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": e}) for e in extras or {""}):
            needed_by(requirement.name, frozenset(requirement.extras), found)


def unneeded_packages(root: str) -> list[str]:
    """Return the installed packages that `root` does not require, pip last."""
    found: set[tuple[str, frozenset[str]]] = set()
    needed_by(root, frozenset(), found)
    needed = {name for name, _ in found}
    names = {canonicalize_name(d.metadata["Name"]) for d in distributions()}
    return sorted(names - needed, key=lambda name: (name == "pip", name))


if __name__ == "__main__":
    print("\n".join(unneeded_packages("turbopilot")))
