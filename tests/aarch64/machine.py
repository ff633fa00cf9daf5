"""An emulated 64-bit ARM Debian in a folder, and commands that run in it.

Programs are run by qemu-user, which the kernel starts for them (binfmt_misc). That is registered in user and mount
namespaces of their own, so that nothing of it is seen outside, or left when a command ends; it needs root and
Linux 6.7, where binfmt_misc became one a user namespace. The qemu of Debian 12 shows the host's /proc/cpuinfo, so a file
of the emulated processor is laid over it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
QEMU = "qemu-aarch64-static"

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000
_PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# An ELF header of 64 bits, little-endian, for machine 183, which is AArch64; F: the interpreter is opened now, outside.
_MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"

_ENTER = r"""
set -e
root=$1 magic=$2 mask=$3 qemu=$4; shift 4
mkdir -p "$root/mnt" "$root/dev" "$root/proc" "$root/sys"
mount -t binfmt_misc none "$root/mnt"
printf ':aarch64:M::%s:%s:%s:F' "$magic" "$mask" "$qemu" > "$root/mnt/register"
mount -t tmpfs tmpfs "$root/dev"
for name in null zero full random urandom tty; do : > "$root/dev/$name"; mount --bind "/dev/$name" "$root/dev/$name"; done
: > "$root/dev/console"; : > "$root/dev/ptmx"; mkdir "$root/dev/shm"
mount --rbind /proc "$root/proc"
mount --rbind /sys "$root/sys"
if [ -e "$root/cpuinfo" ]; then mount --bind "$root/cpuinfo" "$root/proc/cpuinfo"; fi
exec chroot "$root" "$@"
"""
# Which processor is emulated, and what /proc/cpuinfo says of each of its cores. With a file that lacks these lines, ONNX
# Runtime 1.31 crashes when it is imported.
_PROCESSOR = "cortex-a76"
_CPUINFO = """\
processor\t: {core}
BogoMIPS\t: 100.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0b
CPU revision\t: 1

"""


class Unable(Exception):
    """This computer cannot emulate one; the text says why."""


class Machine:
    """An emulated computer whose files are below `folder`/root."""

    def __init__(self, folder: Path) -> None:
        self.root = folder.absolute() / "root"

    def make(self) -> None:
        """Make it, unless it is there: about 400 MB and six minutes. Raises Unable, CalledProcessError."""
        qemu = _able()
        if (self.root / "cpuinfo").exists():
            return
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.parent.mkdir(parents=True, exist_ok=True)
        options = ["--foreign", "--arch=arm64", "--variant=minbase", "--include=python3-venv"]
        print(f"debootstrap {SUITE} into {self.root} ...", flush=True)
        _quietly(["debootstrap", *options, SUITE, str(self.root), MIRROR])
        print(f"configuring it under {qemu} ...", flush=True)
        self.run(["/debootstrap/debootstrap", "--second-stage"])
        cores = range(os.cpu_count() or 1)
        (self.root / "cpuinfo").write_text("".join(_CPUINFO.format(core=core) for core in cores))

    def run(self, command: Sequence[str]) -> str:
        """Run a command in it and return what it wrote to standard output. Raises CalledProcessError."""
        arguments = ["sh", "-c", _ENTER, "sh", str(self.root), _MAGIC, _MASK, _able(), *command]
        done = subprocess.run(
            [sys.executable, str(Path(__file__)), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={
                **{"PATH": _PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", "QEMU_CPU": _PROCESSOR},
                "DEBIAN_FRONTEND": "noninteractive",
                "container": "lxc",  # debootstrap is not to make device files, which only the machine's own root may
            },
        )
        if done.returncode:
            print(done.stdout[-2000:], done.stderr[-4000:], file=sys.stderr)
            done.check_returncode()
        return done.stdout


def _able() -> str:
    """The emulator's path. Raises Unable."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        raise Unable("an ARM user space is emulated by root on Linux")
    found = {name: shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_PATH}") for name in (QEMU, "debootstrap")}
    if missing := [name for name, path in found.items() if path is None]:
        raise Unable(f"{' and '.join(missing)} not found: apt-get install qemu-user-static debootstrap")
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    if release < (6, 7):
        raise Unable("binfmt_misc cannot be registered in a namespace before Linux 6.7")
    return str(found[QEMU])


def _quietly(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout[-4000:], done.stderr[-4000:], file=sys.stderr)
        done.check_returncode()


def _enter_namespaces(command: list[str]) -> int:
    """Run a command as root of user and mount namespaces of its own, in which every user is who they are outside.

    Only a process outside may write those maps, and so there are two.
    """
    (inside_ready, tell_ready), (outside_ready, tell_mapped) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_NEW_USER | _NEW_MOUNTS) != 0:
            raise OSError(ctypes.get_errno(), "no namespaces may be made here")
        os.write(tell_ready, b"1")
        os.read(outside_ready, 1)
        os.execvp(command[0], command)
    os.close(tell_ready)
    if os.read(inside_ready, 1):
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{name}").write_text("0 0 65536\n")
    os.write(tell_mapped, b"1")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(_enter_namespaces(sys.argv[1:]))
