"""A machine like Kaggle's for as long as a command runs: made of namespaces, without privileges.

    unshare -rmn python kaggle_machine.py ROOT INPUT WORKING SIZE COMMAND ...

The command sees a copy of the folder INPUT as /kaggle/input, where nothing can be written, and an
empty /kaggle/working that holds SIZE bytes at most, where it starts. There is no network but
loopback; everything else is this machine. What it leaves in /kaggle/working is copied to WORKING.
The machine's root folder is mounted on the empty folder ROOT.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

AVAILABLE = shutil.which("unshare") is not None and (
    subprocess.run(["unshare", "-rmn", "true"], capture_output=True).returncode == 0
)


def run(
    inputs: Path, working: Path, size: int, command: list[str], **options: object
) -> subprocess.CompletedProcess:
    """Run the command on such a machine; returns when it has ended."""
    with tempfile.TemporaryDirectory() as root:
        arguments = map(str, (root, inputs, working, size))
        machine = ["unshare", "-rmn", sys.executable, __file__, *arguments]
        return subprocess.run([*machine, *command], capture_output=True, text=True, **options)


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def _make(root: Path, inputs: Path, size: str) -> None:
    """A root folder like this machine's, with /kaggle."""
    _mount("-t", "tmpfs", "machine", root)
    for path in Path("/").iterdir():
        place = root / path.name
        if path.is_symlink():
            place.symlink_to(path.readlink())
        elif path.is_dir() and path.name != "kaggle":
            place.mkdir()
            _mount("--rbind", path, place)
    kaggle = root / "kaggle"
    for name, limit in (("input", "1g"), ("working", size)):
        (kaggle / name).mkdir(parents=True)
        _mount("-t", "tmpfs", "-o", f"size={limit}", name, kaggle / name)
    shutil.copytree(inputs, kaggle / "input", dirs_exist_ok=True)
    _mount("-o", "remount,ro", kaggle / "input")


def _raise_loopback() -> None:
    up_and_running = struct.pack("16sH14s", b"lo", 0x1 | 0x40, b"")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        fcntl.ioctl(one, 0x8914, up_and_running)  # SIOCSIFFLAGS


def main() -> int:
    root, inputs, working, size, *command = sys.argv[1:]
    _make(Path(root), Path(inputs), size)
    _raise_loopback()

    def enter() -> None:
        os.chroot(root)
        os.chdir("/kaggle/working")

    status = subprocess.run(command, preexec_fn=enter).returncode
    shutil.copytree(Path(root, "kaggle", "working"), working, dirs_exist_ok=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
