"""The tunnels to a worker that docs/devices.md describes: SSH, and WireGuard. Run by scripts/test_devices."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.devices.lab import serving, worker
from tests.devices.network import can_unshare, network, run_ip, why_none
from tests.devices.test_lost_workers import PROMPTS, local, split
from turbopilot.llama.rpc import has_rpc

__all__ = ["local"]
pytestmark = [
    pytest.mark.devices,
    pytest.mark.skipif(not has_rpc(), reason="llama.cpp was compiled without RPC"),
]
PLACES = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
SSHD, WIREGUARD_GO, WG = (
    shutil.which(name, path=PLACES) for name in ("sshd", "wireguard-go", "wg")
)


def run(*command: str, **more: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, (command, done.stderr)
    return str(done.stdout)


@contextmanager
def running(*command: str, ready: str) -> Iterator[None]:
    """Run a program that writes `ready` when it is ready, until the block ends."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if ready in line:
                break
        assert lines, command
        assert ready in lines[-1], "".join(lines)
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        return int(s.getsockname()[1])


@pytest.fixture
def ssh_port(tmp_path: Path) -> Iterator[int]:
    """Port of an SSH server on loopback, with keys in `tmp_path`.

    As root, it needs a user and a folder of the system, which it gets in a mount namespace.
    """
    for name in ("host", "client"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name))
    port = free_port()
    (tmp_path / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/client.pub\n"
        "StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\nPermitRootLogin yes\n",
        "utf-8",
    )
    users = Path("/etc/passwd").read_text("utf-8")
    if not re.search("^sshd:", users, re.MULTILINE):
        users += "sshd:x:9922:65534::/run/sshd:/usr/sbin/nologin\n"
    (tmp_path / "passwd").write_text(users, "utf-8")
    mounts = f"mount --bind {tmp_path}/passwd /etc/passwd; mount -t tmpfs none /run; mkdir -m 755 /run/sshd; "
    inside = ["unshare", "-m", "sh", "-ec", mounts + 'exec "$@"', "sh"] if os.geteuid() == 0 else []
    assert SSHD
    with running(
        *inside, SSHD, "-D", "-e", "-f", str(tmp_path / "sshd_config"), ready="Server listening"
    ):
        yield port


@pytest.mark.skipif(not (SSHD and shutil.which("ssh")), reason="no sshd: install openssh-server")
@pytest.mark.skipif(os.geteuid() == 0 and not can_unshare(), reason="root in a container")
def test_worker_through_ssh(
    ssh_port: int, tmp_path: Path, demo_gguf: Path, local: list[str]
) -> None:
    user, tunnel = pwd.getpwuid(os.geteuid()).pw_name, free_port()
    with ExitStack() as stack:
        lent = stack.enter_context(worker())
        stack.enter_context(
            running(
                "ssh", "-v", "-N", "-L", f"127.0.0.1:{tunnel}:{lent.address}",
                "-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=5",
                "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
                "-F", "none", "-i", str(tmp_path / "client"), "-p", str(ssh_port), f"{user}@127.0.0.1",
                ready="Entering interactive session",
            )
        )  # fmt: skip
        server = stack.enter_context(
            serving(demo_gguf, "--rpc", f"127.0.0.1:{tunnel}", "--ngl", "all")
        )
        assert [server.text(prompt) for prompt in PROMPTS] == local
        lent.kill()
        assert f"127.0.0.1:{tunnel}" in server.wait_for("waiting until")
        stack.enter_context(worker(port=int(lent.address.rpartition(":")[2])))
        server.wait_for("is loaded again")
        assert [server.text(prompt) for prompt in PROMPTS] == local


@pytest.mark.skipif(bool(why_none()), reason=why_none() or "namespaces can be made")
@pytest.mark.skipif(
    not (WIREGUARD_GO and WG), reason="no WireGuard: install wireguard-tools and wireguard-go"
)
def test_worker_through_wireguard(demo_gguf: Path, local: list[str], tmp_path: Path) -> None:
    assert WIREGUARD_GO
    assert WG
    with network(2) as net, ExitStack() as stack:
        keys = [run(WG, "genkey") for _ in range(2)]
        for i, key in enumerate(keys):
            other = 1 - i
            public = run(WG, "pubkey", input=keys[other]).strip()
            (tmp_path / f"wg{i}.conf").write_text(
                f"[Interface]\nPrivateKey = {key.strip()}\nListenPort = 51820\n"
                f"[Peer]\nPublicKey = {public}\nAllowedIPs = 10.77.0.{other + 1}/32\n"
                f"Endpoint = {net.address(other)}:51820\n",
                "utf-8",
            )
            device, inside = f"wg{os.getpid()}x{i}"[:15], net.command(i)
            stack.enter_context(
                running(*inside, "env", "LOG_LEVEL=verbose", WIREGUARD_GO, "-f", device, ready="UAPI listener started")
            )  # fmt: skip
            run(*inside, WG, "setconf", device, str(tmp_path / f"wg{i}.conf"))
            run_ip("-n", net.names[i], "address", "add", f"10.77.0.{i + 1}/24", "dev", device)
            run_ip("-n", net.names[i], "link", "set", device, "mtu", "1420", "up")
        lent = stack.enter_context(worker(host="10.77.0.2", inside=net.command(1)))
        server = stack.enter_context(
            serving(demo_gguf, *split(lent), inside=net.command(0), namespace=net.names[0])
        )
        assert [server.text(prompt) for prompt in PROMPTS] == local
