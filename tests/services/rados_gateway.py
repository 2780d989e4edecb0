"""A real S3 server for tests: the Ceph RADOS Gateway from Debian's packages, alone on this machine's loopback.

One monitor, one manager, one object daemon that keeps everything in memory, and the gateway. Needs
`apt-get install ceph-mon ceph-mgr ceph-osd radosgw`. By hand: `python -m tests.services.rados_gateway FOLDER` keeps
it running until Ctrl-C and prints the variables to set.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from urllib.request import Request, urlopen

import obstore
from obstore.store import S3Store

from tests.services.ports import free_ports

PROGRAMS = ("ceph-mon", "ceph-mgr", "ceph-osd", "radosgw", "radosgw-admin", "ceph")
ACCESS_KEY, SECRET_KEY = "test-access", "test-secret"
START_SECONDS = 90
CONFIGURATION = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}]
public addr = 127.0.0.1
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd crush chooseleaf type = 0
mon allow pool size one = true
ms bind msgr1 = false
run dir = {folder}
log file = {folder}/$name.log
pid file = {folder}/$name.pid
admin socket = {folder}/$name.asok
keyring = {folder}/keyring
[mon]
mon data = {folder}/mon
[mgr]
mgr data = {folder}/mgr
[osd]
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 2147483648
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw data = {folder}/rgw
"""
KEYS = {
    "mon.": ("mon", "allow *"),
    "client.admin": ("mon", "allow *", "osd", "allow *", "mgr", "allow *"),
    "mgr.x": ("mon", "allow profile mgr", "osd", "allow *"),
    "osd.0": ("mon", "allow profile osd", "osd", "allow *", "mgr", "allow profile osd"),
    "client.rgw": ("mon", "allow rw", "osd", "allow rwx", "mgr", "allow rw"),
}


def missing_programs() -> list[str]:
    """What is not installed of what it needs."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


class RadosGateway:
    """A running gateway; its objects outlive the gateway itself, since they are the object daemon's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, mon_port = free_ports(2)
        for name in ("mon", "mgr", "osd", "rgw"):
            (folder / name).mkdir(parents=True)
        self._environment = os.environ | {"CEPH_CONF": str(folder / "ceph.conf")}
        self._environment["CEPH_ARGS"] = ""
        self._fsid = str(uuid.uuid4())
        text = CONFIGURATION.format(fsid=self._fsid, mon_port=mon_port, port=self.port, folder=folder)
        (folder / "ceph.conf").write_text(text)
        self._mon_port = mon_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def variables(self) -> dict[str, str]:
        """What a person sets to use it as S3."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Make the cluster, the gateway and one user."""
        keyring, monmap = str(self.folder / "keyring"), str(self.folder / "monmap")
        for number, (name, caps) in enumerate(KEYS.items()):
            allowed = [word for kind, cap in zip(caps[::2], caps[1::2], strict=True) for word in ("--cap", kind, cap)]
            new = ["--create-keyring"] if number == 0 else []
            self._run("ceph-authtool", *new, keyring, "--gen-key", "-n", name, *allowed)
        address = f"[v2:127.0.0.1:{self._mon_port}]"
        self._run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", address, monmap)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
        self._run("ceph-mon", "-i", "a")
        self._run("ceph-mgr", "-i", "x")
        disk = str(uuid.uuid4())
        self._run("ceph", "osd", "new", disk, "0")
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        self._run("ceph-osd", "-i", "0")
        self.start_gateway()
        user = ("user", "create", "--uid=test", "--display-name=test")
        keys = (f"--access-key={ACCESS_KEY}", f"--secret={SECRET_KEY}")
        self._run("radosgw-admin", "-n", "client.rgw", *user, *keys)

    def start_gateway(self) -> None:
        """The gateway alone, as after a restart; returns when it answers."""
        self._run("radosgw", "-n", "client.rgw")
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert time.monotonic() < deadline, (self.folder / "client.rgw.log").read_text()[-2000:]
            time.sleep(0.2)

    def kill_gateway(self) -> None:
        """As a crash does."""
        self._end("client.rgw", signal.SIGKILL)

    def make_bucket(self, name: str) -> None:
        address = obstore.sign(self._store(name), "PUT", "", expires_in=timedelta(minutes=5))
        urlopen(Request(address, method="PUT"), timeout=START_SECONDS).close()

    def upload(self, folder: Path, bucket: str, prefix: str) -> None:
        """Every file of a folder as an object below `prefix`."""
        for path in sorted(folder.iterdir()):
            obstore.put(self._store(bucket), f"{prefix}/{path.name}", path)

    def _store(self, bucket: str) -> S3Store:
        return S3Store(
            bucket,
            endpoint=self.url,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            region="us-east-1",
            client_options={"allow_http": True},
        )

    def _answers(self) -> bool:
        try:
            urlopen(self.url, timeout=5).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        for name in ("client.rgw", "osd.0", "mgr.x", "mon.a"):
            with suppress(FileNotFoundError, ProcessLookupError):
                self._end(name, signal.SIGKILL)

    def _end(self, name: str, how: signal.Signals) -> None:
        path = self.folder / f"{name}.pid"
        process = int(path.read_text())
        os.kill(process, how)
        deadline = time.monotonic() + START_SECONDS
        while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        path.unlink()

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=START_SECONDS)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


@contextmanager
def rados_gateway(folder: Path) -> Iterator[RadosGateway]:
    """A started gateway, until the block ends; `folder` is empty and its path short (sockets stand in it)."""
    gateway = RadosGateway(folder)
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.stop()


if __name__ == "__main__":
    with rados_gateway(Path(sys.argv[1]).resolve()) as running:
        for variable, value in running.variables.items():
            print(f"export {variable}={value}")
        with suppress(KeyboardInterrupt):
            signal.pause()
