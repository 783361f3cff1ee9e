# What NATS carries besides the logs: messages that nodes tell each other and nobody stores, and the requests of
# publishers who are no nodes. It owns who hears what, and holds the requests under way to a bound. It must never let
# one hearer's failure harm another.

import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from nats.aio.msg import Msg

from broker.base import Answerer, Hearer, check_room, check_subject
from broker.nats_link import Link
from broker.subjects import emitted, put, room_of

log = logging.getLogger("broker")

GROUP = "edge"
"""The queue group of those who answer: a request is given to one of them."""
ANSWERS = 256
"""Requests under way at a time. Past it they are refused at once, and their publishers say them again, elsewhere."""

Spawn = Callable[[Coroutine[Any, Any, None]], None]


class Emitting:
    def __init__(self, link: Link, spawn: Spawn) -> None:
        self.answering = 0
        self.refused = 0
        self._link = link
        self._spawn = spawn
        self._hearers: dict[str, Callable[[Msg], None]] = {}
        self._verbs: set[str] = set()

    async def emit(self, subject: str, message: bytes) -> None:
        await self._link.tell(emitted(subject), message)

    async def hear(self, subject: str, hearer: Hearer) -> None:
        check_subject(subject)
        if subject in self._hearers:
            raise ValueError(f"subject {subject} is heard already")

        def heard(msg: Msg) -> None:
            try:
                hearer(bytes(msg.data))
            except Exception:
                log.exception("a hearer of %s failed", subject)

        self._hearers[subject] = heard
        await self._link.keep_hearing(emitted(subject), heard)

    async def unhear(self, subject: str) -> None:
        heard = self._hearers.pop(subject, None)
        if heard is not None:
            await self._link.unhear(emitted(subject), heard)

    async def answer(self, verb: str, answerer: Answerer) -> None:
        check_subject(verb)
        if "." in verb:
            raise ValueError(f"verb: one word of a-z and 0-9, not {verb!r}")
        if verb in self._verbs:
            raise ValueError(f"{verb} is answered already")
        self._verbs.add(verb)

        def asked(msg: Msg) -> None:
            if self.answering >= ANSWERS:
                self.refused += 1
                self._spawn(self._reply(msg, _error("overloaded")))
            else:
                self.answering += 1
                self._spawn(self._answer(msg, answerer))

        await self._link.keep_hearing(put(verb), asked, GROUP)

    async def _answer(self, msg: Msg, answerer: Answerer) -> None:
        try:
            reply = await self._asked(msg, answerer)
        finally:
            self.answering -= 1
        await self._reply(msg, reply)

    async def _asked(self, msg: Msg, answerer: Answerer) -> bytes:
        try:
            room = room_of(msg.subject.rpartition(".")[2])
            check_room(room)
        except ValueError:
            return _error("bad_room")
        try:
            return await answerer(room, bytes(msg.data))
        except Exception:
            log.exception("%s could not be answered", msg.subject)
            return _error("internal")

    async def _reply(self, msg: Msg, reply: bytes) -> None:
        """A publisher may also say a thing and wait for no answer."""
        if msg.reply:
            await self._link.tell(msg.reply, reply)


def _error(name: str) -> bytes:
    return json.dumps({"error": name}).encode()
