"""Which model bundles are on this machine, and of which files they consist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mobifarm.agent.editor.bundle_files import read_manifest, verify_bundle
from mobifarm.agent.editor.manifest import MANIFEST_NAME
from mobifarm.agent.errors import BundleError, BundleNotFound
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.models.names import build_command
from mobifarm.workloads.paths import bundles_directory, expanded

MANIFEST: Final = MANIFEST_NAME  # the file that names all others of a bundle


@dataclass(frozen=True, slots=True)
class StoredBundle:
    """A bundle's folder and its hash (sha256 of the manifest, hex)."""

    path: Path
    hash: str


def bundle_named(name_or_path: str) -> StoredBundle:
    """The bundle of this name in the user's cache, or in this folder.

    Raises:
        WorkloadInputError: there is none, or it cannot be used.
    """
    path = expanded(name_or_path)
    if not path.is_absolute():
        path = bundles_directory() / name_or_path
    try:
        _, bundle_hash = read_manifest(path)
    except BundleNotFound:
        raise WorkloadInputError(
            f"there is no model bundle {name_or_path!r}: build it with `{build_command(name_or_path)}`; "
            "`mobifarm models list` shows those that are there"
        ) from None
    except BundleError as error:
        raise WorkloadInputError(
            f"the model bundle {name_or_path!r} cannot be used: {error}, with `mobifarm models build`"
        ) from None
    return StoredBundle(path.resolve(), bundle_hash)


def find_bundle(name_or_path: str, bundle_hash: str) -> Path:
    """The folder of exactly this bundle.

    Raises:
        WorkloadInputError: it is not there, or was built anew since.
    """
    found = bundle_named(name_or_path)
    if found.hash != bundle_hash:
        raise WorkloadInputError(
            f"the model bundle {name_or_path} was built anew since the job was submitted: submit it again"
        )
    return found.path


def bundle_files(folder: Path, bundle_hash: str) -> Mapping[str, int]:
    """The files of exactly this bundle by its manifest in ``folder``: name → bytes; without the manifest.

    Raises:
        WorkloadInputError: the manifest there is not that of this bundle, or cannot be read.
    """
    try:
        manifest, found_hash = read_manifest(folder)
    except (BundleError, BundleNotFound) as error:
        raise WorkloadInputError(str(error)) from None
    if found_hash != bundle_hash:
        raise WorkloadInputError(f"{folder.name} holds the bundle {found_hash}, not {bundle_hash}")
    return {name: file.size for name, file in sorted(manifest.files.items())}


def verify_copy(folder: Path, bundle_hash: str) -> None:
    """Check every byte of the bundle in ``folder``.

    Raises:
        WorkloadInputError: it is another one, or a file is missing or damaged.
    """
    try:
        verify_bundle(folder, bundle_hash)
    except (BundleError, BundleNotFound) as error:
        raise WorkloadInputError(str(error)) from None
