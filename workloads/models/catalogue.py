"""Which model bundles are on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mobifarm.agent.editor.bundle_files import read_manifest
from mobifarm.agent.errors import BundleError, BundleNotFound
from mobifarm.workloads.errors import WorkloadInputError
from mobifarm.workloads.paths import bundles_directory


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
    path = Path(name_or_path).expanduser()
    if not path.is_absolute():
        path = bundles_directory() / name_or_path
    try:
        _, bundle_hash = read_manifest(path)
    except BundleNotFound:
        raise WorkloadInputError(
            f"there is no model bundle {name_or_path!r}: build it with `mobifarm models build "
            f"{name_or_path}`; `mobifarm models list` shows those that are there"
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
