# Tokens: the right one is let in, and every other kind is refused with words that say what is wrong with it.

import base64
import hmac
import json
from typing import Any

import jwt
import pytest

from edge import auth
from edge.auth import Identity, Tokens
from edge.errors import EdgeError

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
    )
    assert identity.public() == {"id": "ann", "name": "Ann Ä", "role": "mod", "badges": ["x", "y"]}
    plain = tokens.verify(raw(HS256, GOOD | {"scope": ["score"]}), NOW)
    assert plain == Identity(user="ann", name="ann", scopes=frozenset({"score"}), exp=NOW + 60)
    assert plain.public() == {"id": "ann", "name": "ann"}


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
    ],
)
def test_bad_tokens(token: str) -> None:
    tokens = Tokens(KEY)
    words = unauthorized(tokens, token)
    assert words == unauthorized(tokens, token), "the remembered refusal says the same"
    assert "\n" not in words
    assert not token or len(token) < 4 or token not in words


def test_a_public_key_is_no_secret() -> None:
    """The classic confusion: a token signed with HS256 and the RSA public key as its secret, or with RS256 itself."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(65537, 2048)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert "algorithm" in unauthorized(Tokens(KEY), jwt.encode(GOOD, private, "RS256"))
    assert "signature" in unauthorized(Tokens(KEY), raw(HS256, GOOD, key=public.decode()))


def test_a_weak_key_is_refused() -> None:
    with pytest.raises(ValueError, match="31 bytes"):
        Tokens("k" * 31)


def test_verified_tokens_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens(KEY)
    decoded = 0
    real = jwt.decode

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal decoded
        decoded += 1
        return real(*arguments, **named)

    monkeypatch.setattr(auth, "VERIFIED", 3)
    monkeypatch.setattr(auth, "REFUSED", 2)
    monkeypatch.setattr(jwt, "decode", counted)
    good = [raw(HS256, GOOD | {"sub": f"u{i}"}) for i in range(4)]
    bad = [raw(HS256, GOOD, key=f"{i}" * 32) for i in range(5)]
    first = tokens.verify(good[0], NOW)
    for token in good[1:3]:
        tokens.verify(token, NOW)
    assert tokens.verify(good[0], NOW) is first
    assert decoded == 3
    for token in bad:
        unauthorized(tokens, token)
    assert decoded == 8
    unauthorized(tokens, bad[4])
    assert decoded == 8, "a refusal is remembered"
    unauthorized(tokens, bad[4], NOW + auth.REFUSED_S)
    assert decoded == 9, "but not for long"
    assert tokens.verify(good[0], NOW) is first, "a flood of bad tokens does not push out a good one"
    tokens.verify(good[3], NOW)
    tokens.verify(good[1], NOW)  # the coldest was pushed out
    assert decoded == 11
    assert (len(tokens._verified), len(tokens._refused)) == (3, 2)


def test_dev() -> None:
    ann = auth.dev("ann")
    assert ann.exp is None
    for scope in auth.SCOPES:
        ann.check(scope, "anywhere")
    for bad in ("", "a" * 65, "a\nb", " "):
        with pytest.raises(EdgeError):
            auth.dev(bad)
