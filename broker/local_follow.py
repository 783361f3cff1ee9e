# What a worker follows over the way to the broker of its box: rooms and shards. It owns the position of each, and must
# never pass anything on past a hole, or twice.

import asyncio
import logging
from typing import Any

from broker import envelope
from broker.base import CHAT, LANES, MUST, BrokerError, Entry, Sink, Tail, Taker
from broker.local_way import Way, result
from broker.offers import Offer, give

log = logging.getLogger("broker")

REPAIR_AGAIN_S = 1.0


class Subscription:
    __slots__ = ("heads", "held", "incarnation", "live", "repairing", "room", "sink")

    def __init__(self, room: str, sink: Sink) -> None:
        self.room = room
        self.sink = sink
        self.incarnation = 0  # 0 until the first tail is here
        self.heads = [0, 0]
        self.held: list[tuple[int, int, bytes]] = []  # until the caller of subscribe has its tail
        self.live = False
        self.repairing = False

    def start(self, answer: list[Any]) -> Tail:
        _, incarnation, must, chat, *heads = answer
        self.incarnation, self.heads, self.held = incarnation, list(heads), []
        return Tail(incarnation, entries(must), entries(chat), (heads[MUST], heads[CHAT]))

    def deliver(self, lane: int, seq: int, data: bytes) -> bool:
        """False if there is a hole before this batch."""
        if seq <= self.heads[lane]:
            return True
        if seq != self.heads[lane] + 1:
            return False
        self.heads[lane] = seq
        if self.live:
            self._pass_on(lane, seq, data)
        else:
            self.held.append((lane, seq, data))
        return True

    def release(self) -> None:
        self.live = True
        held, self.held = self.held, []
        for lane, seq, data in held:
            self._pass_on(lane, seq, data)

    def reset(self, tail: Tail) -> None:
        self.incarnation = tail.incarnation
        self.heads = list(tail.heads)
        self.held.clear()
        try:
            self.sink.reset(self.room, tail)
        except Exception:
            log.exception("a subscriber of room %s failed on a reset", self.room)

    def _pass_on(self, lane: int, seq: int, data: bytes) -> None:
        try:
            self.sink.batch(self.room, lane, seq, data)
        except Exception:
            log.exception("a subscriber of room %s failed on lane %d, batch %d", self.room, lane, seq)


class Rooms:
    """The subscriptions, by room."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.repairs = 0
        self.by_room: dict[str, Subscription] = {}

    def way_up(self) -> None:
        for own in self.by_room.values():
            if own.incarnation:  # the others are still being asked for by their callers
                self._repair(own)

    def pushed(self, room: str, lane: int, seq: int, data: bytes) -> None:
        own = self.by_room.get(room)
        # Without an incarnation this is the rest of an earlier subscription, which this one's tail will contain.
        if own is not None and own.incarnation and not own.deliver(lane, seq, data):
            self._repair(own)

    def _repair(self, own: Subscription) -> None:
        """Ask for what follows on what the sink has. What is pushed before the answer is in the answer."""

        def answered(answer: list[Any] | None) -> None:
            own.repairing = False
            if self.by_room.get(own.room) is not own or answer is None:
                return  # lost: the next connection repairs
            try:
                resumed, incarnation, must, chat, *heads = result(answer)
            except (BrokerError, ValueError) as refused:
                log.error("room %s: the broker refuses to subscribe it again: %s", own.room, refused)
                asyncio.get_running_loop().call_later(REPAIR_AGAIN_S, self._repair_again, own)
                return
            if resumed and all(own.deliver(lane, *entry) for lane in LANES for entry in (must, chat)[lane]):
                return
            own.reset(Tail(incarnation, entries(must), entries(chat), (heads[MUST], heads[CHAT])))

        if not own.repairing:
            own.repairing = True
            self.repairs += 1
            self.way.send(answered, envelope.SUBSCRIBE, own.room, own.incarnation, *own.heads)

    def _repair_again(self, own: Subscription) -> None:
        if self.way.wire is not None and self.by_room.get(own.room) is own:
            self._repair(own)


class Taking:
    """One shard that is consumed. `after` is the last offer given."""

    __slots__ = ("after", "live", "shard", "taker")

    def __init__(self, shard: int, after: int, taker: Taker) -> None:
        self.shard = shard
        self.after = after
        self.taker = taker
        self.live = False

    def start(self, answer: list[Any]) -> None:
        # Here, as the answer comes: what was pushed before it is the rest of an earlier taking.
        self.live = True

    def give(self, seq: int, items: list[bytes]) -> None:
        if self.live and seq > self.after:
            self.after = seq
            give(self.taker, self.shard, Offer(seq, items, 0))


class Shards:
    """The takings, by shard."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.by_shard: dict[int, Taking] = {}

    def way_up(self) -> None:
        # No taker is ever reset: another life of the broker has none of the offers that were given, but it numbers from
        # the time in microseconds (see Offers), which is past them all unless the clock has been set back.
        for own in self.by_shard.values():
            if own.live:  # the others are still being asked for by their callers
                self.way.tell(envelope.CONSUME, own.shard, own.after)

    def pushed(self, shard: int, seq: int, items: list[bytes]) -> None:
        own = self.by_shard.get(shard)
        if own is not None:
            own.give(seq, items)


def entries(found: list[Any]) -> list[Entry]:
    return [(seq, data) for seq, data in found]
