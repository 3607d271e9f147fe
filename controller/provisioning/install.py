"""Files that the agent needs on the phone: its runtime and its model bundles.

Both are named by their hash and appear under that name only when complete, so whatever is there can be used
and whatever was interrupted is not seen.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mobifarm.controller.errors import DeviceError, UserError
from mobifarm.controller.provisioning.packing.archive import Archive
from mobifarm.controller.provisioning.phone import (
    check_space,
    checksums_below,
    file_checksum,
    free_bytes,
    run,
)
from mobifarm.controller.provisioning.runtime import Runtime
from mobifarm.controller.transport.interface import DeviceTransport

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and the bytes in all."""

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_RESERVE_BYTES: Final = 64 << 20
# A push changes something on the phone all the time, but for the checksums at its end.
_TORN_MIN: Final = 10


@dataclass(frozen=True, slots=True)
class Installed:
    """What an installation did; ``removed``: hashes of the bundles that had to make room."""

    pushed_bytes: int
    skipped_bytes: int
    removed: tuple[str, ...] = ()


def runtime_folder(home: str, archive: Archive) -> str:
    """Where an archive of the runtime is unpacked on the phone."""
    return f"{home}/runtime/{archive.hash}"


def install_runtime(
    transport: DeviceTransport, home: str, runtime: Runtime, progress: Progress | None = None
) -> Installed:
    """Push and unpack the archives of ``runtime`` that the phone does not have.

    Raises:
        DeviceError: no space, the archive arrived damaged, or the phone cannot unpack it.
        LinkLost: the link went away; what was complete stays.

    Bundles that nothing holds make room, see :func:`install_bundle`.
    """
    archives = [runtime.python, runtime.agent]
    missing = [archive for archive in archives if not _is_complete(transport, runtime_folder(home, archive))]
    total = sum(archive.size_bytes for archive in archives)
    to_push = sum(archive.size_bytes for archive in missing)
    removed: tuple[str, ...] = ()
    if missing:
        # An archive lies beside its files until they are unpacked.
        needed = sum(archive.size_bytes + archive.unpacked_bytes for archive in missing)
        removed = _make_room(transport, home, needed + _RESERVE_BYTES)
    done = total - to_push
    for archive in missing:
        _unpack_on_phone(transport, home, archive)
        done += archive.size_bytes
        if progress:
            progress(done, total)
    return Installed(to_push, total - to_push, removed)


def remove_other_runtimes(transport: DeviceTransport, home: str, runtime: Runtime) -> None:
    """Delete all unpacked archives but those of ``runtime``; call when no older agent runs any more."""
    _remove_others(transport, f"{home}/runtime", [runtime.python.hash, runtime.agent.hash])


def install_bundle(
    transport: DeviceTransport,
    home: str,
    bundle_dir: Path,
    bundle_hash: str,
    progress: Progress | None = None,
) -> Installed:
    """Bring a model bundle to ``home``/bundles/``bundle_hash``, pushing only files that differ there.

    Files are compared by the SHA-256 of their content on both ends, and again after the push. A bundle that
    was found whole is not read again as long as its files' sizes and times stay as they were.

    What broken pushes of other bundles left is removed. Where space lacks, other bundles make room, the least
    recently used first: those without kept edits that the agent has not loaded.

    Args:
        transport: link to the phone.
        home: the farm's folder on the phone.
        bundle_dir: the bundle's folder on this host.
        bundle_hash: SHA-256 of the bundle's manifest, hex; names the bundle on the phone.
        progress: called after each file.

    Raises:
        UserError: ``bundle_dir`` holds no bundle.
        DeviceError: no space, or a file arrived damaged.
        LinkLost: the link went away; whole files that arrived are not pushed again.
    """
    if not _HASH.fullmatch(bundle_hash):
        raise UserError(f"{bundle_hash!r} is not the hash of a model bundle")
    sources = {
        str(path.relative_to(bundle_dir)): path for path in sorted(bundle_dir.rglob("*")) if path.is_file()
    }
    if not sources:
        raise UserError(f"there is no model bundle in {bundle_dir}; build it with `mobifarm models build`")
    sizes = {name: path.stat().st_size for name, path in sources.items()}
    total = sum(sizes.values())
    report = progress or (lambda _done, _total: None)
    if _unchanged_since_verified(transport, home, bundle_hash):
        report(total, total)
        return Installed(pushed_bytes=0, skipped_bytes=total)

    wanted = {name: file_checksum(path) for name, path in sources.items()}
    folder = shlex.quote(f"{home}/bundles")
    new = f".new-{bundle_hash}"
    # Whole files of an interrupted push, or of a bundle that was damaged, are used again.
    script = (
        f"mkdir -p {folder} && cd {folder} && if test -d {bundle_hash}; "
        f"then rm -rf {new} && mv {bundle_hash} {new}; else mkdir -p {new}; fi"
    )
    run(transport, script, "make the bundle's folder")
    _remove_torn(transport, folder, new)
    there = checksums_below(transport, f"{home}/bundles/{new}")
    missing = [name for name in sources if there.get(name) != wanted[name]]
    to_push = sum(sizes[name] for name in missing)
    removed = _make_room(transport, home, to_push + _RESERVE_BYTES, bundle_hash) if missing else ()
    done = total - to_push
    report(done, total)
    for name in missing:
        transport.push(sources[name], f"{home}/bundles/{new}/{name}")
        done += sizes[name]
        report(done, total)
    if superfluous := sorted(there.keys() - wanted.keys()):
        names = " ".join(shlex.quote(f"./{name}") for name in superfluous)
        run(transport, f"cd {folder}/{new} && rm -f -- {names}", "remove files of another bundle")
    if missing and checksums_below(transport, f"{home}/bundles/{new}") != wanted:
        run(transport, f"rm -rf {folder}/{new}", "remove a damaged bundle")
        raise _damaged(transport, "model bundle")
    script = f"cd {folder} && mv {new} {bundle_hash} && {_list_files(bundle_hash)} >.verified-{bundle_hash}"
    run(transport, script, "put the bundle in its place")
    return Installed(to_push, total - to_push, removed)


def compiled_graphs(bundle_dir: Path, bundle_hash: str, soc_model: str) -> Path | None:
    """Where ``mobifarm models compile`` put the bundle's graphs for a chip; None where it did not."""
    if not _HASH.fullmatch(bundle_hash) or not soc_model.isalnum():
        return None
    folder = bundle_dir.parent / ".compiled" / bundle_hash / soc_model
    return folder if folder.is_dir() else None


def install_compiled(
    transport: DeviceTransport, home: str, folder: Path, bundle_hash: str, soc_model: str
) -> Installed:
    """Bring a bundle's graphs, compiled for the phone's chip, to where the agent looks for them.

    Files that are there already are not pushed again. Other bundles make room, see :func:`install_bundle`.

    Raises:
        UserError: the names do not fit, or the graphs were compiled for another chip.
        DeviceError: no space, or a file arrived damaged.
    """
    if not _HASH.fullmatch(bundle_hash) or not soc_model.isalnum() or folder.name != soc_model:
        raise UserError(
            f"the graphs in {folder} are not for {soc_model!r}: compile them for the phone's chip"
        )
    place = f"{home}/npu/{bundle_hash}/{soc_model}"
    run(transport, f"mkdir -p {shlex.quote(place)}", "make the folder of the compiled graphs")
    sources = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    wanted = {name: file_checksum(path) for name, path in sources.items()}
    there = checksums_below(transport, place)
    missing = [name for name in sources if there.get(name) != wanted[name]]
    sizes = {name: path.stat().st_size for name, path in sources.items()}
    to_push = sum(sizes[name] for name in missing)
    removed = _make_room(transport, home, to_push + _RESERVE_BYTES, bundle_hash) if missing else ()
    for name in missing:
        transport.push(sources[name], f"{place}/{name}")
    found = checksums_below(transport, place)
    if any(found.get(name) != wanted[name] for name in sources):
        raise _damaged(transport, "compiled graph")
    return Installed(to_push, sum(sizes.values()) - to_push, removed)


def _unchanged_since_verified(transport: DeviceTransport, home: str, bundle_hash: str) -> bool:
    script = (
        f"cd {shlex.quote(home)}/bundles && test -f .verified-{bundle_hash} && "
        f"{_list_files(bundle_hash)} | cmp -s - .verified-{bundle_hash} && "
        f"touch .verified-{bundle_hash}"  # its time is that of the bundle's last use
    )
    return transport.shell(script).exit_code == 0


def _list_files(folder: str) -> str:
    return f"find {folder} -type f -exec stat -c '%s %Y %n' {{}} + | sort"


def _remove_torn(transport: DeviceTransport, folder: str, new: str) -> None:
    """Delete what broken pushes left, but not what another farm may be pushing just now."""
    script = (
        f'cd {folder} && for torn in .new-*; do [ "$torn" = {new} ] || {{ '
        f'recent=$(find "$torn" -mmin -{_TORN_MIN}) && [ -z "$recent" ] && rm -rf -- "$torn"; }}; done; true'
    )
    run(transport, script, "remove what broken pushes left", timeout_s=120)


def _make_room(
    transport: DeviceTransport, home: str, needed_bytes: int, bundle_hash: str = ""
) -> tuple[str, ...]:
    """Have so much space, where need be in place of bundles that nothing holds; returns those it removed.

    Raises:
        DeviceError: all of them would not be enough; they stay.
    """
    removed: list[str] = []
    free = free_bytes(transport, home)
    if free < needed_bytes:
        sizes = _bundle_sizes(transport, home)
        unused = [name for name in _unused_bundles(transport, home) if name in sizes and name != bundle_hash]
        if free + sum(sizes[name] << 10 for name in unused) >= needed_bytes:
            for name in unused:
                remove_bundle(transport, home, name)
                removed.append(name)
                if free_bytes(transport, home) >= needed_bytes:
                    break
    check_space(transport, home, needed_bytes)
    return tuple(removed)


def _unused_bundles(transport: DeviceTransport, home: str) -> list[str]:
    """Hashes of the bundles without kept edits that are not loaded, the least recently used first.

    The space of a loaded one would not be free: the agent maps its files.
    """
    script = (
        f"cd {shlex.quote(home)}/bundles 2>/dev/null || exit 0; "
        "maps=/proc/$(cat ../agent/lock 2>/dev/null)/maps; "
        "ls -Atr | while read -r entry; do bundle=${entry#.verified-}; "
        '[ -e "../agent/edits/$bundle.edits" ] || grep -q "/bundles/$bundle/" "$maps" 2>/dev/null || '
        'echo "$entry"; done'
    )
    entries = run(transport, script, "look for unused model bundles").stdout.splitlines()
    order = {entry: number for number, entry in enumerate(entries)}
    bundles = [entry for entry in entries if _HASH.fullmatch(entry)]
    return sorted(bundles, key=lambda name: order.get(f".verified-{name}", -1))


def bundles_by_size(transport: DeviceTransport, home: str) -> list[str]:
    """Hashes of the model bundles on the phone, the smallest first.

    Raises:
        DeviceError: the phone does not say.
    """
    sizes = _bundle_sizes(transport, home)
    return sorted(sizes, key=lambda name: (sizes[name], name))


def _bundle_sizes(transport: DeviceTransport, home: str) -> dict[str, int]:
    """KiB of each model bundle by its hash."""
    script = f"cd {shlex.quote(home)}/bundles 2>/dev/null || exit 0; du -s -k -- * 2>/dev/null; true"
    sizes = {}
    for line in run(transport, script, "look for model bundles").stdout.splitlines():
        size, _, name = line.partition("\t")
        if _HASH.fullmatch(name) and size.isdigit():
            sizes[name] = int(size)
    return sizes


def remove_bundle(transport: DeviceTransport, home: str, bundle_hash: str) -> None:
    """Delete one model bundle from the phone, and its graphs that were compiled for the phone's chip.

    Raises:
        DeviceError: the phone refuses.
    """
    if not _HASH.fullmatch(bundle_hash):
        raise UserError(f"{bundle_hash!r} is not the hash of a model bundle")
    names = f"{bundle_hash} .verified-{bundle_hash} ../npu/{bundle_hash}"
    script = f"cd {shlex.quote(home)}/bundles && rm -rf -- {names}"
    run(transport, script, "remove a model bundle", timeout_s=120)


def _remove_others(transport: DeviceTransport, folder: str, keep: Iterable[str]) -> None:
    pattern = "|".join(keep) or "''"
    script = (
        f"cd {shlex.quote(folder)} 2>/dev/null || exit 0; for entry in * .new-* .push-* .verified-*; do "
        f'case "$entry" in {pattern}) ;; *) rm -rf -- "$entry" ;; esac; done'
    )
    run(transport, script, f"remove what is not used in {folder}", timeout_s=120)


def _is_complete(transport: DeviceTransport, folder: str) -> bool:
    return transport.shell(f"test -f {shlex.quote(folder)}/.complete").exit_code == 0


def _unpack_on_phone(transport: DeviceTransport, home: str, archive: Archive) -> None:
    pushed, new = f".push-{archive.hash}.tar.gz", f".new-{archive.hash}"
    transport.push(archive.path, f"{home}/runtime/{pushed}")
    script = f"sha256sum {shlex.quote(home)}/runtime/{pushed}"
    arrived = run(transport, script, "checksum the runtime", timeout_s=120).stdout
    if arrived.split(maxsplit=1)[:1] != [archive.hash]:
        raise _damaged(transport, "agent's runtime")
    script = (
        f"cd {shlex.quote(home)}/runtime && rm -rf {new} {archive.hash} && mkdir {new} && "
        f"tar -xzf {pushed} -C {new} && : > {new}/.complete && mv {new} {archive.hash} && rm -f {pushed}"
    )
    run(transport, script, "unpack the agent's runtime", timeout_s=300)


def _damaged(transport: DeviceTransport, what: str) -> DeviceError:
    return DeviceError(f"{transport.address}: the {what} arrived damaged; check the cable, then retry")
