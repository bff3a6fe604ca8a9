"""Read the pickle in a PyTorch file as data. Executes nothing and imports nothing that it names.

A pickle is a program for a stack machine. This is that machine without its hands: a name stays a name
(`Global`), a call yields a value of ours for the few functions that torch.save needs, and everything else
is refused. What is made is never hashed, compared or printed as a whole, since a few bytes can describe a
value that would take years to walk through.

Source: https://docs.python.org/3/library/pickletools.html (the opcodes); torch/_weights_only_unpickler.py
and torch/_utils.py (which of them, and which names, weights need).
"""

from __future__ import annotations

import pickle
import re
import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any


class BadPickle(ValueError):
    """The pickle is damaged, or wants what weights do not need; says what."""


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """A class or function, by its name only."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A run of numbers in an entry of its own: `dtype` as torch names it, `count` in numbers."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class Pickled:
    """A tensor: `offset` and `stride` in numbers of `dtype`; `flags` are negation and the like."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    flags: bool


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
# Tensor functions that only pass on what they are given: the place of the tensor among the arguments.
_WRAPPERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
_REBUILD = "torch._utils._rebuild_tensor"
_FROM_TYPE = "torch._tensor._rebuild_from_type_v2"  # a tensor with attributes, or of a subclass
# What else may stand in a file beside weights. A call yields the name: no weight can be made of it.
_INERT = {
    "collections.Counter", "builtins.set", "builtins.complex", "builtins.bytearray", "_codecs.encode",
    "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter", "torch.serialization._get_layout",
    "torch._utils._rebuild_qtensor", "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_meta_tensor_no_storage", "torch._utils._rebuild_nested_tensor",
}  # fmt: skip
_TYPE = r"torch\.(bool|(b?float|q?u?int|complex)\d+(x\d|_\w+)?|per_(tensor|channel)_\w+)"
_KNOWN = {
    *_STORAGE_OF,
    *_WRAPPERS,
    *_INERT,
    _FROM_TYPE,
    "torch.Size",
    "collections.OrderedDict",
} | {_REBUILD + version for version in ("", "_v2", "_v3")}

_CONSTANTS = {pickle.NONE: None, pickle.NEWTRUE: True, pickle.NEWFALSE: False}
_EMPTY = {pickle.EMPTY_TUPLE: tuple, pickle.EMPTY_LIST: list, pickle.EMPTY_DICT: dict}
_NUMBERS = {pickle.BININT: "<i", pickle.BININT1: "<B", pickle.BININT2: "<H", pickle.BINFLOAT: ">d"}
_TUPLES = {pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}


def read(data: bytes) -> Any:
    """What the pickle describes, of dicts, lists, tuples, numbers, texts and the classes above.

    Raises:
        BadPickle: it ends early, is inconsistent, or asks for what weights do not need.
    """
    try:
        return _Machine(data).run()
    except (IndexError, KeyError, TypeError, UnicodeDecodeError, struct.error) as e:
        raise BadPickle("its pickle is inconsistent") from e


class _Machine:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under each mark
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        while (op := self._take(1)) != pickle.STOP:
            if op in _NUMBERS:
                self._stack.append(self._number(_NUMBERS[op]))
            elif op in _CONSTANTS:
                self._stack.append(_CONSTANTS[op])
            elif op in _EMPTY:
                self._stack.append(_EMPTY[op]())
            elif op in _TUPLES:
                items = [self._stack.pop() for _ in range(_TUPLES[op])]
                self._stack.append(tuple(reversed(items)))
            else:
                self._other(op)
        return self._stack.pop()

    def _other(self, op: bytes) -> None:
        match op:
            case pickle.BINPUT | pickle.LONG_BINPUT:
                self._memo[self._number("<B" if op == pickle.BINPUT else "<I")] = self._stack[-1]
            case pickle.BINGET | pickle.LONG_BINGET:
                index = self._number("<B" if op == pickle.BINGET else "<I")
                self._stack.append(self._memo[index])
            case pickle.BINUNICODE:
                text = self._take(self._number("<I"))
                self._stack.append(text.decode("utf-8", "surrogatepass"))
            case pickle.SHORT_BINSTRING:
                self._stack.append(self._take(self._number("<B")))
            case pickle.LONG1:
                self._stack.append(pickle.decode_long(self._take(self._number("<B"))))
            case pickle.MARK:
                self._below.append(self._stack)
                self._stack = []
            case pickle.TUPLE:
                items = self._since_mark()
                self._stack.append(tuple(items))
            case pickle.APPEND | pickle.APPENDS:
                items = [self._stack.pop()] if op == pickle.APPEND else self._since_mark()
                self._top(list).extend(items)
            case pickle.SETITEM:
                value, key = self._stack.pop(), self._stack.pop()
                self._set_items([key, value])
            case pickle.SETITEMS:
                self._set_items(self._since_mark())
            case pickle.GLOBAL:
                self._stack.append(self._global())
            case pickle.BINPERSID:
                self._stack.append(_storage(self._stack.pop()))
            case pickle.REDUCE:
                arguments = self._stack.pop()
                self._stack.append(_call(self._stack.pop(), arguments))
            case pickle.BUILD:
                self._stack.pop()  # attributes, such as a state dict's `_metadata`
                self._top(OrderedDict)
            case pickle.PROTO:
                if (version := self._number("<B")) > 3:
                    raise BadPickle(f"its pickle is of protocol {version}; torch.save's own is 2")
            case _:
                raise BadPickle(f"its pickle has the opcode {op[0]:#04x}, which no weights need")

    def _take(self, n: int) -> bytes:
        taken = self._data[self._at : self._at + n]
        if len(taken) != n:
            raise BadPickle("its pickle ends early")
        self._at += n
        return taken

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + 200)
        if end < 0:
            raise BadPickle("its pickle has a name without an end")
        return self._take(end + 1 - self._at)[:-1].decode("utf-8")

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _top(self, *kinds: type) -> Any:
        top = self._stack[-1]
        if type(top) not in kinds:
            raise BadPickle(f"its pickle fills a {type(top).__name__} as a {kinds[0].__name__}")
        return top

    def _set_items(self, items: list[Any]) -> None:
        target = self._top(dict, OrderedDict)
        if len(items) % 2:
            raise BadPickle("its pickle has a name without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Large numbers can be chosen to collide, which makes a dict take hours; texts cannot.
            if not (isinstance(key, str) or (type(key) is int and abs(key) < 1 << 32)):
                raise BadPickle(f"its pickle names a value by a {type(key).__name__}")
            target[key] = value

    def _global(self) -> Global:
        module, name = self._line(), self._line()
        # The names that Python 2 had; protocol 2 writes them still.
        full = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if full not in _KNOWN and not re.fullmatch(_TYPE, full, re.ASCII):
            shown = "".join(c if c.isprintable() else "?" for c in full)
            raise BadPickle(
                f"its pickle asks for {shown}, which no weights need; nothing of it was run"
            )
        return Global(full)


def _storage(pid: Any) -> Storage:
    if type(pid) is not tuple or len(pid) != 5:
        raise BadPickle("its pickle refers to something outside that is no storage")
    what, kind, key, _, count = pid
    if type(what) is not str or what != "storage" or type(kind) is not Global:
        raise BadPickle("its pickle refers to something outside that is no storage")
    if type(key) is not str or type(count) is not int or kind.name not in _STORAGE_OF:
        raise BadPickle("its pickle describes a storage wrongly")
    return Storage(_STORAGE_OF[kind.name], key, count)


def _call(function: Any, arguments: Any) -> Any:
    if type(function) is not Global or type(arguments) is not tuple:
        raise BadPickle("its pickle calls what is no function")
    name = function.name
    if name == _FROM_TYPE:
        function, _, arguments, *_ = arguments
        name = function.name if type(function) is Global else ""
        if type(arguments) is not tuple or name == _FROM_TYPE:
            raise BadPickle("its pickle wraps a tensor in itself")
    if name.startswith(_REBUILD):
        return _tensor(name, arguments)
    if name in _WRAPPERS:
        return arguments[0]
    if name == "collections.OrderedDict" and not arguments:
        return OrderedDict()
    if name == "torch.Size" and type(arguments[0]) is tuple:
        return arguments[0]
    if name in _INERT:
        return Global(name)
    raise BadPickle(f"its pickle calls {name or 'what is no function'}, which no weights need")


def _tensor(name: str, arguments: tuple[Any, ...]) -> Pickled:
    storage, offset, shape, stride, *rest = arguments
    if type(storage) is not Storage or not _integers((offset,)):
        raise BadPickle("its pickle has a tensor without a storage")
    if not _integers(shape) or not _integers(stride) or len(shape) != len(stride):
        raise BadPickle("its pickle has a tensor without a shape")
    dtype = storage.dtype
    if name.endswith("_v3"):  # for types that have no storage class of their own
        dtype = rest[2].name.removeprefix("torch.") if type(rest[2]) is Global else ""
    flags = rest[3:] if name.endswith("_v3") else rest[2:]
    return Pickled(storage, dtype, offset, shape, stride, any(flags))


def _integers(values: Any) -> bool:
    return type(values) is tuple and all(type(v) is int for v in values)
