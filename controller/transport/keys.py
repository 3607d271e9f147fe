"""The farm's ADB key: one RSA key per farm, so that each phone asks its owner once."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from adb_shell.auth.keygen import keygen, write_public_keyfile
from adb_shell.auth.sign_cryptography import CryptographySigner

from mobifarm.controller.errors import UserError


class FarmKey:
    """A :class:`~mobifarm.controller.transport.handshake.Signer` over a key file."""

    def __init__(self, path: Path) -> None:
        """Load the key at ``path``, the public half beside it as ``<path>.pub``.

        Raises:
            UserError: the file is no private RSA key, or others may read it.
        """
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise UserError(f"the ADB key {path} can be read by other users; run: chmod 600 {path}")
        try:
            public = path.with_name(path.name + ".pub")
            if not public.exists():
                # Whole or not at all: another thread may be reading it while it is written.
                with tempfile.TemporaryDirectory(dir=path.parent, prefix=".adbkey-") as scratch:
                    fresh = Path(scratch) / "key.pub"
                    write_public_keyfile(str(path), str(fresh))
                    fresh.replace(public)
            self._signer = CryptographySigner(str(path))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path} is not an ADB key ({error}); move it away and a new one is made"
            ) from error

    def sign(self, token: bytes) -> bytes:
        return bytes(self._signer.Sign(token))

    def public_key(self) -> bytes:
        return bytes(self._signer.GetPublicKey())


def ensure_key(path: Path) -> FarmKey:
    """Load the key at ``path``; make it (mode 0600, in a directory of mode 0700) where there is none.

    Several processes may do this at once: all end up with the same key.

    Raises:
        UserError: what is there cannot be used.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".adbkey-") as scratch:
            fresh = Path(scratch) / "key"
            keygen(str(fresh))
            fresh.chmod(0o600)
            # A link, unlike a rename, never replaces the key of a process that was faster.
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
    return FarmKey(path)
