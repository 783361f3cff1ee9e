# One worker's connection to the broker of its box, at the broker's end: requests in, answers and pushes out. It owns
# what the worker has asked to be told, and what of it the worker has been given. It must never wait for a worker, nor
# let what one does not read pile up without a bound.

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from broker import envelope
from broker.base import BrokerError, Closed, Full, Hearer, Kept, Unavailable, Unsettled, check_shard
from broker.envelope import BadEnvelope, Envelopes, pack
from broker.state import Change, Page
from broker.store import SHARDS

if TYPE_CHECKING:
    from broker.local_server import LocalServer

log = logging.getLogger("broker")

ANSWER_BYTES = 1024 * 1024
"""With this much unread by a worker, its next requests wait in the socket: a crowd of tails is sent at its pace. So do
its offers, in the Store."""
UNREAD_BYTES = 16 * 1024 * 1024
"""With this much unread, the worker is cut off. It comes back, subscribes again, and repairs from the tails."""
GIVEN = 64
"""Offers of a shard in one turn of the loop, for one who has missed many."""
FENCE_BYTES = 512 * 1024
FENCE_ROOM_BYTES = 48  # of a room in the answer to a fence, besides its name


class Session(asyncio.Protocol):
    """One worker's connection."""

    def __init__(self, server: "LocalServer") -> None:
        self.server = server
        self.store = server.store
        self.envelopes = Envelopes()
        self.rooms: set[str] = set()
        self.given: dict[int, int] = {}  # by shard that it consumes: the last offer it was given
        self.behind: dict[int, None] = {}  # those of them that have more for it
        self.hearers: dict[str, Hearer] = {}
        self.watched: dict[str, Change] = {}
        self.leases: dict[int, int] = {}  # the epochs of those that it has been given, some released since
        self.paused = False
        self._giving = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # which uvloop's is not, but for its methods
        self.transport.set_write_buffer_limits(high=ANSWER_BYTES)
        if self.server.stopped:  # a listener that is closed may have one more: whoever it is comes back to the next
            self.transport.abort()
            return
        self.server.sessions.add(self)
        self.transport.write(pack(0, envelope.VERSION, self.server.born))

    def connection_lost(self, exc: Exception | None) -> None:
        """A worker that has died leaves its leases at once. One that has only lost its way ends them on its side too,
        and asks again. One that is stopped keeps its connection: its leases run out."""
        for shard, epoch in self.leases.items():
            self.store.leases.release(shard, epoch)
        self.server.sessions.discard(self)
        for room in self.rooms:
            self.store.detach(room, self)
        self.rooms.clear()
        for shard in list(self.given):
            self._leave(shard)
        for subject in list(self.hearers):
            self._unhear(subject)
        for prefix in list(self.watched):
            self._unwatch(prefix)

    def pause_writing(self) -> None:
        self.paused = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.paused = False
        self.transport.resume_reading()
        self._work()
        self._give()

    def data_received(self, data: bytes) -> None:
        self.envelopes.feed(data)
        self._work()

    def _work(self) -> None:
        try:
            while not self.paused and not self.transport.is_closing():
                request = self.envelopes.take()
                if request is None:
                    return
                self._answer(request)
        except (BadEnvelope, TypeError, ValueError, LookupError) as bad:
            log.error("a worker sent what is no request (%s: %s), and is cut off", type(bad).__name__, bad)
            self.transport.abort()

    def _answer(self, request: list[Any]) -> None:
        number, op, *arguments = request
        try:
            result = OPS[op](self, *arguments)
        except (BrokerError, ValueError) as refused:
            self.transport.write(_refusal(number, refused))
            return
        if isinstance(result, asyncio.Future):
            result.add_done_callback(partial(self._answer_later, number))
        else:
            self.transport.write(pack(number, 0, *result))

    def _answer_later(self, number: int, result: asyncio.Future[Any]) -> None:
        refused = result.exception()
        if self.transport.is_closing():
            return
        if refused is not None:
            self.transport.write(_refusal(number, refused))
            return
        match result.result():
            case None:
                self.transport.write(pack(number, 0))
            case int() as revision:
                self.transport.write(pack(number, 0, revision))
            case Kept() as kept:
                self.transport.write(pack(number, 0, *kept))
            case kept, more:
                self.transport.write(pack(number, 0, more, *kept))

    def _append(
        self, room: str, lane: int, batch: bytes, expected: int, epoch: int, mark: list[int], call: int
    ) -> tuple[int, int, int]:
        offer, item = mark
        kind, head, greatest = self.store.append(room, lane, batch, expected, epoch, (offer, item), call)
        return int(kind), head, greatest

    def _subscribe(self, room: str, incarnation: int, must: int, chat: int) -> tuple[Any, ...]:
        found = self.store.attach(room, self)
        self.rooms.add(room)
        lanes = found.lanes
        resumed = incarnation == found.incarnation and lanes[0].reaches(must) and lanes[1].reaches(chat)
        tail = found.tail(must, chat) if resumed else found.tail()
        return resumed, tail.incarnation, tail.must, tail.chat, *tail.heads

    def _unsubscribe(self, room: str) -> tuple[()]:
        self.rooms.discard(room)
        self.store.detach(room, self)
        return ()

    def _last(self, room: str, lane: int) -> tuple[Any, ...]:
        return self.store.last(room, lane)

    def _tail(self, room: str, lane: int, after: int) -> tuple[Any]:
        return (self.store.after(room, lane, after),)

    def _offer(self, shard: int, items: list[bytes]) -> tuple[()]:
        self.store.offers.offer(shard, items)
        return ()

    def _consume(self, shard: int, after: int) -> tuple[()]:
        check_shard(shard, SHARDS)
        if not isinstance(after, int):
            raise TypeError("what is not a number can't be consumed after")
        if shard not in self.given:
            self.store.offers.attach(shard, self)
        self.given[shard] = after
        self._give_later(shard)  # after this has been answered
        return ()

    def _leave(self, shard: int) -> tuple[()]:
        if self.given.pop(shard, None) is not None:
            self.store.offers.detach(shard, self)
        self.behind.pop(shard, None)
        return ()

    def _covered(self, shard: int, seq: int) -> tuple[()]:
        self.store.offers.cover(shard, seq)
        return ()

    def _lease(self, shard: int, call: int) -> tuple[int, float]:
        check_shard(shard, SHARDS)
        epoch = self.store.leases.take(shard, call) or 0
        if epoch:
            self.leases[shard] = epoch
        return epoch, self.store.leases.ttl_s

    def _renew(self, shard: int, epoch: int) -> tuple[bool]:
        return (self.store.leases.renew(shard, epoch),)

    def _release(self, shard: int, epoch: int, call: int) -> tuple[()]:
        self.store.leases.release(shard, epoch, call)
        return ()

    def _fence(self, shard: int, epoch: int) -> tuple[Any, ...]:
        """The newest rooms, as many as go into an envelope: the others can be looked up."""
        standing = self.store.fence(shard, epoch)
        told: list[Any] = []
        left = FENCE_BYTES
        for room, last in standing.rooms.items():
            left -= len(room.encode()) + FENCE_ROOM_BYTES
            if left < 0:
                break
            told.append((room, *last))
        return standing.after, *told

    def _emit(self, subject: str, message: bytes) -> tuple[()]:
        if len(message) <= envelope.MESSAGE_BYTES:
            self.store.hearing.emit(subject, message)
        return ()

    def _hear(self, subject: str) -> tuple[()]:
        def hearer(message: bytes) -> None:
            if self.full:  # it may be lost, and this worker reads slowly
                self.server.unheard += 1
            elif not self.transport.is_closing():
                self.transport.write(pack(0, envelope.HEARD, subject, message))

        self._unhear(subject)
        self.store.hearing.attach(subject, hearer)
        self.hearers[subject] = hearer
        return ()

    def _unhear(self, subject: str) -> tuple[()]:
        hearer = self.hearers.pop(subject, None)
        if hearer is not None:
            self.store.hearing.detach(subject, hearer)
        return ()

    def _keep(self, key: str, value: bytes | None, revision: int | None, call: int) -> asyncio.Future[int]:
        if not isinstance(call, int) or not isinstance(key, str) or not isinstance(value, bytes | None):
            raise TypeError("what is no key, value and call can't be kept")
        return self.store.state.keep(key, value, revision, call)

    def _find(self, key: str) -> asyncio.Future[Kept | None]:
        return self.store.state.find(key)

    def _kept(self, prefix: str, after: str) -> asyncio.Future[Page]:
        return self.store.state.read(prefix, after)

    def _watch(self, prefix: str) -> tuple[()]:
        if prefix not in self.watched:
            change = partial(self.changed, prefix)
            self.store.state.attach(prefix, change)
            self.watched[prefix] = change
        return ()

    def _unwatch(self, prefix: str) -> tuple[()]:
        change = self.watched.pop(prefix, None)
        if change is not None:
            self.store.state.detach(prefix, change)
        return ()

    @property
    def full(self) -> bool:
        return self.paused or self.transport.get_write_buffer_size() > ANSWER_BYTES

    def batch(self, room: str, lane: int, seq: int, data: bytes) -> None:
        """As a Sink of the Store: called inside another session's append, so the end of this one is only begun."""
        if not self.transport.is_closing():
            self._tell(self.server.packed(room, lane, seq, data))

    def changed(self, prefix: str, key: str, value: bytes | None, revision: int) -> None:
        if not self.transport.is_closing():
            self._tell(pack(0, envelope.CHANGED, prefix, key, value, revision))

    def _tell(self, push: bytes) -> None:
        self.transport.write(push)
        if self.transport.get_write_buffer_size() > UNREAD_BYTES:
            log.error("a worker has left %d bytes unread, and is cut off", self.transport.get_write_buffer_size())
            self.server.cut += 1
            self.transport.abort()

    def reset(self, *what: object, **named: object) -> None:
        """As a Sink and as a Taker."""
        raise AssertionError("a Store never resets")

    def offered(self, shard: int, seq: int, items: list[bytes]) -> None:
        """As a Taker of the Store. What this worker does not read stays there, and is given when it has read on."""
        if shard in self.behind:
            return
        if self.full:
            self._give_later(shard)
        elif not self.transport.is_closing():
            self._push(shard, seq, items)

    def _push(self, shard: int, seq: int, items: list[bytes]) -> None:
        self.given[shard] = seq
        self.transport.write(pack(0, envelope.OFFERED, shard, seq, items))

    def _give_later(self, shard: int) -> None:
        self.behind[shard] = None
        if not self._giving:
            self._giving = True
            asyncio.get_running_loop().call_soon(self._give)

    def _give(self) -> None:
        """A turn's worth of each shard, unless there is much unread: then `resume_writing` goes on."""
        self._giving = False
        for shard in list(self.behind):
            found = self.store.offers.after(shard, self.given[shard], GIVEN)
            for offer in found:
                if self.transport.is_closing() or self.paused:
                    return
                if self.full:
                    break
                self._push(shard, offer.seq, offer.items)
            else:
                if len(found) < GIVEN:
                    del self.behind[shard]
        for shard in self.behind:
            self._give_later(shard)
            break


REFUSALS: dict[type[BaseException], str] = {
    Full: "full",
    Unavailable: "away",
    Closed: "away",
    Unsettled: "unsettled",
}


def _refusal(number: int, refused: BaseException) -> bytes:
    return pack(number, 1, REFUSALS.get(type(refused), "bad"), str(refused))


OPS: dict[int, Callable[..., tuple[Any, ...] | asyncio.Future[Any]]] = {
    envelope.APPEND: Session._append,
    envelope.SUBSCRIBE: Session._subscribe,
    envelope.UNSUBSCRIBE: Session._unsubscribe,
    envelope.LAST: Session._last,
    envelope.TAIL: Session._tail,
    envelope.OFFER: Session._offer,
    envelope.CONSUME: Session._consume,
    envelope.LEAVE: Session._leave,
    envelope.COVERED: Session._covered,
    envelope.LEASE: Session._lease,
    envelope.RENEW: Session._renew,
    envelope.RELEASE: Session._release,
    envelope.FENCE: Session._fence,
    envelope.EMIT: Session._emit,
    envelope.HEAR: Session._hear,
    envelope.UNHEAR: Session._unhear,
    envelope.KEEP: Session._keep,
    envelope.FIND: Session._find,
    envelope.KEPT: Session._kept,
    envelope.WATCH: Session._watch,
    envelope.UNWATCH: Session._unwatch,
}
