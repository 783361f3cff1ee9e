# What a server asks for, made for one test: certificates by openssl, and accounts as an operator signs them. It must
# never be used for anything but a test: the keys lie beside the certificates.

import base64
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any


def certificates(folder: Path) -> Path:
    """ca.pem, and server, client and stranger .pem and .key; the stranger is signed by nobody else."""
    folder.mkdir(parents=True, exist_ok=True)

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    def key(name: str) -> tuple[str, ...]:
        return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"

    openssl("req", "-x509", *key("ca"), "-out", "ca.pem", "-days", "2", "-subj", "/CN=test CA")
    openssl("req", "-x509", *key("stranger"), "-out", "stranger.pem", "-days", "2", "-subj", "/CN=stranger")
    for name in ("server", "client"):
        (folder / f"{name}.ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        openssl("req", "-new", *key(name), "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    return folder


def tls_settings(folder: Path, more: str = "") -> str:
    files = f'cert_file: "{folder}/server.pem", key_file: "{folder}/server.key", ca_file: "{folder}/ca.pem"'
    return f"tls {{ {files}, {more} }}\n"


class Operator:
    """An operator with a system account, and one account that may do anything; `settings` are its server's."""

    def __init__(self) -> None:
        self._seed, self._key, own = _pair("operator")
        system = self._account("SYS", {})
        stored = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
        self._account_seed, self._account_key, _ = account = _pair("account")
        edge = self._account("EDGE", stored, account)
        self.settings = "\n".join((
            f"operator: {_token(self._key, own, own, 'operator', 'O', {'system_account': system[0]})}",
            f"system_account: {system[0]}",
            "resolver: MEMORY",
            f"resolver_preload: {{ {system[0]}: {system[1]}, {edge[0]}: {edge[1]} }}",
        ))  # fmt: skip

    def _account(self, name: str, limits: dict[str, int], pair: Any = None) -> tuple[str, str]:
        _, _, public = pair or _pair("account")
        free = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
        claims = {"limits": {**free, "wildcards": True, **limits}}
        return public, _token(self._key, self._public(), public, name=name, kind="account", claims=claims)

    def _public(self) -> str:
        return str(self._key.public_key.decode())

    def creds(self, path: Path) -> Path:
        """A new user's file."""
        seed, _, public = _pair("user")
        claims = {"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}
        issuer = self._account_key.public_key.decode()
        token = _token(self._account_key, issuer, public, "user", "U", claims)
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n------END USER NKEY SEED------\n"
        )
        return path


def _pair(kind: str) -> tuple[bytes, Any, str]:
    """Seed, keys and the public key as text."""
    import nkeys

    seed = nkeys.encode_seed(os.urandom(32), getattr(nkeys, f"PREFIX_BYTE_{kind.upper()}"))
    pair = nkeys.from_seed(bytearray(seed))
    return bytes(seed), pair, pair.public_key.decode()


def _token(pair: Any, issuer: str, subject: str, kind: str, name: str, claims: dict[str, Any]) -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    body = {"jti": os.urandom(8).hex(), "iat": int(time.time()), "iss": issuer, "name": name, "sub": subject}
    body["nats"] = {**claims, "type": kind, "version": 2}
    text = f"{part(json.dumps({'typ': 'JWT', 'alg': 'ed25519-nkey'}).encode())}.{part(json.dumps(body).encode())}"
    return f"{text}.{part(pair.sign(text.encode()))}"
