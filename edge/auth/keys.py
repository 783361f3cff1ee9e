# The keys that tokens are verified with: a secret, PEM files, or what a JWKS lists. Each key is good for one algorithm,
# which its own kind decides and no token can talk it out of: that is the whole defence against a public key taken for a
# secret. It must never take a key of a kind that is not named here, nor tell one in an error.
import base64
import binascii
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from jwt import PyJWK
from jwt.exceptions import PyJWTError

KEY_BYTES = 32  # RFC 7518 3.2: an HS256 key no shorter than its hash
PUBLIC = frozenset({"RS256", "ES256", "EdDSA"})
RSA_BITS = 2048  # RFC 7518 3.3
RSA_BITS_MOST = 8192  # past it a verification takes long enough to be felt
TRIES = 4  # keys that a token without a `kid` is tried against
JWKS_KEYS = 64

Private = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey


class Key(NamedTuple):
    """`material` is what PyJWT takes: bytes of a secret, or a public key."""

    algorithm: str
    material: Any
    kid: str | None = None


class Header(msgspec.Struct):
    """What is read of a token before a key is chosen; all of it is checked again with the key."""

    alg: str
    kid: str | None = None


class Keys:
    """Some keys, which do not change. Another set is another `Keys`."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.all = tuple(keys)
        self.algorithms = sorted({key.algorithm for key in self.all})
        self._kids: dict[str, list[Key]] = {}
        for key in self.all:
            if key.kid is not None:
                self._kids.setdefault(key.kid, []).append(key)

    def knows(self, kid: str | None) -> bool:
        return kid in self._kids

    def fitting(self, header: Header) -> Sequence[Key]:
        """The keys that a token with this header may have been signed with. A `kid` that is known stands for its own
        keys alone; one that is not may be that of a key whose name nobody has told us."""
        if header.kid is not None and header.kid in self._kids:
            return [key for key in self._kids[header.kid] if key.algorithm == header.alg]
        fitting = [key for key in self.all if key.algorithm == header.alg and (key.kid is None or header.kid is None)]
        return fitting[:TRIES]


def header_of(token: str) -> Header:
    """ValueError where it is not one."""
    first = token.partition(".")[0]
    try:
        raw = base64.b64decode(first + "=" * (-len(first) % 4), "-_", validate=True)
        return msgspec.json.decode(raw, type=Header)
    except (binascii.Error, msgspec.DecodeError, UnicodeError) as bad:
        raise ValueError("not a header") from bad


def secret(key: str | bytes) -> Key:
    raw = key.encode() if isinstance(key, str) else key
    if len(raw) < KEY_BYTES:
        raise ValueError(f"the token key has {len(raw)} bytes, and {KEY_BYTES} is the least")
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(raw)
    except PyJWTError:
        raise ValueError("the token key is a public key or a certificate, which is no secret") from None
    return Key("HS256", raw)


def algorithm_of(key: object) -> str:
    """The one algorithm that a key of this kind is good for; ValueError where it is no kind that is taken."""
    if isinstance(key, RSAPublicKey | RSAPrivateKey):
        if not RSA_BITS <= key.key_size <= RSA_BITS_MOST:
            raise ValueError(f"an RSA key of {key.key_size} bits; {RSA_BITS} to {RSA_BITS_MOST} are wanted")
        return "RS256"
    if isinstance(key, EllipticCurvePublicKey | EllipticCurvePrivateKey):
        if not isinstance(key.curve, SECP256R1):
            raise ValueError(f"an EC key on the curve {key.curve.name}; P-256 is wanted")
        return "ES256"
    if isinstance(key, Ed25519PublicKey | Ed25519PrivateKey):
        return "EdDSA"
    raise ValueError("not an RSA, P-256 or Ed25519 key")


def public_key(pem: bytes, kid: str | None = None) -> Key:
    """A key out of a PEM file; ValueError says what is wrong with it."""
    if b"PRIVATE KEY" in pem:
        raise ValueError("a private key; its public half is wanted")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("not a public key in PEM") from None
    return Key(algorithm_of(key), key, kid)


def private_key(pem: bytes, name: str = "the key") -> Private:
    """What `edge token` signs with; ValueError says what is wrong with it."""
    try:
        key = load_pem_private_key(pem, None)
        algorithm_of(key)
    except TypeError:
        raise ValueError(f"{name}: it is encrypted, and no password is asked for") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{name}: not a private key in PEM of RSA, P-256 or Ed25519") from None
    assert isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey)
    return key


def read_keys(files: Iterable[str]) -> list[Key]:
    """The keys of files, each named `FILE` or `KID=FILE`. ValueError names the one at fault."""
    keys = []
    for named in files:
        kid, mark, file = named.partition("=") if "=" in named else ("", "", named)
        if mark and not kid:
            raise ValueError(f"{named}: KID=FILE, and the KID is empty")
        try:
            keys.append(public_key(Path(file).read_bytes(), kid or None))
        except OSError as error:
            raise ValueError(f"{file}: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    return keys


class _Jwk(msgspec.Struct):
    kty: str
    kid: str | None = None
    use: str | None = None
    alg: str | None = None
    key_ops: list[str] | None = None


class _Jwks(msgspec.Struct):
    keys: list[msgspec.Raw]


def jwks_keys(body: bytes) -> list[Key]:
    """The keys of a JWKS that tokens may be signed with (RFC 7517). Others are passed over, as section 5 has it; a set
    without any is a ValueError."""
    try:
        listed = msgspec.json.decode(body, type=_Jwks).keys
    except (msgspec.DecodeError, UnicodeError):
        raise ValueError("it is no JWKS") from None
    if len(listed) > JWKS_KEYS:
        raise ValueError(f"it has more than {JWKS_KEYS} keys")
    keys = [key for raw in listed if (key := _of_jwk(raw)) is not None]
    if not keys:
        raise ValueError("it has no key that tokens can be verified with")
    return keys


def _of_jwk(raw: msgspec.Raw) -> Key | None:
    try:
        about = msgspec.json.decode(raw, type=_Jwk)
        if about.kty not in ("RSA", "EC", "OKP") or about.use not in (None, "sig"):
            return None  # "oct" above all: a secret that anybody can fetch is none
        if about.key_ops is not None and "verify" not in about.key_ops:
            return None
        public = {name: value for name, value in msgspec.json.decode(raw).items() if name not in ("d", "alg")}
        material = PyJWK(public).key
        algorithm = algorithm_of(material)
    except (msgspec.DecodeError, UnicodeError, PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return Key(algorithm, material, about.kid) if about.alg in (None, algorithm) else None
