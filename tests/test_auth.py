# Tokens: the right one is let in, and every other kind is refused with words that say what is wrong with it.

import asyncio
import base64
import hmac
import json
import re
import unicodedata
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from edge import auth, wire
from edge.auth import Identity, KeyComing, Tokens, jwks, keys, tokens, turns
from edge.auth.identity import check_shown
from edge.auth.jwks import Jwks
from edge.auth.keys import Key, Keys, jwks_keys, public_key, secret
from edge.auth.mint import mint
from edge.auth.setup import open_tokens, stream_times
from edge.auth.turns import Turns
from edge.config import Auth
from edge.errors import EdgeError
from tests.server import until_async

KEY = "k" * 32
NOW = 1_000_000.0


def unauthorized(tokens: Tokens, token: str, now: float = NOW) -> str:
    with pytest.raises(EdgeError) as caught:
        tokens.verify(token, now)
    assert caught.value.name == "unauthorized"
    return caught.value.message


def raw(header: dict[str, Any], claims: Any, key: str = KEY, digest: str = "sha256") -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    body = part(json.dumps(header).encode()) + "." + part(json.dumps(claims).encode())
    return body + "." + part(hmac.digest(key.encode(), body.encode(), digest))


GOOD = {"sub": "ann", "exp": NOW + 60}
HS256 = {"alg": "HS256", "typ": "JWT"}


def test_claims_become_an_identity() -> None:
    tokens = Tokens(KEY)
    claims = GOOD | {
        "name": "Ann Ä",
        "scope": "read comment dance",
        "rooms": ["a", "b"],
        "role": "mod",
        "badges": ["x", "y"],
        "tier": 3,
        "reputation": 0.25,
    }
    identity = tokens.verify(raw(HS256, claims), NOW)
    assert identity == Identity(
        user="ann",
        name="Ann Ä",
        scopes=frozenset({"read", "comment"}),
        rooms=frozenset({"a", "b"}),
        role="mod",
        badges=("x", "y"),
        tier=3,
        exp=NOW + 60,
        reputation=0.25,
    )
    assert identity.public() == {"id": "ann", "name": "Ann Ä", "role": "mod", "badges": ["x", "y"]}
    plain = tokens.verify(raw(HS256, GOOD | {"scope": ["score"]}), NOW)
    assert plain == Identity(user="ann", name="ann", scopes=frozenset({"score"}), exp=NOW + 60)
    assert plain.public() == {"id": "ann", "name": "ann"}


GOOD_NAMES = [
    "Ann 👩\u200d💻", "❤️\u200d🔥Bob", "علی\u200cرضا", "🫨 Zed", "Ann\xa0B", "Rene\u0301", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "가" * 64,
    "e\u0301" * 64, "שלום\u200f",
]  # fmt: skip
BAD_NAMES = {
    "Z" + "\u0301" * 63: "it has too many marks on one letter",
    "Z" + "\u0301\u200d" * 20: "it has too many marks on one letter",
    "\u200d\ufe0f": "it is empty",
    " \xa0": "it is empty",
    "a\u202eb": "it contains U+202E, a character that is not to be shown",
    "a\nb": "it contains U+000A, a character that is not to be shown",
    "a\ud800": "it contains U+D800, a character that is not to be shown",
    "x" * 65: "it has more than 64 characters",
}


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_names_are_as_people_write_them(name: str) -> None:
    claims = {"name": name, "role": name, "badges": [name]}
    normal = unicodedata.normalize("NFC", name)
    identity = Tokens(KEY).verify(raw(HS256, GOOD | claims), NOW)
    assert (identity.name, identity.role, identity.badges) == (normal, normal, (normal,))
    assert Tokens(KEY).verify(mint(GOOD | claims, KEY.encode()), NOW) == identity
    assert auth.spoken_for(wire.Author("ann", name)).name == normal


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("claim", ["name", "role", "badges"])
def test_names_that_are_not_shown(claim: str, name: str) -> None:
    claims = {claim: [name] if claim == "badges" else name}
    assert unauthorized(Tokens(KEY), raw(HS256, GOOD | claims)) == f"{claim}: {BAD_NAMES[name]}"
    with pytest.raises(ValueError, match="^" + re.escape(f"{claim}: {BAD_NAMES[name]}") + "$"):
        mint(GOOD | claims, KEY.encode())
    with pytest.raises(EdgeError) as caught:
        auth.spoken_for(wire.Author("ann", **{claim: claims[claim]}))
    assert (caught.value.name, caught.value.message) == ("bad_request", f"u.{claim}: {BAD_NAMES[name]}")


@given(st.text(st.characters(codec=None, exclude_categories=()), min_size=1, max_size=70))
def test_a_name_is_as_clean_as_a_text(name: str) -> None:
    try:
        shown = check_shown(name, "name")
    except EdgeError as bad:
        assert bad.name == "unauthorized"
        assert len(name) > 64 or refused_text(name)
        return
    assert shown == wire.clean_text(name) == check_shown(shown, "name")
    assert len(shown) <= 64


def refused_text(text: str) -> bool:
    try:
        return len(wire.clean_text(text)) > 64
    except EdgeError:
        return True


def test_who_has_no_name_goes_by_the_user() -> None:
    found = Tokens(KEY).verify(raw(HS256, GOOD | {"sub": "rene\u0301"}), NOW)
    assert (found.user, found.name) == ("rene\u0301", "ren\xe9")
    assert "sub: it has too many marks" in unauthorized(Tokens(KEY), raw(HS256, GOOD | {"sub": "z" + "\u0301" * 63}))


@pytest.mark.parametrize("rooms", [["\ud800"], ["a", "a b"], [""], ["x" * 65], ["é"]])
def test_rooms_that_are_none(rooms: list[str]) -> None:
    assert unauthorized(Tokens(KEY), raw(HS256, GOOD | {"rooms": rooms})).startswith("rooms: a room is 1 to 64")


def test_what_an_identity_may_do() -> None:
    identity = Identity(user="a", name="a", scopes=frozenset({"comment"}), rooms=frozenset({"one"}))
    identity.check("comment", "one")
    for scope, room in (("comment", "two"), ("score", "one")):
        with pytest.raises(EdgeError) as caught:
            identity.check(scope, room)
        assert caught.value.name == "forbidden"
    Identity(user="a", name="a", scopes=frozenset({"score"})).check("score", "any")


def test_mint_and_verify() -> None:
    tokens = Tokens(KEY, audience="edge", issuer="site")
    token = tokens.mint("ann", NOW + 9, scopes=["score"], rooms=["a"], name="Ann")
    identity = tokens.verify(token, NOW)
    assert (identity.user, identity.name, identity.scopes, identity.rooms) == ("ann", "Ann", {"score"}, {"a"})


def test_times() -> None:
    tokens = Tokens(KEY)
    token = raw(HS256, GOOD | {"nbf": NOW})
    assert "not valid yet" in unauthorized(tokens, token, NOW - 6)
    assert tokens.verify(token, NOW + 5).user == "ann"
    assert tokens.verify(token, NOW + 64.9).user == "ann"
    assert "ended" in unauthorized(tokens, token, NOW + 65)  # remembered as good until now
    assert "ended" in unauthorized(tokens, token, NOW + 66)
    assert "ended" in unauthorized(Tokens(KEY), token, NOW + 65)


def test_audience_and_issuer() -> None:
    tokens = Tokens(KEY, audience="edge", issuer="site")
    right = GOOD | {"aud": "edge", "iss": "site"}
    assert tokens.verify(raw(HS256, right), NOW).user == "ann"
    assert tokens.verify(raw(HS256, right | {"aud": ["other", "edge"]}), NOW).user == "ann"
    for claims, words in (
        (GOOD, "no "),
        (right | {"aud": "other"}, "wrong audience"),
        (right | {"aud": 5}, "wrong audience"),
        (right | {"iss": "else"}, "wrong issuer"),
        (right | {"iss": 5}, "issuer"),
        ({k: v for k, v in right.items() if k != "iss"}, "no iss"),
    ):
        assert words in unauthorized(tokens, raw(HS256, claims))
    assert "wrong audience" in unauthorized(Tokens(KEY), raw(HS256, GOOD | {"aud": "edge"}))


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "....",
        "ä.ö.ü",
        "\ud800",
        "\x00" * 10,
        "x" * 5000,
        raw(HS256, GOOD, key="w" * 32),
        raw(HS256, GOOD)[:-2],
        raw({"alg": "none"}, GOOD),
        raw({"alg": "none"}, GOOD).rsplit(".", 1)[0] + ".",
        raw({"alg": "HS512"}, GOOD, digest="sha512"),
        raw({"alg": "hs256"}, GOOD),
        raw({"alg": "RS256"}, GOOD),
        raw({"alg": 5}, GOOD),
        raw({"alg": ["HS256"]}, GOOD),
        raw({}, GOOD),
        raw({"alg": "HS256", "b64": False, "crit": ["b64"]}, GOOD),
        raw({"alg": "HS256", "crit": ["x"]}, GOOD),
        raw(HS256, []),
        raw(HS256, 5),
        raw(HS256, {}),
        raw(HS256, {"sub": "ann"}),
        raw(HS256, {"exp": NOW + 60}),
        raw(HS256, GOOD | {"exp": "soon"}),
        raw(HS256, GOOD | {"exp": None}),
        raw(HS256, GOOD | {"exp": float("nan")}),
        raw(HS256, GOOD | {"nbf": "x"}),
        raw(HS256, GOOD | {"nbf": float("nan")}),
        raw(HS256, GOOD | {"sub": 5}),
        raw(HS256, GOOD | {"sub": ""}),
        raw(HS256, GOOD | {"sub": "a" * 65}),
        raw(HS256, GOOD | {"sub": "a\nb"}),
        raw(HS256, GOOD | {"name": "a\u202eb"}),
        raw(HS256, GOOD | {"name": ["a"]}),
        raw(HS256, GOOD | {"scope": 5}),
        raw(HS256, GOOD | {"scope": [5]}),
        raw(HS256, GOOD | {"rooms": "all"}),
        raw(HS256, GOOD | {"role": {}}),
        raw(HS256, GOOD | {"badges": "x"}),
        raw(HS256, GOOD | {"badges": ["\x00"]}),
        raw(HS256, GOOD | {"tier": "gold"}),
        raw(HS256, GOOD | {"tier": 2**53}),
        raw(HS256, GOOD | {"tier": -(10**40)}),
        raw(HS256, GOOD | {"tier": 1.5}),
        raw(HS256, GOOD | {"exp": 10**400}),
        raw(HS256, GOOD | {"reputation": 1.01}),
        raw(HS256, GOOD | {"reputation": -0.01}),
        raw(HS256, GOOD | {"reputation": float("nan")}),
        raw(HS256, GOOD | {"reputation": "high"}),
        raw(HS256, GOOD | {"reputation": True}),
        raw(HS256 | {"kid": 5}, GOOD),
        raw(HS256 | {"kid": ["a"]}, GOOD),
    ],
)
def test_bad_tokens(token: str) -> None:
    tokens = Tokens(KEY)
    words = unauthorized(tokens, token)
    assert words == unauthorized(tokens, token), "the remembered refusal says the same"
    assert "\n" not in words
    assert not token or len(token) < 4 or token not in words


def test_a_weak_key_is_refused() -> None:
    with pytest.raises(ValueError, match="31 bytes"):
        Tokens("k" * 31)


def test_verified_tokens_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Tokens(KEY)
    decoded = 0
    real = jwt.decode

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal decoded
        decoded += 1
        return real(*arguments, **named)

    monkeypatch.setattr(tokens, "VERIFIED", 3)
    monkeypatch.setattr(tokens, "REFUSED", 2)
    monkeypatch.setattr(jwt, "decode", counted)
    good = [raw(HS256, GOOD | {"sub": f"u{i}"}) for i in range(4)]
    bad = [raw(HS256, GOOD, key=f"{i}" * 32) for i in range(5)]
    first = ours.verify(good[0], NOW)
    for token in good[1:3]:
        ours.verify(token, NOW)
    assert ours.verify(good[0], NOW) is first
    assert decoded == 3
    for token in bad:
        unauthorized(ours, token)
    assert decoded == 8
    unauthorized(ours, bad[4])
    assert decoded == 8, "a refusal is remembered"
    unauthorized(ours, bad[4], NOW + tokens.REFUSED_S)
    assert decoded == 9, "but not for long"
    assert ours.verify(good[0], NOW) is first, "a flood of bad tokens does not push out a good one"
    ours.verify(good[3], NOW)
    ours.verify(good[1], NOW)  # the coldest was pushed out
    assert decoded == 11
    assert (len(ours._verified), len(ours._refused)) == (3, 2)


def test_dev() -> None:
    ann = auth.dev("ann")
    assert ann.exp is None
    for scope in auth.SCOPES:
        ann.check(scope, "anywhere")
    for bad in ("", "a" * 65, "a\nb", " "):
        with pytest.raises(EdgeError):
            auth.dev(bad)


# Public keys.

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
KINDS: dict[str, Any] = {"RS256": RSA, "ES256": EC, "EdDSA": ED}
OTHERS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def pem(private: Any) -> bytes:
    found: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return found


def private_pem(private: Any, password: bytes = b"") -> bytes:
    sealed = BestAvailableEncryption(password) if password else NoEncryption()
    found: bytes = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed)
    return found


def jwk(algorithm: str, private: Any = None, **more: Any) -> dict[str, Any]:
    made = jwt.get_algorithm_by_name(algorithm).to_jwk((private or KINDS[algorithm]).public_key(), as_dict=True)
    assert isinstance(made, dict)
    return {name: value for name, value in made.items() if name not in ("key_ops", "alg")} | more


def listed(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"keys": entries}).encode()


def signed(algorithm: str, kid: str | None = None, private: Any = None, **claims: Any) -> str:
    return jwt.encode(GOOD | claims, private or KINDS[algorithm], algorithm, headers={"kid": kid} if kid else None)


@pytest.mark.parametrize("algorithm", KINDS)
@pytest.mark.parametrize("kid", [None, "k1"])
def test_each_kind_of_key(algorithm: str, kid: str | None) -> None:
    ours = Tokens(Keys([public_key(pem(KINDS[algorithm]), kid)]), audience="edge")
    assert ours.verify(signed(algorithm, kid, aud="edge"), NOW).user == "ann"
    assert ours.verify(signed(algorithm, aud="edge"), NOW).user == "ann", "a token need not name its key"
    assert "signature" in unauthorized(ours, signed(algorithm, kid, OTHERS[algorithm], aud="edge"))
    assert "no aud" in unauthorized(ours, signed(algorithm, kid))
    assert "ended" in unauthorized(ours, signed(algorithm, kid, aud="edge", exp=NOW - 6))
    head, body, signature = signed(algorithm, kid, aud="edge").split(".")
    more = base64.urlsafe_b64encode(json.dumps(GOOD | {"aud": "edge", "scope": "admin"}).encode()).decode().rstrip("=")
    for bad in (f"{head}.{more}.{signature}", f"{head}.{body}.", f"{head}.{body}.{signature[:-8]}AAAAAAAA"):
        assert "signature" in unauthorized(ours, bad) or "not a JWT" in unauthorized(ours, bad)


@pytest.mark.parametrize("algorithm", KINDS)
def test_a_public_key_is_no_secret(algorithm: str) -> None:
    """The classic confusion: HS256 with something of the public key as its secret, with every name it may go by."""
    key = public_key(pem(KINDS[algorithm]), "pub")
    for ours in (Tokens(Keys([key])), Tokens(Keys([secret(KEY), key])), Tokens(Keys([key._replace(kid=None)]))):
        material = [pem(KINDS[algorithm]), pem(KINDS[algorithm]).strip(), json.dumps(jwk(algorithm)).encode()]
        material.append(KINDS[algorithm].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        for bytes_ in material:
            for header in (HS256, HS256 | {"kid": "pub"}, {"alg": algorithm}, {"alg": algorithm, "kid": "pub"}):
                token = raw(header, GOOD, key=bytes_.decode("latin1")) if bytes_.isascii() else ""
                unauthorized(ours, token or _hmac(header, bytes_))
        for header in ({"alg": "none"}, {"alg": "none", "kid": "pub"}, {"alg": "None"}, {"alg": ""}):
            unauthorized(ours, raw(header, GOOD))
            unauthorized(ours, raw(header, GOOD).rsplit(".", 1)[0] + ".")


def _hmac(header: dict[str, Any], key: bytes) -> str:
    first = raw(header, GOOD).rsplit(".", 1)[0]
    return first + "." + base64.urlsafe_b64encode(hmac.digest(key, first.encode(), "sha256")).decode().rstrip("=")


def test_a_key_is_for_its_own_algorithm_alone() -> None:
    ours = Tokens(Keys([secret(KEY), *(public_key(pem(private), kind) for kind, private in KINDS.items())]))
    for kind in KINDS:
        assert ours.verify(signed(kind, kind), NOW).user == "ann"
        for other in KINDS:
            if other != kind:
                assert "another algorithm" in unauthorized(ours, signed(kind, other))
        assert "another algorithm" in unauthorized(ours, raw(HS256 | {"kid": kind}, GOOD)), "though the secret is right"
    assert ours.verify(raw(HS256, GOOD), NOW).user == "ann"
    assert ours.verify(raw(HS256 | {"kid": "any"}, GOOD), NOW).user == "ann", "the secret has no name here"
    for weak in ("PS256", "RS384", "RS512"):
        assert "another algorithm" in unauthorized(ours, jwt.encode(GOOD, RSA, weak, headers={"kid": "RS256"}))
        assert "its algorithm is not ES256 or EdDSA or HS256 or RS256" in unauthorized(
            ours, jwt.encode(GOOD, RSA, weak)
        )


def test_a_token_brings_no_key_of_its_own() -> None:
    ours = Tokens(Keys([public_key(pem(RSA))]))
    stranger = OTHERS["RS256"]
    brought = {"jwk": jwk("RS256", stranger), "jku": "http://127.0.0.1:9/keys", "x5u": "http://127.0.0.1:9/"}
    assert "signature" in unauthorized(ours, jwt.encode(GOOD, stranger, "RS256", headers=brought))


def test_a_token_without_a_name_is_tried_against_few_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = 0
    real = jwt.decode

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal tried
        tried += 1
        return real(*arguments, **named)

    monkeypatch.setattr(jwt, "decode", counted)
    ours = Tokens(Keys(Key("ES256", OTHERS["ES256"].public_key(), f"k{i}") for i in range(50)))
    assert "signature" in unauthorized(ours, signed("ES256"))
    assert tried == keys.TRIES


BAD_PEM = {
    "a private key; its public half is wanted": private_pem(RSA),
    "not a public key in PEM": b"hello",
    "an RSA key of 1024 bits; 2048 to 8192 are wanted": pem(rsa.generate_private_key(65537, 1024)),
    "an EC key on the curve secp384r1; P-256 is wanted": pem(ec.generate_private_key(ec.SECP384R1())),
    "not an RSA, P-256 or Ed25519 key": pem(ed448.Ed448PrivateKey.generate()),
}


@pytest.mark.parametrize("words", BAD_PEM)
def test_a_file_that_holds_no_key_to_verify_with(words: str, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(BAD_PEM[words])
    with pytest.raises(ValueError) as caught:
        keys.read_keys([f"a={file}"])
    assert str(caught.value) == f"{file}: {words}"


def test_files_of_keys(tmp_path: Path) -> None:
    for name, private in (("a.pem", RSA), ("b.pem", ED)):
        (tmp_path / name).write_bytes(pem(private))
    first, second = keys.read_keys([f"{tmp_path}/a.pem", f"b={tmp_path}/b.pem"])
    assert (first.algorithm, first.kid, second.algorithm, second.kid) == ("RS256", None, "EdDSA", "b")
    for bad in (f"={tmp_path}/a.pem", f"{tmp_path}/none.pem", str(tmp_path)):
        with pytest.raises(ValueError):
            keys.read_keys([bad])
    ours, fetches = open_tokens(Auth(hs256_key=KEY, public_keys=(f"a={tmp_path}/a.pem",)), lambda: None)
    assert ours is not None
    assert fetches is None
    assert ours.verify(signed("RS256", "a"), NOW) == ours.verify(ours.mint("ann", GOOD["exp"], scopes=[]), NOW)
    assert open_tokens(Auth(), lambda: None) == (None, None)


def test_a_list_of_keys() -> None:
    taken = jwks_keys(
        listed(
            jwk("RS256", kid="r", use="sig", alg="RS256", x5t="?"),
            jwk("ES256", kid="e", key_ops=["verify"]),
            jwk("EdDSA"),
            {"kty": "oct", "k": base64.urlsafe_b64encode(KEY.encode()).decode(), "kid": "o", "alg": "HS256"},
            jwk("RS256", kid="enc", use="enc"),
            jwk("RS256", kid="ops", key_ops=["encrypt"]),
            jwk("RS256", kid="pss", alg="PS256"),
            jwk("RS256", kid="hs", alg="HS256"),
            jwk("RS256", kid=5),
            {"kty": "RSA", "kid": "half", "n": "AQAB"},
            {"kty": "RSA", "kid": "odd", "n": 5, "e": "AQAB"},
            {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "off"},
            {"kty": "OKP", "crv": "X25519", "x": "A" * 43},
            {"kty": "new"},
            {},
        )
    )
    assert [(key.algorithm, key.kid) for key in taken] == [("RS256", "r"), ("ES256", "e"), ("EdDSA", None)]
    whole = json.loads(jwt.get_algorithm_by_name("RS256").to_jwk(RSA))
    (public,) = jwks_keys(listed(whole | {"key_ops": ["verify"]}))
    assert not hasattr(public.material, "decrypt"), "a list with a private key in it gives its public half"
    for bad in (b"", b"x", b"[]", b"{}", b'{"keys":5}', listed(), listed({"kty": "oct", "k": "AA"}), b'{"keys":[5]}'):
        with pytest.raises(ValueError):
            jwks_keys(bad)
    with pytest.raises(ValueError, match="more than 64"):
        jwks_keys(listed(*[jwk("EdDSA", kid=str(i)) for i in range(65)]))


# A list that is fetched.


class Lister:
    """A JWKS on the loopback. `body` is what it answers; a number is a status; None holds the answer back."""

    def __init__(self) -> None:
        self.body: bytes | int | None = listed(jwk("RS256", kid="one"))
        self.asked = 0
        self.settled = 0
        self.release = asyncio.Event()
        self.url = ""

    async def answer(self, _request: web.Request) -> web.Response:
        self.asked += 1
        if self.body is None:
            await self.release.wait()
        if isinstance(self.body, int):
            return web.Response(status=self.body, headers={"Location": self.url + "?again"})
        return web.Response(body=self.body or b"")

    def settle(self) -> None:
        self.settled += 1


@pytest.fixture
async def lister() -> AsyncIterator[Lister]:
    found = Lister()
    app = web.Application()
    app.router.add_get("/keys", found.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    found.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/keys"  # type: ignore[attr-defined]
    yield found
    found.release.set()
    await runner.cleanup()


Start = Callable[..., Tokens]


@pytest.fixture
async def start(lister: Lister, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    monkeypatch.setattr(jwks, "PAUSE_S", 0.05)
    running: list[tuple[Jwks, asyncio.Task[None]]] = []

    def begin(every_s: float = 300, keep_s: float = 3600, **settings: Any) -> Tokens:
        settings = {"jwks_url": lister.url, "jwks_seconds": every_s, "jwks_keep_seconds": keep_s} | settings
        ours, fetches = open_tokens(Auth(**settings), lister.settle)
        assert ours is not None
        assert fetches is not None
        running.append((fetches, asyncio.create_task(fetches.run())))
        return ours

    yield begin
    for fetches, task in running:
        fetches.end()
        async with asyncio.timeout(8):
            await task


async def test_keys_come_and_are_fetched_again_for_one_that_is_unknown(
    lister: Lister, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = start(hs256_key=KEY)
    with pytest.raises(KeyComing):
        ours.verify(signed("RS256", "one"), NOW)
    assert ours.verify(raw(HS256, GOOD), NOW).user == "ann", "whose key is here does not wait"
    await until_async(lambda: lister.settled == 1)
    first = ours.verify(signed("RS256", "one"), NOW)
    assert first.user == "ann"
    for i in range(20):  # no sender of tokens can make it fetch more often
        assert 1 <= not_yet(ours, signed("RS256", f"{i}")) <= jwks.AGAIN_S
    refused = signed("ES256", "two")
    assert not_yet(ours, refused) == not_yet(ours, refused)
    assert "its algorithm is not HS256 or RS256" in unauthorized(ours, signed("ES256"))
    assert lister.asked == 1
    monkeypatch.setattr(jwks, "AGAIN_S", 0.0)
    lister.body = listed(jwk("ES256", kid="two"))
    with pytest.raises(KeyComing):
        ours.verify(signed("ES256", "two", sub="bob"), NOW)
    assert ours.verify(signed("RS256", "one"), NOW) is first, "meanwhile the known ones are good"
    await until_async(lambda: lister.settled == 2)
    assert ours.verify(signed("ES256", "two", sub="bob"), NOW).user == "bob"
    assert ours.verify(refused, NOW).user == "ann", "with other keys it is looked at anew"
    monkeypatch.setattr(jwks, "AGAIN_S", 10.0)
    assert "not" in unauthorized(ours, signed("RS256", "one")), "a key that is listed no more, though it was verified"
    assert lister.asked == 2
    unauthorized(ours, raw(HS256 | {"kid": "three"}, GOOD, key="w" * 32))
    assert lister.asked == 2, "a list has no secrets: nobody asks it for one"


def not_yet(tokens: Tokens, token: str) -> float:
    """In how many seconds its key may be asked for."""
    with pytest.raises(EdgeError, match="key is not known yet") as caught:
        tokens.verify(token, NOW)
    assert caught.value.name == "unavailable"
    assert not isinstance(caught.value, KeyComing)
    assert caught.value.retry_after is not None
    return caught.value.retry_after


async def test_a_key_that_a_fetch_did_not_bring_is_nobodys(
    lister: Lister, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "NAMES", 3)
    ours = start()
    await until_async(lambda: lister.settled == 1)
    assert not_yet(ours, signed("RS256", "two")) <= jwks.AGAIN_S
    monkeypatch.setattr(jwks, "AGAIN_S", 0.0)
    with pytest.raises(KeyComing):
        ours.verify(signed("RS256", "three"), NOW)
    await until_async(lambda: lister.settled == 2)
    monkeypatch.setattr(jwks, "AGAIN_S", 10.0)
    for name in ("two", "three"):
        assert "its key is not known" in unauthorized(ours, signed("RS256", name)), "it was looked for"
    not_yet(ours, signed("RS256", "four"))
    assert "its key is not known" in unauthorized(ours, signed("RS256", "five")), "so many names are kept, and no more"
    not_yet(ours, signed("RS256", "four"))
    assert lister.asked == 2


async def test_a_fetch_that_hangs_holds_up_nobody(
    lister: Lister, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = start()
    await until_async(lambda: lister.settled == 1)
    monkeypatch.setattr(jwks, "AGAIN_S", 0.0)
    monkeypatch.setattr(jwks, "FETCH_S", 1.0)
    lister.body = None
    with pytest.raises(KeyComing):
        ours.verify(signed("RS256", "two"), NOW)
    await until_async(lambda: lister.asked == 2)
    assert ours.verify(signed("RS256", "one"), NOW).user == "ann"
    await until_async(lambda: lister.settled == 2)
    with pytest.raises(EdgeError) as caught:
        ours.verify(signed("RS256", "two"), NOW)
    assert (caught.value.name, caught.value.retry_after) == ("unavailable", 5), "nobody knows whether it is a good one"
    assert not isinstance(caught.value, KeyComing)
    assert ours.verify(signed("RS256", "one"), NOW).user == "ann"


@pytest.mark.parametrize("body", [500, 302, 404, b"", b"{}", listed(), b" " * (jwks.BODY_BYTES + 1)])
async def test_a_list_that_cannot_be_had_leaves_the_old_keys_for_a_while(
    body: bytes | int, lister: Lister, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    later_s, forget = 3000.0, jwks.Jwks._forget
    monkeypatch.setattr(jwks.Jwks, "_forget", lambda it, now: forget(it, now + later_s))
    ours = start(every_s=0.05, keep_s=3600)
    await until_async(lambda: lister.settled)
    token = signed("RS256", "one")
    assert ours.verify(token, NOW).user == "ann"
    asked, lister.body = lister.asked, body
    await until_async(lambda: lister.settled >= asked + 1)
    assert ours.verify(token, NOW).user == "ann"

    def refused() -> bool:
        try:
            return not ours.verify(token, NOW)
        except EdgeError as error:
            return error.name == "unavailable"

    later_s = 3600.0
    await until_async(refused)
    lister.body = listed(jwk("RS256", kid="one"))
    await until_async(lambda: not refused())


async def test_no_list_from_the_beginning(lister: Lister, start: Start) -> None:
    lister.body = 503
    ours = start()
    await until_async(lambda: lister.settled)
    with pytest.raises(EdgeError, match="cannot be fetched"):
        ours.verify(signed("RS256", "one"), NOW)
    lister.body = listed(jwk("RS256", kid="one"))
    await until_async(lambda: ours.keys.all)
    assert ours.verify(signed("RS256", "one"), NOW).user == "ann"


async def test_a_fetch_can_be_cancelled(lister: Lister) -> None:
    lister.body = None
    fetches = Jwks(lister.url, 300, 3600, lambda keys: None, lister.settle)
    task = asyncio.create_task(fetches.run())
    await until_async(lambda: lister.asked)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# Turns.


def test_so_many_tokens_in_a_turn_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    soon: list[Callable[[], None]] = []
    ran: list[int] = []
    told: list[int] = []
    queue = Turns(soon.append, 3, lambda: told.append(len(ran)))

    def work(i: int) -> Callable[[], None]:
        return lambda: ran.append(i)

    def turn() -> None:
        due = soon[:]
        soon.clear()
        for call in due:
            call()

    assert [queue.add(work(i)) for i in range(8)] == [True] * 3 + [False] * 5
    turn()
    assert ran == [*range(6)]
    assert not queue.add(work(8)), "behind those that wait"
    turn()
    assert ran == [*range(9)]
    assert told == [6, 9]
    turn()
    assert not soon, "where nothing waits the loop is left alone"
    assert queue.add(work(9))
    monkeypatch.setattr(turns, "PARKED", 2)
    assert [queue.park(work(i)) for i in (10, 11, 12)] == [True, True, False]
    assert ran == [*range(10)]
    queue.resume()
    assert ran == [*range(12)]


def test_nobody_is_closed_whose_token_would_let_them_in() -> None:
    for grace in (0, 1, 10):
        warn, least, most = stream_times(Auth(warn_seconds=30, grace_seconds=grace))
        assert (warn, most) == (30_000, 5000 + grace * 1000)
        assert auth.LEEWAY_S * 1000 <= least <= most


# Minting.


@pytest.mark.parametrize("algorithm", KINDS)
def test_what_is_minted_is_taken(algorithm: str) -> None:
    ours = Tokens(Keys([secret(KEY), public_key(pem(KINDS[algorithm]), "k")]))
    claims = {"sub": "ann", "exp": NOW + 9, "rooms": ["a"], "reputation": 0.5}
    private = keys.private_key(private_pem(KINDS[algorithm]))
    assert ours.verify(mint(claims, private, "k"), NOW) == ours.verify(mint(claims, KEY.encode()), NOW)


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": ""},
        {"rooms": ["a b"]},
        {"badges": ["x"] * 9},
        {"badges": [""]},
        {"reputation": 2},
        {"tier": 2**60},
        {"name": "a\nb"},
        {"name": "x" * 65},
        {"rooms": [f"room-{i}" for i in range(400)]},
        {"exp": None},
    ],
)
def test_what_would_not_be_taken_is_not_minted(claims: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        mint(GOOD | claims, KEY.encode())


def test_a_private_key_that_is_none() -> None:
    for bad in (b"", pem(RSA), private_pem(RSA, b"hello"), private_pem(ec.generate_private_key(ec.SECP384R1()))):
        with pytest.raises(ValueError, match=r"^k\.pem: "):
            keys.private_key(bad, "k.pem")
