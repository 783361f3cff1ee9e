# What lets a node in where a broker asks for it: a file of credentials, certificates. It owns no secret, only where it
# lies, and must never show one.

import os
import re
import ssl
from dataclasses import dataclass, field
from typing import BinaryIO

from broker.base import Misfit


@dataclass(frozen=True, slots=True)
class Access:
    """Paths of files, empty for none. They are read for each connection anew, so that they may be replaced."""

    creds: str = field(default="", repr=False)
    """A .creds file: a user's JWT and its seed."""
    tls_ca: str = ""
    """Who has signed the server's certificate; without it, whoever the system trusts."""
    tls_cert: str = ""
    """The node's own certificate, where the server asks for one, and its key."""
    tls_key: str = field(default="", repr=False)

    @property
    def tls(self) -> bool:
        return bool(self.tls_ca or self.tls_cert or self.tls_key)

    def check(self) -> None:
        """ValueError for settings that do not go together."""
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("broker: a TLS certificate and its key are given together, or neither")


NO_ACCESS = Access()
CREDS_BYTES = 64 * 1024


class Keys:
    """What is in the files of an Access. Misfit says which can't be used."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._stamps: tuple[tuple[int, int], ...] = ()
        self._context: ssl.SSLContext | None = None

    def creds(self) -> str:
        """The text of the .creds file. It is looked through here: nats-py reads one without a JWT for ever."""
        path = self.access.creds
        if not path:
            return ""
        with _opened("credentials", path) as file:
            text = file.read(CREDS_BYTES).decode("ascii", "replace")
        try:
            import nkeys  # type: ignore[import-not-found,import-untyped,unused-ignore]
        except ImportError:
            raise Misfit("NATS: a .creds file needs the package nkeys: pip install nkeys") from None
        parts = re.search(
            r"^-+BEGIN NATS USER JWT-+\n[\w.-]+\n-+END[^\n]*\n.*^-+BEGIN USER NKEY SEED-+\n(S[A-Z2-7]+)\n",
            text := text.replace("\r", ""),
            re.DOTALL | re.MULTILINE,
        )
        try:
            nkeys.from_seed(bytearray((parts[1] if parts else "").encode())).wipe()
        except Exception:
            raise Misfit(f"NATS: credentials file {path} holds no user's JWT and seed") from None
        return text

    def tls(self, wanted: bool) -> ssl.SSLContext | None:
        """None where none is wanted, by the settings either. Made again when a file has changed: making one takes
        milliseconds, and a node that looks for its server asks often."""
        access = self.access
        if not (wanted or access.tls):
            return None
        files = {"TLS CA": access.tls_ca, "TLS certificate": access.tls_cert, "TLS key": access.tls_key}
        stamps = tuple(_stamp(what, path) for what, path in files.items() if path)
        if self._context is None or stamps != self._stamps:
            self._context, self._stamps = _context(access), stamps
        return self._context


def _opened(what: str, path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as failed:
        raise Misfit(f"NATS: {what} file {path}: {failed.strerror or failed}") from None


def _stamp(what: str, path: str) -> tuple[int, int]:
    """What shows that it has changed."""
    with _opened(what, path) as file:
        found = os.fstat(file.fileno())
    return found.st_mtime_ns, found.st_ino


def _context(access: Access) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=access.tls_ca or None)
    except (OSError, ValueError):  # ssl's errors are OSErrors
        raise Misfit(f"NATS: TLS CA file {access.tls_ca} holds no certificate in PEM") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if access.tls_cert:
        try:
            # A key with a passphrase would ask for it on the terminal: it is refused instead.
            context.load_cert_chain(access.tls_cert, access.tls_key, password=lambda: b"")
        except (OSError, ValueError):
            raise Misfit(f"NATS: TLS certificate {access.tls_cert} and its key do not go together") from None
    return context
