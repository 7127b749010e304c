"""A real ssh server on a host of the lab, and the client's ssh that knows it.

Hosts and client have an ``/etc`` and a ``/run`` of their own, so nothing of this machine is touched.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType

from labkit import Host, Lab
from releases.cache import default_folder
from waiting import wait_until

__all__ = ["SshServer"]

#: The root of the machine's own, or of what tools/setup has unpacked.
_ROOTS = (Path("/"), default_folder() / "openssh-server")

_CONFIG = """\
ListenAddress {address}
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/client.pub
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
"""

_CLIENT = """\
Host {name}
  IdentityFile {folder}/client
  UserKnownHostsFile {folder}/known
"""

_BOUND_S = 10.0


class SshServer:
    """Lets root of the lab's client in on a host; listens on the host's own network only."""

    def __init__(self, lab: Lab, name: str) -> None:
        self._host = lab.host(name)
        self._folder = lab.shared / f"sshd-{name}"
        self._client = lab.client.path(f"/etc/ssh/ssh_config.d/{name}.conf")
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> SshServer:
        self._folder.mkdir()
        self._make_keys()
        _let_root_in(self._host)
        self._process = self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self._client.unlink(missing_ok=True)
        for each in self._folder.iterdir():
            each.unlink()
        self._folder.rmdir()

    def stop(self) -> None:
        """End it, with all who are logged in."""
        process, self._process = self._process, None
        if process is not None:
            self._host.run(["pkill", "-KILL", "-x", "sshd"], check=False)
            process.wait(_BOUND_S)

    def sessions(self) -> int:
        """How many are logged in."""
        found = self._host.run(["pgrep", "-f", "^sshd(-session)?: root"], check=False)
        return len(found.stdout.split())

    def _make_keys(self) -> None:
        for name in ("host", "client"):
            words = ["-q", "-t", "ed25519", "-N", "", "-f", str(self._folder / name)]
            subprocess.run(["ssh-keygen", *words], check=True, timeout=_BOUND_S)
        key = (self._folder / "host.pub").read_text()
        (self._folder / "known").write_text(f"{self._host.name} {key}")
        names = {"name": self._host.name, "folder": self._folder}
        self._client.write_text(_CLIENT.format(**names))

    def _start(self) -> subprocess.Popen[str]:
        root = next(each for each in _ROOTS if (each / "usr/sbin/sshd").exists())
        config, log = self._folder / "config", self._folder / "log"
        text = _CONFIG.format(address=self._host.address, folder=self._folder)
        config.write_text(text + _parts(root / "usr/lib/openssh"))
        libraries = ":".join(map(str, root.glob("usr/lib/*-linux-gnu")))
        program = str(root / "usr/sbin/sshd")
        with log.open("w") as out:
            process = self._host.popen(
                ["env", f"LD_LIBRARY_PATH={libraries}", program, "-D", "-e", "-f", str(config)],
                stderr=out,
            )  # fmt: skip
        wait_until(lambda: "listening" in log.read_text(), "sshd to listen", _BOUND_S)
        return process


def _parts(folder: Path) -> str:
    """Since OpenSSH 9.8 and 10.0 it is several programs."""
    parts = {"sshd-session": "SshdSessionPath", "sshd-auth": "SshdAuthPath"}
    return "".join(
        f"{option} {folder / name}\n"
        for name, option in parts.items()
        if (folder / name).exists()
    )


def _let_root_in(host: Host) -> None:
    """The server wants an account and a folder of its own, and no account whose password is locked by a "!"."""
    host.path("/run/sshd").mkdir(exist_ok=True)
    accounts = host.path("/etc/passwd")
    if "sshd:" not in accounts.read_text():
        with accounts.open("a") as out:
            out.write("sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n")
    shadow = host.path("/etc/shadow")
    lines = shadow.read_text().splitlines()
    others = [line for line in lines if not line.startswith("root:")]
    shadow.write_text("\n".join(["root:*:1::::::", *others, ""]))
