"""A model bundle on disk: its manifest, and whether every file is what the manifest says."""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobifarm.agent.editor.manifest import (
    MANIFEST_NAME,
    Manifest,
    StoredTensor,
    manifest_hash,
    parse_manifest,
)
from mobifarm.agent.errors import BundleError, BundleNotFound

_HASH_CHUNK_BYTES = 1 << 20


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """The manifest of the bundle in the folder ``path`` and the bundle's hash.

    Raises:
        BundleNotFound: there is no manifest.
        BundleError: it cannot be read by this version.
    """
    try:
        raw = (path / MANIFEST_NAME).read_bytes()
    except FileNotFoundError as error:
        raise BundleNotFound(f"no model bundle in {path}: build or push it first") from error
    except OSError as error:
        raise BundleError(f"{MANIFEST_NAME} of {path.name} cannot be read: {error.strerror}") from error
    return parse_manifest(raw), manifest_hash(raw)


def verify_bundle(path: Path, expected_hash: str | None = None) -> int:
    """Check every file of the bundle in ``path`` against its manifest.

    Returns:
        Bytes of all files but the manifest.

    Raises:
        BundleNotFound: there is no manifest.
        BundleError: the manifest has another hash than ``expected_hash``, or a file is missing or damaged.
    """
    manifest, found_hash = read_manifest(path)
    if expected_hash is not None and found_hash != expected_hash:
        raise BundleError(
            f"the bundle in {path.name} has hash {found_hash}, not {expected_hash}: push it again"
        )
    for name, file in sorted(manifest.files.items()):
        try:
            size = (path / name).stat().st_size
            digest = _file_hash(path / name) if size == file.size else ""
        except OSError as error:
            reason = error.strerror
            raise BundleError(
                f"{name} of bundle {manifest.name} cannot be read ({reason}): push it again"
            ) from error
        if size != file.size:
            raise BundleError(
                f"{name} of bundle {manifest.name} has {size} bytes instead of {file.size}: push it again"
            )
        if digest != file.sha256:
            raise BundleError(f"{name} of bundle {manifest.name} is damaged (sha256 differs): push it again")
    return manifest.size_bytes


class MappedTensors:
    """The tensors in the files of a bundle's folder, each file mapped once, read-only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._maps: dict[str, mmap.mmap] = {}

    def tensor(self, stored: StoredTensor) -> NDArray[Any]:
        """A view of the map, valid as long as it is held."""
        if stored.file not in self._maps:
            with (self._folder / stored.file).open("rb") as stream:
                self._maps[stored.file] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        count = int(np.prod(stored.shape))
        values = np.frombuffer(self._maps[stored.file], stored.dtype, count, stored.offset)
        return values.reshape(stored.shape)

    def release(self, file: str | None = None) -> None:
        """Give the resident pages of a file, or of all, back; who reads the tensors again gets them again."""
        for mapped in self._maps.values() if file is None else [self._maps[file]]:
            mapped.madvise(mmap.MADV_DONTNEED)


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
