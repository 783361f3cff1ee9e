# Comments that somebody has paid for: the site's backend posts them, with a key by which the same payment is known when
# it is posted again, be it a day later and through another box. It owns nothing: the keys are kept by the broker. It
# must never let one payment make two comments, nor answer for one that is not stored.
import time
from collections.abc import Awaitable, Callable

import msgspec

from edge import wire
from edge.auth import Identity, spoken_for
from edge.cabinet import Cabinet, hashed
from edge.errors import EdgeError

PAID = "paid."
KEPT_S = 24 * 3600.0
KEY_CHARS = 255
UNDER_WAY = ""
MAY_PASS = frozenset({"unavailable", "overloaded", "internal"})
"""Refusals that say nothing of the comment: it may be stored, or be taken the next time."""

SURE_S = 45.0
"""For so long the owner of a room knows a comment again that is offered twice."""

Shown = Callable[[str, str], Awaitable[object]]
"""The comment with this id, as the room's log shows it; or None."""
Say = Callable[[Identity, str, wire.CommentBody, str], Awaitable[wire.Message]]
"""Takes a comment with its id into a room; its ack."""


class _Payment(msgspec.Struct):
    """`status` is empty while it is not known what became of the comment."""

    id: str
    at: float
    body: str
    status: str = UNDER_WAY


class Paid:
    def __init__(self, cabinet: Cabinet, say: Say, shown: Shown) -> None:
        self._cabinet = cabinet
        self._say = say
        self._shown = shown

    async def comment(self, payer: Identity, room: str, body: wire.CommentBody, key: str | None) -> wire.Message:
        """Its ack, the same one for the same key."""
        payer.check("paid", room)
        key = key or body.ref
        if key is None:
            raise EdgeError("bad_request", "a paid comment needs an Idempotency-Key, or a ref")
        if len(key) > KEY_CHARS or not key.isascii() or not key.isprintable():
            raise EdgeError("bad_request", f"Idempotency-Key: 1 to {KEY_CHARS} printable characters of ASCII")
        assert body.paid is not None
        author = payer if body.u is None else spoken_for(body.u)
        author = msgspec.structs.replace(author, tier=body.paid.tier)
        payment_key = f"{len(payer.user)} {payer.user} {key}"  # the length keeps ("a b", "c") apart from ("a", "b c")
        place = f"{PAID}{room}.{hashed(payment_key)}"
        now = time.time()
        made = wire.comment_id(author.user, f"paid {payment_key}")
        payment = _Payment(made, now, hashed(msgspec.json.encode(body).decode()))
        known = await self._known(place)
        first = known is None and await self._keep(place, payment, 0) > 0  # of several at once
        if first:
            known = payment
        known = known or await self._known(place) or payment
        if known.body != payment.body:
            raise EdgeError("key_reused")
        if known.status == UNDER_WAY:
            if known.at < now - SURE_S and await self._shown(room, known.id) is not None:
                known.status = "published"
            else:
                known.status = await self._said(author, room, body, known.id, place if first else None)
            await self._keep(place, known, None)
            await self._cabinet.sweep(f"{PAID}{room}.", lambda kept: _payment(kept).at < now - KEPT_S)
        return wire.ack(None, known.id, known.status)

    async def _said(self, author: Identity, room: str, body: wire.CommentBody, made: str, place: str | None) -> str:
        try:
            ack = await self._say(author, room, body, made)
        except EdgeError as refused:
            await self._refused(refused, place)
            raise
        if ack["status"] not in ("published", "pending"):
            error = EdgeError(ack.get("error", "unavailable"), ack.get("message"), retry_after=ack.get("retry_after"))
            await self._refused(error, place)
            raise EdgeError("unavailable", "send it again, with the same key", retry_after=1)
        return str(ack["status"])

    async def _refused(self, error: EdgeError, place: str | None) -> None:
        """What is refused for good may be said anew, in other words; but for one that had been tried before, and may
        have been stored then (None)."""
        if error.name not in MAY_PASS:
            if place is not None:
                await self._cabinet.keep(place, None)
            raise error

    async def _known(self, place: str) -> _Payment | None:
        kept = await self._cabinet.find(place)
        return None if kept is None else _payment(kept.value)

    async def _keep(self, place: str, payment: _Payment, revision: int | None) -> int:
        return await self._cabinet.keep(place, msgspec.json.encode(payment), revision)


_payment = msgspec.json.Decoder(_Payment).decode
