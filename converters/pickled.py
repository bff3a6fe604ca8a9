"""Safe reader for the pickle in a PyTorch file: it uses Python's unpickler, but executes nothing from the file.

Every allowed name becomes a `Global`, which only records it. Opcodes that torch.save never writes are rejected
first, since some of them crash Python's C code, or exhaust its memory, before any name is looked up. Values are
never hashed, compared or printed as a whole: a few bytes can describe a value that takes years to traverse.

Source: https://docs.python.org/3/library/pickle.html#restricting-globals; torch/_weights_only_unpickler.py
and torch/_utils.py (which opcodes and names weights need).
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from turbopilot.base.quoting import MOST_QUOTED


class BadPickle(Exception):
    """The pickle is damaged, or uses names or opcodes that weight files never need."""


class _Unfillable:
    """Base class of values that reject BUILD, the opcode that sets attributes."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> NoReturn:
        raise BadPickle(f"its pickle sets attributes of a {type(self).__name__}")


@dataclass(slots=True, eq=False)  # not frozen: in Python 3.10 that replaces __setstate__
class Storage(_Unfillable):
    """Reference to a storage, which is a zip entry; `dtype` is torch's name, `count` the number of elements."""

    dtype: str
    key: str
    count: int


@dataclass(slots=True, eq=False)
class Pickled(_Unfillable):
    """Description of a tensor; `offset` and `stride` are in elements. `flags` means a lazy operation, e.g. negation."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    flags: bool


@dataclass(slots=True, eq=False)
class Global(_Unfillable):
    """Name of a class or function. A call returns one of this module's values, or the name itself."""

    name: str

    def __call__(self, *arguments: Any) -> Any:
        """Return the tensor, dict, argument or name that the call stands for in a weight file."""
        name = self.name
        if name == _FROM_TYPE:
            function, _, arguments, *_ = arguments
            name = function.name if type(function) is Global else ""
            if type(arguments) is not tuple or name == _FROM_TYPE:
                raise BadPickle("its pickle wraps a tensor incorrectly")
        if name.startswith(_REBUILD):
            return _tensor(name, arguments)
        if name in _WRAPPERS:
            return arguments[0]
        if name == "builtins.dict" and not arguments:
            return _Dict()
        if name == "collections.OrderedDict" and not arguments:
            return _OrderedDict()
        if name == "torch.Size" and type(arguments[0]) is tuple:
            return arguments[0]
        if name in _INERT:
            return Global(name)
        raise BadPickle(f"its pickle calls {name or 'a value'}, which weight files never need")


class _Dict(dict[Any, Any], _Unfillable):
    """A dict that rejects keys that are slow to hash or chosen to collide."""

    __slots__ = ()

    def __setitem__(self, key: Any, value: Any) -> None:
        if not (type(key) is str or (type(key) is int and abs(key) < 1 << 32)):
            raise BadPickle(f"its pickle has a dict key of type {type(key).__name__}")
        super().__setitem__(key, value)


class _OrderedDict(_Dict):
    __slots__ = ()

    def __setstate__(self, state: Any) -> None:  # type: ignore[override]
        """Ignore the attributes, such as a state dict's `_metadata`."""


_STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64",
    "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
    "ComplexDouble": "complex128", "ComplexFloat": "complex64", "QInt8": "qint8", "QUInt8": "quint8",
    "QInt32": "qint32", "QUInt4x2": "quint4x2", "QUInt2x4": "quint2x4",
}  # fmt: skip
_STORAGE_OF = {f"torch.{name}Storage": dtype for name, dtype in _STORAGES.items()} | {
    "torch.UntypedStorage": "uint8",
    "torch.storage.UntypedStorage": "uint8",
}
# functions that return their first argument
_WRAPPERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_REBUILD = "torch._utils._rebuild_tensor"
_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"  # a tensor with attributes, or of a subclass
# Other names in weight files; a call returns the name, which the reader does not accept as a tensor.
_INERT = {
    "collections.Counter", "builtins.set", "builtins.complex", "builtins.bytearray", "_codecs.encode",
    "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter", "torch.serialization._get_layout",
    "torch._utils._rebuild_qtensor", "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_meta_tensor_no_storage", "torch._utils._rebuild_nested_tensor",
}  # fmt: skip
_TYPE = r"torch\.(bool|(b?float|q?u?int|complex)\d+(x\d|_\w+)?|per_(tensor|channel)_\w+)"
_KNOWN = {
    *_STORAGE_OF, *_WRAPPERS, *_INERT, _FROM_TYPE, "torch.Size", "builtins.dict", "collections.OrderedDict",
    *(_REBUILD + version for version in ("", "_v2", "_v3")),
}  # fmt: skip
MAX_NAME = MOST_QUOTED

# opcodes that torch.save writes with protocol 2, on Python 2 too
_OPCODES = {
    "PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "BINUNICODE", "SHORT_BINSTRING", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE", "EMPTY_LIST", "APPEND",
    "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "BINPUT",
    "LONG_BINPUT", "BINGET", "LONG_BINGET",
}  # fmt: skip
_DICT_CALL = b"c__builtin__\ndict\n)R"


def read(data: bytes) -> Any:
    """Return the value of a pickle: dicts, lists, tuples, numbers, strings and values of this module.

    Raises:
        BadPickle: the pickle is damaged, or uses names or opcodes that weight files never need.
    """
    try:
        return _Unpickler(io.BytesIO(_checked(data)), encoding="bytes").load()
    except BadPickle:
        raise
    except Exception as e:  # Python does not document all errors of the unpickler
        raise BadPickle(f"its pickle is inconsistent ({type(e).__name__})") from e


def _checked(data: bytes) -> bytes:
    """Check the opcodes, and return the pickle with every plain dict replaced by a `_Dict`, which checks its keys."""
    parts, start = [], 0
    try:
        for op, argument, place in pickletools.genops(data):
            at = place or 0
            if op.name not in _OPCODES:
                code = f"{ord(op.code):#04x}"
                raise BadPickle(f"its pickle has the opcode {code}, which weight files never need")
            if op.name == "PROTO" and argument not in (2, 3):
                raise BadPickle(f"its pickle uses protocol {argument}; torch.save uses 2")
            if op.name == "LONG_BINPUT" and int(argument or 0) > at:
                # the unpickler would allocate that many memo entries; pickle numbers them from 0
                raise BadPickle(f"its pickle uses memo index {argument:,}")
            if op.name == "EMPTY_DICT":
                parts += [data[start:at], _DICT_CALL]
                start = at + 1
    except UnicodeDecodeError:
        raise
    except ValueError as e:
        raise BadPickle(f"its pickle ends early, or has an unknown opcode: {e}") from e
    return b"".join([*parts, data[start:]])


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # protocol 2 uses Python 2's name for builtins
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if full not in _KNOWN and not re.fullmatch(_TYPE, full, re.ASCII):
            shown = "".join(c if c.isprintable() else "?" for c in full[:MAX_NAME])
            raise BadPickle(
                f"its pickle uses {shown}, which weight files never need; it was not executed"
            )
        return Global(full)

    def persistent_load(self, pid: Any) -> Storage:
        if type(pid) is not tuple or len(pid) != 5:
            raise BadPickle("its pickle refers to a value that is not a storage")
        what, kind, key, _, count = pid
        if type(what) is not str or what != "storage" or type(kind) is not Global:
            raise BadPickle("its pickle refers to a value that is not a storage")
        if type(key) is not str or type(count) is not int or kind.name not in _STORAGE_OF:
            raise BadPickle("its pickle describes a storage incorrectly")
        return Storage(_STORAGE_OF[kind.name], key, count)


def _tensor(name: str, arguments: tuple[Any, ...]) -> Pickled:
    storage, offset, shape, stride, *rest = arguments
    if type(storage) is not Storage or not _integers((offset,)):
        raise BadPickle("its pickle has a tensor without a valid storage")
    if not _integers(shape) or not _integers(stride) or len(shape) != len(stride):
        raise BadPickle("its pickle has a tensor without a valid shape")
    dtype = storage.dtype
    if name.endswith("_v3"):  # used for types without a storage class
        dtype = rest[2].name.removeprefix("torch.") if type(rest[2]) is Global else ""
    flags = rest[3:] if name.endswith("_v3") else rest[2:]
    return Pickled(storage, dtype, offset, shape, stride, any(flags))


def _integers(values: Any) -> bool:
    return type(values) is tuple and all(type(v) is int for v in values)
