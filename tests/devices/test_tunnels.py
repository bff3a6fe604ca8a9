"""The tunnels to a worker that docs/devices.md describes: SSH, and WireGuard. Run by scripts/test_devices."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.devices.lab import serving, worker
from tests.devices.network import network, run_ip, why_none
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
NOBODY = pwd.getpwnam("nobody") if os.name == "posix" else None


def run(*command: str, **more: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, (command, done.stderr)
    return str(done.stdout)


@contextmanager
def running(*command: str, ready: str, user: int | None = None) -> Iterator[None]:
    """Run a program that writes `ready` to stderr when it is ready, until the block ends."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, user=user)
    assert process.stderr is not None
    lines = []
    try:
        for line in process.stderr:
            lines.append(line)
            if ready in line:
                break
        assert lines, command
        assert ready in lines[-1], "".join(lines)
        yield
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        return int(s.getsockname()[1])


@pytest.fixture
def ssh_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Port of an SSH server on loopback, and its client's folder.

    It runs as an unprivileged user, so that it needs neither a user of its own nor folders of the system.
    """
    folder = tmp_path_factory.mktemp("ssh")
    for parent in (folder, *folder.parents[:3]):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/tmp"):
            parent.chmod(0o711)
    for name in ("host", "client"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    port, user = free_port(), None
    if os.geteuid() == 0 and NOBODY:
        user = NOBODY.pw_uid
        os.chown(folder / "host", user, -1)
    (folder / "client.pub").chmod(0o644)
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/client.pub\n"
        "StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\n",
        "utf-8",
    )
    assert SSHD
    with running(SSHD, "-D", "-e", "-f", str(folder / "sshd_config"), ready="listening", user=user):
        yield port, folder


@pytest.mark.skipif(not (SSHD and shutil.which("ssh")), reason="no sshd: install openssh-server")
def test_worker_through_ssh(ssh_port: tuple[int, Path], demo_gguf: Path, local: list[str]) -> None:
    port, folder = ssh_port
    user = NOBODY.pw_name if os.geteuid() == 0 and NOBODY else pwd.getpwuid(os.geteuid()).pw_name
    tunnel = free_port()
    with ExitStack() as stack:
        lent = stack.enter_context(worker())
        stack.enter_context(
            running(
                "ssh", "-v", "-N", "-L", f"127.0.0.1:{tunnel}:{lent.address}",
                "-o", "ExitOnForwardFailure=yes", "-o", "ServerAliveInterval=5",
                "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
                "-F", "none", "-i", str(folder / "client"), "-p", str(port), f"{user}@127.0.0.1",
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
