"""Sandbox of a child process that opens a file from a stranger, or runs a program that a model wrote.

Linux: memory, CPU time, open files and core dumps are limited (setrlimit); the file system can only be read, and
signals reach no other process (Landlock); sockets, other programs, ptrace and io_uring are refused (seccomp). Landlock
needs Linux 5.13, or 6.12 for signals; seccomp is used on x86-64 and ARM64. If a kernel or a container lacks one of
them, the rest still holds. `restrict_program` is stricter: the process can only compute and read a few folders.

macOS: only setrlimit, whose memory limit the system may ignore. Windows: no restriction; the caller's time limit
remains.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

_MOST_WRITTEN: Final = 1 << 20  # bytes of stderr, which is a file
_MOST_FILES: Final = 1024  # open at once: a split model may have hundreds of parts
_FEW_FILES: Final = 32  # of a program; Python opens the modules that it imports
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER, _PARENT_DEATH_SIGNAL = 38, 22, 2, 1  # prctl(2)
# linux/landlock.h; the system call numbers are the same on all processors.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_READ_FILE, _READ = 1 << 2, 1 << 2 | 1 << 3  # with READ_DIR
_FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 5: 16}  # ABI → number of rights from it on
# seccomp(2), linux/filter.h, linux/audit.h: machine → AUDIT_ARCH_*, then socket, ptrace, execve, execveat, and
# io_uring_setup.
_CALLS: Final = {
    "x86_64": (0xC000003E, (41, 101, 59, 322, 425)),
    "aarch64": (0xC00000B7, (198, 117, 221, 281, 425)),
}
# What Python needs to compute, import modules and write to open files. No call here starts a process or a thread, sends
# a signal, changes a limit, or changes a file's owner, mode or times. Source: asm/unistd_64.h, asm-generic/unistd.h.
_COMPUTING: Final = {
    # read, write, close, stat, fstat, lstat, poll, lseek, mmap, mprotect, munmap, brk, rt_sigaction, rt_sigprocmask,
    # rt_sigreturn, pread64, readv, writev, access, sched_yield, mremap, madvise, dup, dup2, nanosleep, getpid, exit,
    # uname, getcwd, readlink, gettimeofday, getrusage, sysinfo, times, getuid, getgid, geteuid, getegid, getppid,
    # sigaltstack, gettid, futex, sched_getaffinity, getdents64, clock_gettime, clock_getres, clock_nanosleep,
    # exit_group, openat, newfstatat, readlinkat, faccessat, set_robust_list, dup3, getrandom, statx, rseq, faccessat2
    "x86_64": (
        0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 19, 20, 21, 24, 25, 28, 32, 33, 35, 39, 60, 63, 79, 89,
        96, 98, 99, 100, 102, 104, 107, 108, 110, 131, 186, 202, 204, 217, 228, 229, 230, 231, 257, 262, 267, 269, 273,
        292, 318, 332, 334, 439,
    ),
    # The same, but for those that ARM64 does not have: stat, lstat, poll, access, dup2, readlink.
    "aarch64": (
        17, 23, 24, 48, 56, 57, 61, 62, 63, 64, 65, 66, 67, 78, 79, 80, 93, 94, 98, 99, 101, 113, 114, 115, 123, 124,
        132, 134, 135, 139, 153, 160, 165, 169, 172, 173, 174, 175, 176, 177, 178, 179, 214, 215, 216, 222, 226, 233,
        278, 291, 293, 439,
    ),
}  # fmt: skip
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
    limits = {"RLIMIT_DATA": _status_bytes("VmData") + memory, "RLIMIT_NOFILE": _MOST_FILES}
    active = {"limits"} if _limit(limits, seconds) else set()
    if libc := _libc():
        active |= {"landlock"} if _only_read(libc, ("/",)) else set()
        known = _CALLS.get(platform.machine())
        if known and _filter_calls(libc, known[0], refused=known[1]):
            active.add("seccomp")
    return frozenset(active)


def restrict_program(*, memory: int, seconds: int, readable: Sequence[str]) -> bool:
    """Restrict this process, which has one thread, to computing and to reading files, for the rest of its life.

    It can start neither processes nor threads, and is killed when its parent ends.

    Args:
        memory: bytes of address space that it may take beside what it has.
        seconds: CPU time; then the process is killed by SIGXCPU.
        readable: files and folders that it may read; missing ones are ignored.

    Returns:
        Whether all restrictions are in force. If not, the program must not run.
    """
    libc, known = _libc(), _CALLS.get(platform.machine())
    if libc is None or known is None:
        return False
    libc.prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    limits = {"RLIMIT_AS": _status_bytes("VmSize") + memory, "RLIMIT_NOFILE": _FEW_FILES}
    return (
        _limit(limits, seconds)
        and _only_read(libc, readable)
        and _filter_calls(libc, known[0], allowed=_COMPUTING[platform.machine()])
    )


def _libc() -> Any:
    """Return the C library of a process that can get no new privileges; None if this is not Linux."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    n, pointer = ctypes.c_ulong, ctypes.c_void_p
    libc.prctl.argtypes = [ctypes.c_int, n, pointer, n, n]
    return libc if libc.prctl(_NO_NEW_PRIVILEGES, 1, None, 0, 0) == 0 else None


def _limit(most: Mapping[str, int], seconds: int) -> bool:
    if sys.platform == "win32":
        return False
    import resource

    # SIGXCPU at the soft limit, SIGKILL at the hard one. All others are the same.
    limits = {
        **{name: (n, n) for name, n in most.items()}, "RLIMIT_CPU": (seconds, seconds + 5), "RLIMIT_CORE": (0, 0),
        "RLIMIT_FSIZE": (_MOST_WRITTEN, _MOST_WRITTEN),
    }  # fmt: skip
    for name, wanted in limits.items():
        which = getattr(resource, name)
        _, most_here = resource.getrlimit(which)
        soft, hard = (
            n if most_here == resource.RLIM_INFINITY else min(n, most_here) for n in wanted
        )
        with suppress(OSError, ValueError):  # macOS refuses some values
            resource.setrlimit(which, (soft, hard))
    return True


def _status_bytes(name: str) -> int:
    """Return a size of this process, such as VmData, which RLIMIT_DATA counts; 0 if the system does not report it."""
    try:
        lines = Path("/proc/self/status").read_text("ascii", errors="replace").splitlines()
    except OSError:  # not Linux
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def _only_read(libc: Any, paths: Sequence[str]) -> bool:
    """Let only these files and folders be read, and none be written, with Landlock; return False without Landlock."""
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
    try:
        for path in filter(os.path.exists, paths):
            opened = os.open(path, os.O_RDONLY)
            rights_here = _READ if os.path.isdir(path) else _READ_FILE  # noqa: PTH112 — pathlib is slow to import
            libc.syscall(
                _ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", rights_here, opened), none
            )
            os.close(opened)
        return bool(libc.syscall(_RESTRICT_SELF, rules, none) == 0)
    finally:
        os.close(rules)


def _filter_calls(
    libc: Any, machine: int, *, refused: Sequence[int] = (), allowed: Sequence[int] = ()
) -> bool:
    """Refuse system calls with EPERM: these, or all but those allowed; return False if that is impossible."""
    if sys.maxsize < 2**32:
        return False
    named, other = (_REFUSE, _ALLOW) if refused else (_ALLOW, _REFUSE)
    # struct sock_filter: code, jump if true, jump if false, value. struct seccomp_data: number at 0, machine at 4.
    n = len(numbers := (*refused, *allowed))
    steps = [
        (_LOAD, 0, 0, 4),
        (_JUMP_IF_EQUAL, 1, 0, machine),
        (_RETURN, 0, 0, _REFUSE),
        (_LOAD, 0, 0, 0),
        (_JUMP_IF_GREATER_OR_EQUAL, 0, 1, _X32),
        (_RETURN, 0, 0, _REFUSE),
        *((_JUMP_IF_EQUAL, n - i, 0, number) for i, number in enumerate(numbers)),
        (_RETURN, 0, 0, other),
        (_RETURN, 0, 0, named),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))  # struct sock_fprog
    return bool(libc.prctl(_SECCOMP, _FILTER, program, 0, 0) == 0)
