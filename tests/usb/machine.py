"""Runs one command in a machine with USB: QEMU, a kernel of Debian's, and this machine's own files.

    python tests/usb/machine.py SHARE -- COMMAND...
    python tests/usb/machine.py --check

The guest's root is this machine's, read-only, with a layer of memory above it: the same Python, the same
packages, the same source; nothing that the command writes is kept but what it puts into /run/share, which is
the folder SHARE. The processor is emulated (TCG), so no rights and no hardware are needed. Its clock counts
instructions, one a nanosecond, so that deadlines inside hold on a busy host too, and durations that are
measured inside tell nothing about speed. ``--check`` only fetches what is needed.

Exit status: the command's; 77 where the machine cannot be had here (the reason is on stderr); 70 where it did
not come up, or not to an end in time. SHARE/console.log is the guest's console, SHARE/output.log the
command's output.
"""

from __future__ import annotations

import fcntl
import lzma
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from mobifarm.workloads.paths import cache_directory

DEADLINE_S: Final = 1200
DOWNLOAD_DEADLINE_S: Final = 300
MEMORY_MIB: Final = 2048
# The guest's memory and QEMU's own; less than this and the machine would push something else out.
NEEDED_MIB: Final = MEMORY_MIB + 512
UNAVAILABLE: Final = 77
BROKEN: Final = 70

META_PACKAGE: Final = "linux-image-amd64"
MODULES: Final = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "configfs", "usb_f_fs", "dummy_hcd")
_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "VIRTUAL_ENV", "PYTHONPATH", "MOBIFARM_CACHE")


class UnavailableError(Exception):
    """The machine cannot be had here; the message says what is missing."""


# --- what it needs ------------------------------------------------------------------


def find_tools() -> dict[str, str]:
    """Paths of QEMU, busybox and setpriv. Raises :class:`UnavailableError`."""
    if platform.machine() != "x86_64":
        raise UnavailableError(f"the machine is made for x86-64 hosts; this one is {platform.machine()}")
    packages = {"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static", "setpriv": "util-linux"}
    found = {tool: shutil.which(tool) for tool in packages}
    missing = [packages[tool] for tool, path in found.items() if path is None]
    if not Path("/lib/systemd/systemd-udevd").exists():
        missing.append("udev")
    if missing:
        raise UnavailableError(
            f"the system packages are missing: {', '.join(missing)}; `make usb` installs them"
        )
    tools = {tool: path for tool, path in found.items() if path}
    with open(tools["busybox"], "rb") as file:
        if b"/ld-linux" in file.read(4096):
            raise UnavailableError("busybox is not a static one; `make usb` installs busybox-static")
    return tools


def check_memory() -> None:
    """Raises :class:`UnavailableError` where too little is free."""
    text = Path("/proc/meminfo").read_text()
    match = re.search(r"MemAvailable:\s*(\d+) kB", text)
    available_mib = int(match[1]) // 1024 if match else 0
    if available_mib < NEEDED_MIB:
        raise UnavailableError(f"{available_mib} MiB of memory are free, {NEEDED_MIB} are needed")


def ensure_kernel(cache: Path) -> Path:
    """A folder with ``vmlinuz``, ``modules`` and their ``order``, made from Debian's package once.

    apt compares the package with the hash in Debian's signed lists. Where none can be had, the last one that
    was made will do. Raises :class:`UnavailableError`.
    """
    kernels = cache / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    with (kernels / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = {path.parent.name: path.parent for path in kernels.glob("linux-image-*/order")}
        try:
            name, file_name = _newest_package()
            wanted = file_name.removesuffix(".deb")
            if wanted not in made:
                _make_kernel(name, kernels / wanted)
                for old in made.values():
                    shutil.rmtree(old)
            return kernels / wanted
        except UnavailableError:
            if made:
                return next(iter(made.values()))
            raise


def _make_kernel(package: str, folder: Path) -> None:
    scratch = folder.with_name(f".new-{folder.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        _download(package, scratch)
        _run(["dpkg-deb", "-x", str(next(scratch.glob("*.deb"))), str(scratch / "all")], scratch)
        _pick(scratch / "all", scratch / "picked")
        (scratch / "picked").rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _newest_package() -> tuple[str, str]:
    """The kernel's package that the meta-package names now, and the name of its file."""
    if not shutil.which("apt-get"):
        raise UnavailableError("the kernel comes from Debian's packages, and there is no apt-get here")
    shown = _output(["apt-cache", "show", "--no-all-versions", META_PACKAGE])
    if match := re.search(r"^Depends:.*?\b(linux-image-\d[\w.+-]*)", shown, re.MULTILINE):
        uri = _output(["apt-get", "download", "--print-uris", match[1]]).split()
        if len(uri) >= 2:
            return match[1], uri[1]
    raise UnavailableError(f"apt knows no package {META_PACKAGE}; `apt-get update` fetches its lists")


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout


def _download(package: str, folder: Path) -> None:
    options = ["APT::Sandbox::User=root", "Acquire::Retries=1", "Acquire::http::Timeout=30"]
    _run(["apt-get", *(f"-o{option}" for option in options), "download", package], folder)


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=DOWNLOAD_DEADLINE_S
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"`{shlex.join(command)}` takes more than {error.timeout:g} s") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing said"]
        raise UnavailableError(f"`{shlex.join(command)}` failed: {said[-1]}")


def _pick(package: Path, folder: Path) -> None:
    """Copy the kernel and the wanted modules with those that they depend on, in the order of loading."""
    (root,) = (package / "lib" / "modules").iterdir()
    available = {_module_name(path): path for path in root.rglob("*.ko*")}
    built_in = {_module_name(Path(line)) for line in (root / "modules.builtin").read_text().split()}
    order: list[Path] = []

    def add(name: str) -> None:
        if name in built_in:
            return
        if name not in available:
            raise UnavailableError(f"the kernel in {package.parent.name} has no module {name}")
        if (path := available[name]) not in order:
            for dependency in _dependencies(path):
                add(dependency)
            order.append(path)

    for name in MODULES:
        add(_module_name(Path(name)))
    (folder / "modules").mkdir(parents=True)
    (kernel,) = (package / "boot").glob("vmlinuz-*")
    shutil.copyfile(kernel, folder / "vmlinuz")
    for path in order:
        (folder / "modules" / path.name.removesuffix(".xz")).write_bytes(_content(path))
    lines = [f"/modules/{path.name.removesuffix('.xz')}\n" for path in order]
    (folder / "order").write_text("".join(lines))


def _module_name(path: Path) -> str:
    return path.name.split(".")[0].replace("-", "_")


def _content(path: Path) -> bytes:
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def _dependencies(path: Path) -> list[str]:
    match = re.search(rb"\0depends=([^\0]*)\0", _content(path))
    return [name.replace("-", "_") for name in match[1].decode().split(",") if name] if match else []


# --- running it ---------------------------------------------------------------------


def make_initramfs(kernel: Path, busybox: str, share: Path) -> Path:
    """The guest's first files, packed."""
    folder = share / "initramfs"
    for name in ("bin", "proc", "sys", "dev", "host", "layer", "new_root", "modules"):
        (folder / name).mkdir(parents=True)
    shutil.copy(busybox, folder / "bin" / "busybox")
    (folder / "bin" / "sh").symlink_to("busybox")
    shutil.copy(Path(__file__).parent / "init.sh", folder / "init")
    (folder / "init").chmod(0o755)
    for module in (kernel / "modules").iterdir():
        shutil.copy(module, folder / "modules")
    shutil.copy(kernel / "order", folder / "modules" / "order")
    packed = share / "initramfs.cpio"
    names = "\n".join(sorted(str(path.relative_to(folder)) for path in folder.rglob("*")))
    with packed.open("wb") as output:
        subprocess.run(
            [busybox, "cpio", "-o", "-H", "newc"],
            cwd=folder,
            input=names.encode(),
            stdout=output,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )
    shutil.rmtree(folder)
    return packed


def write_job(command: list[str], share: Path) -> None:
    """What the guest runs, and how it tells the end."""
    exports = "".join(
        f"export {name}={shlex.quote(os.environ[name])}\n" for name in _ENVIRONMENT if name in os.environ
    )
    (share / "job.sh").write_text(
        f"""{exports}cd {shlex.quote(os.getcwd())}
/lib/systemd/systemd-udevd --daemon
{shlex.join(command)} </dev/null >/run/share/output.log 2>&1
echo $? >/run/share/status
sync
# The first process must not end before the machine does.
echo o >/proc/sysrq-trigger
exec sleep 60
"""
    )


def boot(tools: dict[str, str], kernel: Path, initramfs: Path, share: Path) -> None:
    """Run QEMU until the guest has switched itself off; killed at the deadline, and with this process."""
    command = [
        tools["setpriv"], "--pdeathsig", "KILL",
        tools["qemu-system-x86_64"], "-accel", "tcg", "-icount", "shift=0", "-cpu", "max",
        "-m", str(MEMORY_MIB),
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none",
        "-serial", f"file:{share / 'console.log'}",
        "-kernel", str(kernel / "vmlinuz"), "-initrd", str(initramfs),
        "-append", "console=ttyS0 quiet panic=-1 mitigations=off no5lvl random.trust_cpu=on",
        "-fsdev", "local,id=root,path=/,readonly=on,security_model=none,multidevs=remap",
        "-device", "virtio-9p-pci,fsdev=root,mount_tag=root",
        "-fsdev", f"local,id=share,path={share},security_model=none",
        "-device", "virtio-9p-pci,fsdev=share,mount_tag=share",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        process.wait(DEADLINE_S)
    except subprocess.TimeoutExpired:
        print(f"the guest was stopped after {DEADLINE_S} s", file=sys.stderr)
    finally:
        process.kill()
        process.wait()


def run(command: list[str], share: Path | None) -> int:
    """See the module's description; ``share`` None only checks."""
    try:
        tools = find_tools()
        kernel = ensure_kernel(cache_directory())
        check_memory()
        if share is None:
            return 0
        with (kernel / ".running").open("w") as lock:
            # One at a time: two emulated machines would each take twice as long.
            fcntl.flock(lock, fcntl.LOCK_EX)
            initramfs = make_initramfs(kernel, tools["busybox"], share)
            write_job(command, share)
            began = time.monotonic()
            boot(tools, kernel, initramfs, share)
            print(f"the guest ran for {time.monotonic() - began:.0f} s", file=sys.stderr)
    except UnavailableError as error:
        print(error, file=sys.stderr)
        return UNAVAILABLE
    try:
        return int((share / "status").read_text())
    except (OSError, ValueError):
        console = (
            (share / "console.log").read_text(errors="replace") if (share / "console.log").exists() else ""
        )
        print(f"the guest did not end its job; its console ends with:\n{console[-3000:]}", file=sys.stderr)
        return BROKEN


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments == ["--check"]:
        sys.exit(run([], None))
    if len(arguments) < 3 or arguments[1] != "--":
        sys.exit(f"usage: {sys.argv[0]} SHARE -- COMMAND...")
    folder = Path(arguments[0]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    sys.exit(run(arguments[2:], folder))
