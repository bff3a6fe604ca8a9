"""Sandbox of a child process that opens a file from a stranger.

Linux: memory, CPU time, open files and core dumps are limited (setrlimit); the file system can only be read, and
signals reach no other process (Landlock); sockets, other programs, ptrace and io_uring are refused (seccomp). Landlock
needs Linux 5.13, or 6.12 for signals; seccomp is used on x86-64 and ARM64. If a kernel or a container lacks one of
them, the rest still holds.

macOS: only setrlimit, whose memory limit the system may ignore. Windows: no restriction; the caller's time limit
remains.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

_MOST_WRITTEN: Final = 1 << 20  # bytes of stderr, which is a file
_MOST_FILES: Final = 1024  # open at once: a split model may have hundreds of parts
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2  # prctl(2)
# linux/landlock.h; the system call numbers are the same on all processors.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH, _READ = 1, 1, 1 << 2 | 1 << 3  # READ_FILE, READ_DIR
_FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 5: 16}  # ABI → number of rights from it on
# seccomp(2), linux/filter.h, linux/audit.h: machine → AUDIT_ARCH_*, then socket, ptrace, execve, execveat.
_CALLS: Final = {
    "x86_64": (0xC000003E, (41, 101, 59, 322)),
    "aarch64": (0xC00000B7, (198, 117, 221, 281)),
}
_IO_URING_SETUP: Final = 425
_X32: Final = 0x40000000  # calls of x86-64's second ABI
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_GREATER_OR_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ERRNO with EPERM


def restrict(*, memory: int, seconds: int) -> frozenset[str]:
    """Restrict this thread, and all that it starts, for the rest of its life.

    Args:
        memory: bytes of data that it may take beside what it has: heap, stacks and private mappings, not mapped files.
        seconds: CPU time of all threads; then the process is killed by SIGXCPU.

    Returns:
        What is in force: "limits", "landlock", "seccomp".
    """
    active = {"limits"} if _limit(memory, seconds) else set()
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall.restype = ctypes.c_long
        libc.prctl.argtypes = [
            ctypes.c_int,
            ctypes.c_ulong,
            ctypes.c_void_p,
            ctypes.c_ulong,
            ctypes.c_ulong,
        ]
        if libc.prctl(_NO_NEW_PRIVILEGES, 1, None, 0, 0) == 0:
            active |= {"landlock"} if _only_read(libc) else set()
            active |= {"seccomp"} if _refuse_calls(libc) else set()
    return frozenset(active)


def _limit(memory: int, seconds: int) -> bool:
    if sys.platform == "win32":
        return False
    import resource

    data = _data_bytes() + memory
    # SIGXCPU at the soft limit, SIGKILL at the hard one. All others are the same.
    limits = {
        "RLIMIT_DATA": (data, data), "RLIMIT_CPU": (seconds, seconds + 5), "RLIMIT_CORE": (0, 0),
        "RLIMIT_FSIZE": (_MOST_WRITTEN, _MOST_WRITTEN), "RLIMIT_NOFILE": (_MOST_FILES, _MOST_FILES),
    }  # fmt: skip
    for name, wanted in limits.items():
        which = getattr(resource, name)
        _, most = resource.getrlimit(which)
        soft, hard = (n if most == resource.RLIM_INFINITY else min(n, most) for n in wanted)
        with suppress(OSError, ValueError):  # macOS refuses some values
            resource.setrlimit(which, (soft, hard))
    return True


def _data_bytes() -> int:
    """Return the bytes that RLIMIT_DATA counts so far; 0 if the system does not report them."""
    try:
        lines = Path("/proc/self/status").read_text("ascii", errors="replace").splitlines()
    except OSError:  # not Linux
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmData:")), 0)


def _only_read(libc: Any) -> bool:
    """Let files and folders only be read, with Landlock; return False if the kernel has none."""
    abi = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    if abi < 1:
        return False
    rights = next(n for least, n in sorted(_FILE_RIGHTS.items(), reverse=True) if abi >= least)
    # struct landlock_ruleset_attr, as long as the kernel knows it: files; TCP bind and connect; sockets and signals.
    words = [(1 << rights) - 1, *([3] if abi >= 4 else []), *([3] if abi >= 6 else [])]
    handled = struct.pack(f"={len(words)}Q", *words)
    none = ctypes.c_uint32(0)
    rules = libc.syscall(_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), none)
    if rules < 0:
        return False
    root = os.open("/", os.O_RDONLY)
    try:
        beneath = struct.pack("=Qi", _READ, root)
        libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, beneath, none)
        return bool(libc.syscall(_RESTRICT_SELF, rules, none) == 0)
    finally:
        os.close(root)
        os.close(rules)


def _refuse_calls(libc: Any) -> bool:
    """Refuse sockets, other programs, ptrace and io_uring with EPERM; return False if that is impossible."""
    known = _CALLS.get(platform.machine())
    if known is None or sys.maxsize < 2**32:
        return False
    machine, numbers = known
    refused = (*numbers, _IO_URING_SETUP)
    n = len(refused)
    # struct sock_filter: code, jump if true, jump if false, value. struct seccomp_data: number at 0, machine at 4.
    steps = [
        (_LOAD, 0, 0, 4),
        (_JUMP_IF_EQUAL, 0, n + 3, machine),
        (_LOAD, 0, 0, 0),
        (_JUMP_IF_GREATER_OR_EQUAL, n + 1, 0, _X32),
        *((_JUMP_IF_EQUAL, n - i, 0, number) for i, number in enumerate(refused)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))  # struct sock_fprog
    return bool(libc.prctl(_SECCOMP, _FILTER, program, 0, 0) == 0)
