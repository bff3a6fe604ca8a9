"""Mutations of weight files: safetensors, PyTorch's zip with a pickle, and old ggml .bin."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any, Final

from attack.mutate import INTEGERS, TEXTS, bytes_mutated, json_bytes, json_mutated
from tests.support.torch_files import PROTO, STOP, holding, integer, name, storage, tensor, text

_DTYPES: Final = ("F16", "F32", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "F4", "", "X" * 1000)


def safetensors_mutated(rng: Random, raw: bytes) -> bytes:
    """Return a file whose header, its length or its data is changed."""
    if rng.random() < 0.2:
        return bytes_mutated(rng, raw)
    length = struct.unpack("<Q", raw[:8])[0]
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    way, key = rng.randrange(8), rng.choice([k for k in header if k != "__metadata__"])
    if way == 0:
        header[key]["data_offsets"] = [rng.choice(INTEGERS), rng.choice((*INTEGERS, len(data)))]
    elif way == 1:
        header[key]["shape"] = rng.choice(
            ([], [0], [2**63, 2**63], [-1, 4], [1] * 70, ["4"], [1.5], [10**30])
        )
    elif way == 2:
        header[key]["dtype"] = rng.choice((*_DTYPES, 7, None))
    elif way == 3:
        header[rng.choice(TEXTS)] = header.pop(key)
    elif way == 4:
        header[key] = header[rng.choice([k for k in header if k != "__metadata__"])]
    elif way == 5:
        data = (
            data[: rng.randrange(len(data))]
            if rng.random() < 0.5
            else data + bytes(rng.randrange(1, 5000))
        )
    else:
        header = json_mutated(rng, header)
    encoded = json_bytes(rng, header)
    said = len(encoded) if rng.random() < 0.85 else rng.choice((*INTEGERS, len(raw) - 64, len(raw)))
    return (said % 2**64).to_bytes(8, "little") + encoded + data


def torch_mutated(rng: Random, raw: bytes) -> bytes:
    """Return a PyTorch file with a changed or a handmade pickle, or changed entries of its zip."""
    if rng.random() < 0.15:
        return bytes_mutated(rng, raw)
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        entries = [(i.filename, archive.read(i)) for i in archive.infolist()]
    at = next(i for i, (entry, _) in enumerate(entries) if entry.endswith("data.pkl"))
    way, packing = rng.randrange(9), zipfile.ZIP_STORED
    other = rng.randrange(len(entries))
    if way < 3:
        entries[at] = entries[at][0], _pickle_mutated(rng, entries[at][1])
    elif way < 5:
        entries[at] = entries[at][0], handmade_pickle(rng)
    elif way == 5:
        del entries[other]
    elif way == 6:
        entry = rng.choice((entries[at][0], "../../evil", "/abs", "a\0b", "é" * 200, ""))
        entries[other] = entry, entries[other][1]
    elif way == 7:
        entries[other] = (
            entries[other][0],
            entries[other][1][: rng.randrange(1 + len(entries[other][1]))],
        )
    else:
        packing = zipfile.ZIP_DEFLATED
        entries[other] = entries[other][0], bytes(50 << 20)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packing) as archive:
        for entry, content in entries:
            archive.writestr(zipfile.ZipInfo(entry or "x"), content, packing)
    done = out.getvalue()
    return bytes_mutated(rng, done) if rng.random() < 0.1 else done


def _pickle_mutated(rng: Random, pickled: bytes) -> bytes:
    """Change a pickle between two of its opcodes, so that the rest of it still reads."""
    places = [(op.name, place) for op, _, place in pickletools.genops(pickled) if place is not None]
    (_, start), (_, end) = sorted(rng.sample(places, 2), key=lambda p: p[1])
    way = rng.randrange(6)
    if way == 0:
        return pickled[:start] + pickled[end:]
    if way == 1:
        return pickled[:end] + pickled[start:end] + pickled[end:]
    if way == 2:
        return pickled[:start] + _gadget(rng) + pickled[start:]
    if way == 3:
        return pickled[:start] + bytes([rng.randrange(256)]) + pickled[start + 1 :]
    if way == 4:
        names = re.findall(rb"c(torch[\w.]*\n\w+)\n", pickled)
        wanted = rng.choice((b"os\nsystem", b"builtins\neval", b"torch\nload", b"torch.nn\nModule"))
        return pickled.replace(b"c" + rng.choice(names), b"c" + wanted) if names else pickled
    return bytes_mutated(rng, pickled)


def _gadget(rng: Random) -> bytes:
    """Return opcodes that push something which weights never need."""
    return rng.choice((
        name("os.system") + b"(" + text("exit 99") + b"tR", name("posix.abort") + b")R", integer(2**2000), b"(" * 5000,
        name("builtins.exec") + b"(" + text("raise SystemExit(99)") + b"tR", b"]" + b"\x94a" * 3, b"r\xff\xff\xff\x7f",
        b"\x8b\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 8, b"X\xff\xff\xff\xff", b"}" + b"2" * 500, b"b", b"0" * 9,
        name("torch._utils._rebuild_parameter") + b")R", name("numpy.core.multiarray._reconstruct") + b")R",
        b"\x95" + b"\xff" * 8, b"I" + b"9" * 5000 + b"\n",
    ))  # fmt: skip


def handmade_pickle(rng: Random) -> bytes:
    """Return a pickle of one tensor with hostile numbers, or one that grows when it is read."""
    number: Callable[[], int] = lambda: rng.choice(INTEGERS)  # noqa: E731
    shapes: tuple[tuple[int, ...], ...] = (
        (4,),
        (number(),),
        (number(), number()),
        (1,) * 60,
        (2**31, 2**31, 4),
        (),
    )
    way = rng.randrange(6)
    if way < 3:
        kind = rng.choice(
            ("torch.FloatStorage", "torch.HalfStorage", "torch.QInt8Storage", "os.system", "x.Y")
        )
        of = storage(
            rng.choice(("0", "1", "../0", "", "0" * 5000)), rng.choice((4, number())), kind
        )
        shape = rng.choice(shapes)
        stride = rng.choice((tuple(1 for _ in shape), tuple(number() for _ in shape), (0,)))
        return holding(tensor(rng.choice((0, number())), shape, stride, of))
    if way == 3:
        return PROTO + _gadget(rng) + STOP
    if way == 4:  # every level holds the one below twice
        return PROTO + b"]q\0" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(90)) + STOP
    return pickle.dumps({"x": [[[]] * 1000] * 1000, "y": rng.choice(TEXTS)}, rng.randrange(6))


def old_ggml_mutated(rng: Random, raw: bytes) -> bytes:
    """Return an old file with a changed hyperparameter, token length or tensor header."""
    way = rng.randrange(10)
    if way < 2:
        return bytes_mutated(rng, raw)
    if way < 6:
        at = 4 * rng.randrange(0, 9)  # magic, hyperparameters, number of tokens
    elif way < 8:
        at = rng.randrange(36, 5000)
    else:
        found: Any = rng.choice(
            list(re.finditer(rb"(transformer|model|lm_head|gpt_neox)[\w./]+", raw))
        )
        at = found.start() - 4 * rng.randrange(1, 6)
    value = rng.choice((*INTEGERS, 1007, 2002, 2007, 3002, 4096, 50400)) & 2**32 - 1
    return raw[:at] + value.to_bytes(4, "little") + raw[at + 4 :]


PREFIX_HEAD: Final = struct.Struct("<8s16sQQ32s")


def prefix_mutated(rng: Random, raw: bytes) -> bytes:
    """Return a damaged file of the prefix cache; its digest is not corrected, because only the user can write there."""
    if rng.random() < 0.5:
        return bytes_mutated(rng, raw)
    fields = list(PREFIX_HEAD.unpack(raw[: PREFIX_HEAD.size]))
    at = rng.randrange(5)
    if at in (2, 3):
        fields[at] = rng.choice(INTEGERS) % 2**64
    else:
        fields[at] = rng.randbytes(len(fields[at]))
    rest = raw[PREFIX_HEAD.size :]
    return PREFIX_HEAD.pack(*fields) + (
        rest if rng.random() < 0.7 else rest[: rng.randrange(len(rest))]
    )
