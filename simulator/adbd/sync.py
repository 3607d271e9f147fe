"""The ``sync:`` service: stat, list, push and pull (AOSP ``file_sync_protocol.h``)."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from typing import Final

from mobifarm.simulator.adbd.root import PhoneRoot
from mobifarm.simulator.adbd.stream import Stream

DATA_MAX: Final = 64 * 1024
PATH_MAX: Final = 1024

_REQUEST = struct.Struct("<4sI")
_STAT_V1 = struct.Struct("<4sIII")
_STAT_V2_FIELDS = "IQQIIIIQqqq"
_STAT_V2 = struct.Struct("<4s" + _STAT_V2_FIELDS)
_ENTRY_V1 = struct.Struct("<4sIIII")
_ENTRY_V2 = struct.Struct("<4s" + _STAT_V2_FIELDS + "I")
_SETUP = struct.Struct("<4sII")
_WORD: Final = 0xFFFFFFFF


class SyncError(Exception):
    """The host does not speak the sync protocol; the service ends."""


class _Reader:
    """Exact reads from a stream of packets."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._rest = memoryview(b"")

    async def some(self, limit: int) -> memoryview:
        """Between 1 and ``limit`` bytes, not copied."""
        while not self._rest:
            self._rest = memoryview(await self._stream.read())
        part, self._rest = self._rest[:limit], self._rest[limit:]
        return part

    async def exactly(self, size: int) -> bytes:
        parts: list[memoryview] = []
        while size:
            part = await self.some(size)
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


async def serve_sync(stream: Stream, root: PhoneRoot) -> None:
    """Answer sync requests until the host quits. Raises StreamClosedError where it goes away."""
    stream.accept()
    session = _Session(stream, root)
    with contextlib.suppress(SyncError):
        while await session.answer_one():
            pass
    stream.close()


class _Session:
    def __init__(self, stream: Stream, root: PhoneRoot) -> None:
        self._stream = stream
        self._reader = _Reader(stream)
        self._root = root

    async def answer_one(self) -> bool:
        """Serve one request; False after QUIT."""
        kind, length = _REQUEST.unpack(await self._reader.exactly(_REQUEST.size))
        if kind == b"QUIT":
            return False
        if length > PATH_MAX:
            await self._fail("path too long")
            raise SyncError
        name = os.fsdecode(await self._reader.exactly(length))
        if kind == b"STAT":
            await self._stream.write(_STAT_V1.pack(kind, *_stat_v1(self._root.resolve(name))))
        elif kind in (b"STA2", b"LST2"):
            fields = _stat_v2(self._root.resolve(name), follow=kind == b"STA2")
            await self._stream.write(_STAT_V2.pack(kind, *fields))
        elif kind in (b"LIST", b"LIS2"):
            await self._list(self._root.resolve(name), second_version=kind == b"LIS2")
        elif kind == b"SEND":
            path, _, mode = name.rpartition(",")
            if not mode.isdecimal():
                await self._fail("missing , in ID_SEND_V1")
                raise SyncError
            await self._receive_file(self._root.resolve(path), int(mode))
        elif kind == b"SND2":
            _, mode_bits, flags = _SETUP.unpack(await self._reader.exactly(_SETUP.size))
            await self._refuse_flags(flags)
            await self._receive_file(self._root.resolve(name), mode_bits)
        elif kind == b"RECV":
            await self._send_file(self._root.resolve(name))
        elif kind == b"RCV2":
            _, flags = _REQUEST.unpack(await self._reader.exactly(_REQUEST.size))
            await self._refuse_flags(flags)
            await self._send_file(self._root.resolve(name))
        else:
            await self._fail(f"unknown command {kind!r}")
            raise SyncError
        return True

    async def _fail(self, message: str) -> None:
        data = message.encode("utf-8", "surrogateescape")
        await self._stream.write(_REQUEST.pack(b"FAIL", len(data)) + data)

    async def _refuse_flags(self, flags: int) -> None:
        if flags:
            await self._fail(f"unsupported flags {flags:#x}: this phone offers no compression")
            raise SyncError

    async def _list(self, path: str, *, second_version: bool) -> None:
        # A folder that cannot be read is an empty one, as with adbd.
        names: list[str] = []
        with contextlib.suppress(OSError):
            names = [".", "..", *sorted(os.listdir(path))]
        reply = bytearray()
        for name in names:
            raw = os.fsencode(name)
            full = os.path.join(path, name)
            if second_version:
                reply += _ENTRY_V2.pack(b"DNT2", *_stat_v2(full, follow=False), len(raw)) + raw
            else:
                reply += _ENTRY_V1.pack(b"DENT", *_stat_v1(full), len(raw)) + raw
        entry = _ENTRY_V2 if second_version else _ENTRY_V1
        reply += b"DONE" + bytes(entry.size - 4)
        await self._stream.write(reply)

    async def _receive_file(self, path: str, mode: int) -> None:
        """Push. After a failure the rest is still read: the host sends all before it looks."""
        failure: OSError | None = None
        target = -1
        link = bytearray()
        if not stat.S_ISLNK(mode):
            try:
                target = _create(path)
            except OSError as error:
                failure = error
        try:
            while True:
                kind, value = _REQUEST.unpack(await self._reader.exactly(_REQUEST.size))
                if kind == b"DONE":
                    break
                if kind != b"DATA" or value > DATA_MAX:
                    await self._fail("invalid data message")
                    raise SyncError
                while value:
                    part = await self._reader.some(value)
                    value -= len(part)
                    if failure is not None:
                        continue
                    if target < 0:
                        link += part[:PATH_MAX]
                        continue
                    try:
                        _write_all(target, part)
                    except OSError as error:
                        failure = error
            if failure is None:
                try:
                    _complete(path, target, bytes(link), mode, modified_s=value)
                except OSError as error:
                    failure = error
        finally:
            if target >= 0:
                os.close(target)
        if failure is not None:
            await self._fail(f"couldn't create file: {os.strerror(failure.errno or errno.EIO)}")
        else:
            await self._stream.write(_REQUEST.pack(b"OKAY", 0))

    async def _send_file(self, path: str) -> None:
        """Pull: DATA messages of 64 KiB, as many in a packet as fit."""
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            await self._fail(f"open failed: {os.strerror(error.errno or errno.EIO)}")
            return
        frame_size = _REQUEST.size + DATA_MAX
        capacity = max(1, self._stream.max_payload // frame_size) * frame_size
        try:
            # A fresh buffer each time: the link may still hold the last one.
            while used := _read_frames(file, buffer := bytearray(capacity)):
                await self._stream.write(memoryview(buffer)[:used])
        except OSError as error:
            await self._fail(f"read failed: {os.strerror(error.errno or errno.EIO)}")
            return
        finally:
            os.close(file)
        await self._stream.write(_REQUEST.pack(b"DONE", 0))


def _read_frames(descriptor: int, buffer: bytearray) -> int:
    """Fill ``buffer`` with DATA messages; the number of bytes used, 0 at the end of the file."""
    view = memoryview(buffer)
    used = 0
    while len(view) - used > _REQUEST.size:
        size = os.readv(descriptor, [view[used + _REQUEST.size : used + _REQUEST.size + DATA_MAX]])
        if size == 0:
            break
        _REQUEST.pack_into(view, used, b"DATA", size)
        used += _REQUEST.size + size
    return used


def _stat_v1(path: str) -> tuple[int, int, int]:
    try:
        info = os.lstat(path)
    except (OSError, ValueError):
        return (0, 0, 0)
    return (info.st_mode, info.st_size & _WORD, int(info.st_mtime) & _WORD)


def _stat_v2(path: str, *, follow: bool) -> tuple[int, ...]:
    try:
        info = os.stat(path, follow_symlinks=follow)
    except ValueError:
        return (errno.EINVAL,) + 10 * (0,)
    except OSError as error:
        return (error.errno or errno.EIO,) + 10 * (0,)
    return (
        0,
        info.st_dev,
        info.st_ino,
        info.st_mode,
        info.st_nlink & _WORD,
        info.st_uid,
        info.st_gid,
        info.st_size,
        int(info.st_atime),
        int(info.st_mtime),
        int(info.st_ctime),
    )


def _remove_old(path: str) -> None:
    """Unlink a file or symbolic link: the old file may be running or shared."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)


def _create(path: str) -> int:
    _remove_old(path)
    os.makedirs(os.path.dirname(path), mode=0o775, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _complete(path: str, target: int, link: bytes, mode: int, modified_s: int) -> None:
    if target < 0:
        _remove_old(path)
        os.makedirs(os.path.dirname(path), mode=0o775, exist_ok=True)
        os.symlink(link.rstrip(b"\0"), os.fsencode(path))
        return
    # adbd gives group and others what the owner has.
    owner = mode & 0o700
    os.fchmod(target, owner | owner >> 3 | owner >> 6)
    os.utime(target, (modified_s, modified_s))
