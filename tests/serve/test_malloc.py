from __future__ import annotations

import platform
import subprocess
import sys


def test_glibc_shares_its_heap_and_nobody_else_is_asked() -> None:
    code = "from serve.http.malloc import share_heap; print(share_heap())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(platform.libc_ver()[0] == "glibc")
