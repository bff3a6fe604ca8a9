from __future__ import annotations

import platform
import subprocess
import sys


def test_heap_is_shared_only_with_glibc() -> None:
    code = "from serve.http.malloc import share_heap; print(share_heap())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(platform.libc_ver()[0] == "glibc")
