#!/usr/bin/env python3
"""Complete an SBOM that cyclonedx-py wrote. Uses the standard library only.

finish_sbom.py FILE            a list of locked packages: their descriptions, and TurboPilot depends on all of them
finish_sbom.py FILE STATUS     an image: add the Debian packages of a copy of /var/lib/dpkg/status
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

VERSION = Path(__file__).parents[2] / "turbopilot/base/version.py"


def complete(bom: dict[str, Any]) -> None:
    """Set TurboPilot's version, which pyproject.toml reads from the package, and list it as the subject alone."""
    match = re.search(r'__version__.*= "(.+)"', VERSION.read_text("utf-8"))
    assert match
    subject = bom["metadata"]["component"]
    subject["version"] = match[1]
    bom["components"] = [c for c in bom["components"] if c["name"] != subject["name"]]


def describe_locked(bom: dict[str, Any]) -> None:
    """Shorten the descriptions, which are whole entries of the lock files; the hashes have a field of their own."""
    for component in bom["components"]:
        entry = component["description"].partition(" --hash")[0]
        component["description"] = entry.partition(": ")[2].strip()
    depends_on_all(bom)


def depends_on_all(bom: dict[str, Any]) -> None:
    root = bom["metadata"]["component"]["bom-ref"]
    direct = {"ref": root, "dependsOn": sorted(c["bom-ref"] for c in bom["components"])}
    bom["dependencies"] = [direct, *(d for d in bom["dependencies"] if d["ref"] != root)]


def debian_components(status: str, distribution: str) -> Iterator[dict[str, str]]:
    """Yield a component for each installed package.

    Source: deb-control(5), and the type "deb" of the package URL specification.
    """
    for paragraph in status.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", paragraph, re.MULTILINE))
        if not fields.get("Status", "").endswith(" installed"):
            continue
        name, version = fields["Package"], fields["Version"]
        purl = f"pkg:deb/{distribution}/{name}@{quote(version)}?arch={fields['Architecture']}"
        yield {
            "bom-ref": purl, "type": "library", "name": name, "version": version, "purl": purl,
            "description": fields.get("Description", ""),
        }  # fmt: skip


def distribution_of(status: str) -> str:
    """Return "ubuntu" or "debian", by the maintainer of the base packages."""
    base = re.search(r"^Package: base-files\n(?:.+\n)*?Maintainer: (.*)$", status, re.MULTILINE)
    return "ubuntu" if base and "ubuntu" in base[1].lower() else "debian"


def main() -> None:
    path = Path(sys.argv[1])
    bom = json.loads(path.read_text("utf-8"))
    complete(bom)
    if sys.argv[2:]:
        status = Path(sys.argv[2]).read_text("utf-8")
        bom["components"] += debian_components(status, distribution_of(status))
        depends_on_all(bom)
    else:
        describe_locked(bom)
    path.write_text(json.dumps(bom, indent=2, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
