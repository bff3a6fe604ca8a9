"""Source of installed packages: wheels whose metadata state a permissive licence, without tests and vendored code."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path

LIST = Path(__file__).with_name("packages.txt")
# Written by others (vendored code), or not by hand, or unlike the code that users complete (tests, tables).
EXCLUDED = re.compile(
    r"(^|/)(_?vendor(ed)?|_vendored_packages|_?extern(al|als)?|third_?party|_?tests?|testing|testdata|benchmarks?"
    r"|fixtures|locale|node_modules|migrations|typeshed|stubs|[^/]*\.(data|dist-info))/"
    r"|(^|/)(test_[^/]*|[^/]*_tests?|conftest|_version|[^/]*_pb2(_grpc)?|_mapping|_[^/]*_builtins|py)\.py$"
    r"|(^|/)pygments/lexers/|^numpy/_core/code_generators|^nltk/(test|twitter)|^sympy/(physics/(continuum|hep)|polys/numberf)"
)
# What a licence field or classifier says → SPDX name. Text that matches FORBIDDEN excludes the package.
LICENCES = {
    "MIT": r"\bMIT\b|\bExpat\b",
    "Apache-2.0": r"\bApache\b",
    "BSD-2-Clause": r"BSD-2-Clause|2-Clause BSD|BSD 2-Clause|Simplified BSD|\bBSD\b",
    "BSD-3-Clause": r"BSD-3-Clause|3-Clause BSD|BSD 3-Clause|New BSD|\bBSD\b",
    "ISC": r"\bISC",
    "PSF-2.0": r"\bPSF|Python Software Foundation",
}
FORBIDDEN = re.compile(
    r"\b(A|L)?GPL|GNU |\bMPL\b|Mozilla|\bEPL\b|Eclipse|CC-BY|Commercial|Propriet", re.I
)


@dataclass(frozen=True, slots=True)
class Package:
    """A pinned package and the SPDX name of its licence."""

    name: str
    version: str
    licence: str


def listed(path: Path = LIST) -> list[Package]:
    """Return the packages of packages.txt: lines `name==version  # licence`."""
    found = re.findall(r"^([\w.-]+)==(\S+)\s+# (\S+)$", path.read_text("utf-8"), re.MULTILINE)
    return [Package(*fields) for fields in found]


def states_licence(metadata: Message, licence: str) -> bool:
    """Return whether a package's metadata state this licence, and none that is not permissive."""
    fields = [
        str(metadata.get("License-Expression") or ""),
        str(metadata.get("License") or "")[:200],
    ]
    fields += [str(c) for c in metadata.get_all("Classifier", []) if str(c).startswith("License")]
    stated = "\n".join(fields)
    return bool(re.search(LICENCES[licence], stated)) and not FORBIDDEN.search(stated)


def read_package(package: Package, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of a package's own source, from its wheel in `folder`.

    Raises:
        SystemExit: the wheel is missing, or its metadata do not state the listed licence.
    """
    stem = re.sub(r"[-_.]+", "_", package.name)
    wheels = [
        w for w in folder.glob("*.whl")
        if re.sub(r"[-.]", "_", w.name.lower()).startswith(f"{stem}_{package.version.replace('.', '_')}_")
    ]  # fmt: skip
    if len(wheels) != 1:
        raise SystemExit(
            f"{folder}: expected one wheel of {package.name}=={package.version}, found {len(wheels)}"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        names = wheel.namelist()
        (metadata,) = (n for n in names if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
        if not states_licence(
            Parser().parsestr(wheel.read(metadata).decode("utf-8")), package.licence
        ):
            raise SystemExit(f"{wheels[0].name}: the metadata do not state {package.licence}")
        for name in sorted(names):
            if name.endswith(".py") and not EXCLUDED.search(name):
                try:
                    yield name, wheel.read(name).decode("utf-8")
                except UnicodeDecodeError:
                    continue
