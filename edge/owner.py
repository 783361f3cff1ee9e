# The owner's side of a worker: it competes for shards with all others, and writes those that it has got. It joins the
# broker to what edge.rooms knows, and owns the leases. It must never append without a lease that is held, nor go on in
# a shard where it has been fenced: it forgets what it had not written, and whoever is next reads it from the offers.
import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import msgspec

from broker.base import CHAT, AtOnce, Broker, BrokerError, Kind, Lease, Outcome
from edge import wire
from edge.eager import begin
from edge.rooms.balance import Loads, plan
from edge.rooms.reactions import Sums
from edge.rooms.shard import SAME_S, OwnedRoom, OwnedShard, Report

log = logging.getLogger("edge.owner")

TICK_S = 0.5
LISTEN_S = 0.2  # at the start, for those who are there already
GONE_S = 2.5  # without a word from a member: five ticks
RENEW = 1 / 5  # of a lease's TTL
COVER_S = 1.0
AGAIN_S = 0.05  # before the same append is tried again
EARLY_S = 0.002  # that a batch may be, and a timer is
TAKING = 16  # shards that are being taken at once
PRIMED = 64  # batches that are read before a room's first one, for what is said twice over a change of owner; or more
PRIMED_BYTES = 4 * 1024 * 1024
IDLE_S = 60.0
SMOOTH = 0.2  # of a new measurement of load in what is told

FIGURES = ("shards", "taken", "fenced", "batches", "comments", "sampled", "reactions", "unreadable")
MEMBERS = "owners"
WANTED = "viewers"


class _Member(msgspec.Struct, array_like=True):
    name: str
    state: str  # here, or `fresh`: wants to know who is there, or `leaving`
    loads: dict[int, float]


class _Held:
    """One shard that is ours."""

    __slots__ = ("cover_due", "covered", "giving", "lease", "load", "renew_due", "shard", "spent_s", "stepped_down")

    def __init__(self, lease: Lease, shard: OwnedShard, now: float) -> None:
        self.lease = lease
        self.shard = shard
        self.renew_due = now + lease.ttl_s * RENEW * (shard.number % 16 + 1) / 16  # not all at once
        self.cover_due = now + COVER_S
        self.covered = shard.seen
        self.spent_s = 0.0  # on it, since the last tick
        self.load = 0.0  # of a core
        self.giving = False  # it is on its way to somebody else
        self.stepped_down = False

    def ours(self) -> bool:
        return not self.stepped_down and self.lease.held


class Owner:
    """`share` is this worker's number on its box and how many there are: what it takes at once when nobody else is
    there. `alone`: nobody else ever is. `spawn` starts a task. `reactions` are the kinds that are counted.
    `gone` are the comments of a room that are to be shown no more, `banned` the users who are out of it for good.
    `counted` is given what workers have taken of rooms that are written here."""

    def __init__(
        self,
        broker: Broker,
        flush_ms: int,
        share: tuple[int, int],
        alone: bool,
        spawn: Callable[[Any], asyncio.Task[Any]],
        reactions: tuple[str, ...] = (),
        gone: Callable[[str], Collection[str]] = lambda _room: (),
        banned: Callable[[str], Collection[str]] = lambda _room: (),
        counted: Callable[[bytes], None] = lambda _counts: None,
    ) -> None:
        self.name = secrets.token_hex(6)
        self._broker = broker
        self._quick_s = flush_ms / 1000
        self._share = share
        self._alone = alone
        self._spawn = spawn
        # What has its batches in this process stores one without a wait: a task for each would cost more than that.
        self._begin = partial(begin, spawn) if isinstance(broker, AtOnce) else spawn
        self._timers: dict[OwnedRoom, asyncio.TimerHandle] = {}  # of rooms whose next batch has a time
        self._kinds = reactions
        self._gone = gone
        self._banned = banned
        self._counted = counted
        self._held: dict[int, _Held] = {}
        self._taking: set[int] = set()
        self._places = asyncio.Semaphore(TAKING)
        self._members: dict[str, tuple[float, Loads]] = {}
        self._busy: dict[int, float] = {}  # shards that somebody else still has the lease of, and since when
        self._ticking: asyncio.Task[Any] | None = None
        self._unwell = 0.0  # until when nothing is given away: it could not be released
        self._stopping = False
        self._ticked = time.monotonic()
        self.figures = {f"owner_{name}": 0 for name in FIGURES}

    # Its life.

    async def start(self, connected: bool) -> None:
        """Returns once this worker has taken its part, or has asked for it in vain."""
        await self._broker.hear(MEMBERS, self._heard)
        if connected and not self._alone:
            await self._tell("fresh")
            await asyncio.sleep(LISTEN_S)
        self._ticking = self._spawn(self._tick())  # leases are renewed from the first on
        number, count = self._share
        first = range(number, self._broker.shards, count)  # others of this box are as fresh, and take theirs
        if connected and not any(self._others().values()):
            await asyncio.gather(*(self._take(shard) for shard in first))

    async def stop(self) -> None:
        """Writes what has come, and lets others have the shards."""
        self._stopping = True
        if self._ticking is not None:
            self._ticking.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TICK_S * 2):
                while self._taking:  # noqa: ASYNC110 - what is on its way here is let go again, and signals nobody
                    await asyncio.sleep(AGAIN_S)
        await asyncio.gather(*(self._give(held) for held in list(self._held.values())))
        with contextlib.suppress(BrokerError):
            await self._tell("leaving")
        await self._broker.unhear(MEMBERS)

    async def _tick(self) -> None:
        while not self._stopping:
            await asyncio.sleep(TICK_S)
            try:
                await self._turn(time.monotonic())
            except BrokerError as error:
                log.debug("a turn of the owner: %s", error)
            except Exception:
                log.exception("a turn of the owner")

    async def _turn(self, now: float) -> None:
        passed, self._ticked = now - self._ticked, now
        for held in list(self._held.values()):
            held.load += SMOOTH * (held.spent_s / passed - held.load)
            held.spent_s = 0.0
            held.shard.sleep(now, IDLE_S)
            if not held.lease.held:
                self._step_down(held, "the lease has run out")
            elif now >= held.renew_due:
                held.renew_due = now + held.lease.ttl_s * RENEW
                self._spawn(self._renew(held))
        await self._tell()
        self._spawn(self._cover(now))
        self._balance(now)

    # Who writes what.

    def _heard(self, message: bytes) -> None:
        try:
            member = msgspec.msgpack.decode(message, type=_Member)
        except msgspec.DecodeError as bad:
            log.error("what came on %s is no member (%s)", MEMBERS, bad)
            return
        if member.name == self.name:
            return
        if member.state == "fresh":
            self._spawn(self._tell())
        if member.state == "leaving":
            self._members.pop(member.name, None)
        else:
            self._members[member.name] = (time.monotonic(), member.loads)

    async def _tell(self, state: str = "here") -> None:
        loads = {number: round(held.load, 4) for number, held in self._held.items()}
        await self._broker.emit(MEMBERS, msgspec.msgpack.encode(_Member(self.name, state, loads)))

    def _others(self) -> dict[str, Loads]:
        now = time.monotonic()
        self._members = {name: it for name, it in self._members.items() if now - it[0] < GONE_S}
        return {name: loads for name, (_, loads) in self._members.items()}

    def _balance(self, now: float) -> None:
        mine: dict[int, float] = {number: held.load for number, held in self._held.items()}
        mine |= dict.fromkeys(self._taking, 0.0)
        self._busy = {shard: since for shard, since in self._busy.items() if now - since < TICK_S * 0.9}
        made = plan(self.name, {self.name: mine, **self._others()}, self._broker.shards, self._busy)
        for shard in made.claim:
            self._spawn(self._take(shard))
        for shard in made.release if now > self._unwell else ():
            if shard in self._held:
                self._spawn(self._give(self._held[shard]))

    async def _take(self, number: int) -> None:
        if number in self._held or number in self._taking:
            return
        self._taking.add(number)
        lease = None
        try:
            async with self._places:
                lease = await self._broker.lease(number)
                if lease is None:
                    self._busy[number] = time.monotonic()
                    return
                if self._stopping:
                    return
                standing = await self._broker.fence(number, lease.epoch)
                rooms = {name: (last.head, last.mark) for name, last in standing.rooms.items()}
                shard = OwnedShard(number, standing.after, rooms, self._quick_s, self._kinds)
                held = _Held(lease, shard, time.monotonic())
                self._held[number] = held
                await self._broker.hear(f"jobs.{number}", lambda message: self._reported(held, message))
                await self._broker.hear(f"react.{number}", lambda message: self._reacted(held, message))
                await self._broker.hear(f"crowd.{number}", self._counted)
                await self._broker.consume(number, standing.after, self)
                await self._broker.emit(WANTED, msgspec.msgpack.encode(number))
                self.figures["owner_taken"] += 1
                lease = None
        except BrokerError as error:
            log.warning("shard %d can't be taken: %s", number, error)
            if (failed := self._held.get(number)) is not None:
                self._step_down(failed, str(error))
                lease = None
        finally:
            self._taking.discard(number)
            if lease is not None:
                await lease.release()

    async def _give(self, held: _Held) -> None:
        """In an orderly way: nothing more is taken, what has come is written, and then others may have it."""
        if held.stepped_down or held.giving:
            return
        held.giving = True
        try:
            await self._broker.leave(held.shard.number)
            async with asyncio.timeout(TICK_S * 2):
                await asyncio.gather(*(self._empty(held, room) for room in list(held.shard.rooms.values())))
                await self._broker.covered(held.shard.number, held.shard.low())
        except (BrokerError, TimeoutError) as error:
            why = str(error) or "it took too long"
            log.warning("shard %d is let go with comments left for the next owner: %s", held.shard.number, why)
        finally:
            self._step_down(held, "")

    def _step_down(self, held: _Held, why: str) -> None:
        if held.stepped_down:
            return
        held.stepped_down = True
        number = held.shard.number
        if self._held.get(number) is held:
            del self._held[number]
        if why:
            log.warning("shard %d is let go: %s", number, why)
        self._spawn(self._leave(held))

    async def _leave(self, held: _Held) -> None:
        await self._broker.leave(held.shard.number)
        await self._broker.unhear(f"jobs.{held.shard.number}")
        await self._broker.unhear(f"react.{held.shard.number}")
        await self._broker.unhear(f"crowd.{held.shard.number}")
        await held.lease.release()  # last: until then nobody takes it, this worker neither

    async def _renew(self, held: _Held) -> None:
        try:
            if not await held.lease.renew():
                self._step_down(held, "another has the lease")
        except BrokerError as error:
            self._unwell = time.monotonic() + held.lease.ttl_s * RENEW * 2
            log.debug("shard %d: the lease is not renewed: %s", held.shard.number, error)

    async def _cover(self, now: float) -> None:
        for held in list(self._held.values()):
            low = held.shard.low()
            if now >= held.cover_due and low > held.covered and not held.stepped_down:
                held.cover_due = now + COVER_S
                try:
                    await self._broker.covered(held.shard.number, low)
                    held.covered = low
                except BrokerError as error:
                    log.debug("shard %d: %s", held.shard.number, error)
                    return

    # What is said, and what becomes of it.

    def offered(self, shard: int, seq: int, items: list[bytes]) -> None:
        held = self._held.get(shard)
        if held is None:
            return
        began, bad = time.monotonic(), held.shard.bad
        touched = held.shard.offered(seq, items)
        now = time.monotonic()
        held.spent_s += now - began
        self.figures["owner_unreadable"] += held.shard.bad - bad
        for room in touched:
            if not room.busy:
                self._schedule(held, room, now)
            elif (timer := self._timers.get(room)) is not None and now >= timer.when() - EARLY_S:
                timer.cancel()  # the loop is awake now: waking it up once more would cost more than the batch
                self._due(held, room)

    def writes(self, room: str) -> bool:
        held = self._held.get(self._broker.shard_of(room))
        return held is not None and held.ours()

    def retract(self, room: str, ids: Collection[str]) -> None:
        """What waits of these is not shown any more."""
        if (held := self._held.get(self._broker.shard_of(room))) is not None:
            held.shard.retract(room, ids)

    def silence(self, room: str, user: str) -> list[str]:
        """Nothing more of this user's is shown in the room, or EVERYWHERE, that had not been yet; of which rooms that
        are written here."""
        now, found, everywhere = time.monotonic(), [], room == wire.EVERYWHERE
        for held in self._held_of(room):
            for name in list(held.shard.rooms) if everywhere else (room,):
                held.shard.silence(name, {user}, now)
            found += held.shard.names() if everywhere else [room]
        return found

    def unsilence(self, room: str, user: str) -> None:
        """What this user says from now on is shown again."""
        for held in self._held_of(room):
            held.shard.unsilence(None if room == wire.EVERYWHERE else room, user)

    def _held_of(self, room: str) -> list[_Held]:
        if room == wire.EVERYWHERE:
            return list(self._held.values())
        held = self._held.get(self._broker.shard_of(room))
        return [] if held is None else [held]

    def reset(self, shard: int) -> None:
        if (held := self._held.get(shard)) is not None:
            self._step_down(held, "offers have been lost by the broker")

    def _reported(self, held: _Held, message: bytes) -> None:
        try:
            report = msgspec.msgpack.decode(message, type=Report)
        except msgspec.DecodeError as bad:
            log.error("shard %d: what came is no report (%s)", held.shard.number, bad)
            return
        now = time.monotonic()
        for name, viewers, sweep_ms in report.rooms:
            held.shard.room(name).reported(now, report.worker, viewers, sweep_ms / 1000)

    def _reacted(self, held: _Held, message: bytes) -> None:
        try:
            sums = msgspec.msgpack.decode(message, type=Sums)
        except msgspec.DecodeError as bad:
            log.error("shard %d: what came is no sum of reactions (%s)", held.shard.number, bad)
            return
        if not held.ours():
            return  # whoever is next does not hear this: what is lost of reactions is lost
        for name, counts in sums.rooms:
            if self._broker.shard_of(name) == held.shard.number:
                room = held.shard.room(name)
                self.figures["owner_reactions"] += room.totals.add(counts)
                self._await_reactions(held, room)

    def _await_reactions(self, held: _Held, room: OwnedRoom) -> None:
        """Makes a batch for them, unless one with comments comes before: that one takes them along."""
        now = time.monotonic()
        due = room.reactions_due(now)
        if due is None or room.busy or room.reacting or held.giving or not held.ours():
            return
        room.reacting = True
        asyncio.get_running_loop().call_later(max(0.0, due - now), self._reactions_due, held, room)

    def _reactions_due(self, held: _Held, room: OwnedRoom) -> None:
        room.reacting = False
        due = room.reactions_due(time.monotonic())
        if due is None or room.busy or held.giving or not held.ours():
            return  # a batch is on its way, or `_empty` makes the last one
        if due - time.monotonic() > EARLY_S:
            self._await_reactions(held, room)  # another has been made meanwhile, and there is more by now
        else:
            room.busy = True
            self._begin(self._flush(held, room))

    def _schedule(self, held: _Held, room: OwnedRoom, now: float) -> None:
        room.busy = True
        delay_s = max(0.0, room.pace.due(now) - now)
        self._timers[room] = asyncio.get_running_loop().call_later(delay_s, self._due, held, room)

    def _due(self, held: _Held, room: OwnedRoom) -> None:
        del self._timers[room]
        self._begin(self._flush(held, room))

    async def _flush(self, held: _Held, room: OwnedRoom) -> None:
        try:
            await self._batch(held, room)
        except Exception as error:  # what it had taken is not accounted for any more, but by whoever is next
            log.exception("room %s", room.name)
            self._step_down(held, repr(error))
        finally:
            room.busy = False
            if room.window and held.ours():
                self._schedule(held, room, time.monotonic())
            else:
                self._await_reactions(held, room)

    async def _empty(self, held: _Held, room: OwnedRoom) -> None:
        while (room.window or room.totals.due is not None) and held.ours():
            if room.busy:
                await asyncio.sleep(AGAIN_S)
                continue
            room.busy = True
            try:
                await self._batch(held, room)
            finally:
                room.busy = False

    async def _batch(self, held: _Held, room: OwnedRoom) -> None:
        if not held.ours() or (not room.primed and not await self._prime(held, room)):
            return
        now = time.monotonic()
        taken = room.take()
        if taken is None:
            return
        room.pace.made(now)
        data = room.batch(taken, now, time.time_ns() // 1_000_000)
        held.spent_s += time.monotonic() - now
        outcome = await self._append(held, room, data, taken.mark)
        if outcome.kind is Kind.STORED:
            room.stored(taken)
            self.figures["owner_batches"] += 1
            self.figures["owner_comments"] += len(taken.comments)
            self.figures["owner_sampled"] += taken.of - len(taken.comments)
        else:
            self.figures["owner_fenced"] += 1
            self._step_down(held, f"fenced in room {room.name}: {outcome}")

    async def _append(self, held: _Held, room: OwnedRoom, data: bytes, mark: tuple[int, int]) -> Outcome:
        """Until it is known how it ended: STORED, or FENCED, which a lease that has run out is as good as."""
        while held.ours():
            try:
                outcome = await self._broker.append(room.name, CHAT, data, room.head, held.lease.epoch, mark)
                if outcome.kind is not Kind.UNKNOWN:
                    return outcome
            except BrokerError as error:
                log.debug("room %s: a batch is not stored yet: %s", room.name, error)
            await asyncio.sleep(AGAIN_S)
        return Outcome(Kind.FENCED, room.head)

    async def _prime(self, held: _Held, room: OwnedRoom) -> bool:
        while held.ours():
            try:
                head, mark = room.head, room.mark
                if head < 0:  # not told of when the shard was taken: new, or one of very many
                    head, _, mark = await self._broker.last(room.name, CHAT)
                await self._remember(room, head, mark)
                room.window.retract(self._gone(room.name))  # whoever had the room before may not have come to it
                if banned := self._banned(room.name):
                    held.shard.silence(room.name, banned, time.monotonic())
                return True
            except BrokerError as error:
                log.debug("room %s can't be read yet: %s", room.name, error)
                await asyncio.sleep(AGAIN_S)
        return False

    async def _remember(self, room: OwnedRoom, head: int, mark: tuple[int, int]) -> None:
        """What has been said in the last minute, as far as the log shows it: a quiet room needs one look, a busy one
        goes on with twice as many batches."""
        count = PRIMED
        while True:
            entries = await self._broker.tail(room.name, CHAT, max(0, head - count), PRIMED_BYTES) if head else []
            oldest_ms = room.prime(head, mark, [data for _, data in entries])
            if len(entries) < count or time.time() - oldest_ms / 1000 > SAME_S:
                room.primed = True
                return
            count *= 2

    def metrics(self) -> dict[str, int]:
        self.figures["owner_shards"] = len(self._held)
        return self.figures
