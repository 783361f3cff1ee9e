"""Sweeps and cursors against a model: who is in a room gets each lane from where hello says, once and in order.

The machine lets viewers come, go, stop reading, hide and poll, while slices are so short that a sweep takes many turns.
What a viewer was given is checked as it is read (Viewer), against the room's head when all is calm, and for what was
allowed: a gap only after three batches in one blocked spell, a chat batch only behind the must batches that were there.
"""

from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests._fast.engine import CHAT, DEFLATE, JSON, MSGPACK, MUST, POLL, SSE, ZSTD, Rig, Viewer, bounded, nothing_kept

__all__ = ["nothing_kept"]

ROOMS = ["a", "b"]
rooms = st.sampled_from(ROOMS)
pick = st.integers(0, 10**6)


class Spell:
    """What the model knows of a viewer besides what it got."""

    def __init__(self, *, must_only: bool) -> None:
        self.must_only = must_only
        self.blocked_at: int | None = None
        self.missed = 0  # batches, over all blocked spells of three and more
        self.shown = True
        self.ever_hidden = False
        self.musts: list[tuple[int, int]] = []  # (bytes sent by then, must batch)
        self.hidden: list[tuple[int, int]] = []  # from and to which byte no chat may begin
        self.hidden_from = 0


class FanoutMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(sndbuf=16384, slice_us=0, chat_ring=8 << 20, must_ring=8 << 20, resume_bytes=8 << 20)
        self.spells: dict[Viewer, Spell] = {}
        for room in ROOMS:
            self.rig.room(room)

    # Who is there.

    def some(self, n: int, *, hidden: bool | None = None) -> Viewer | None:
        there = [
            viewer
            for viewer, spell in self.spells.items()
            if hidden is None or (spell.shown != hidden and viewer.enc not in (SSE, POLL) and not spell.must_only)
        ]
        return there[n % len(there)] if there else None

    def now(self, viewer: Viewer) -> dict[str, Any]:
        found = self.rig.engine.describe(viewer.id)
        assert found is not None
        return found

    @precondition(lambda self: len(self.spells) < 30)
    @rule(
        room=rooms,
        enc=st.sampled_from([JSON, JSON, MSGPACK, ZSTD, DEFLATE, SSE, POLL]),
        how=st.sampled_from(["", "", "", "last=0", "last=2", "lanes=must", "since"]),
        back=st.tuples(st.integers(0, 5), st.integers(0, 5)),
        many=st.sampled_from([1, 1, 1, 10]),
    )
    def join(self, room: str, enc: int, how: str, back: tuple[int, int], many: int) -> None:
        heads = [self.rig.heads[room, lane] for lane in (MUST, CHAT)]
        since = [max(0, head - n) for head, n in zip(heads, back, strict=True)]
        query = f"?since=i1.m{since[MUST]}.c{since[CHAT]}" if how == "since" else f"?{how}" if how else ""
        for _ in range(many):
            viewer = self.rig.join(room, enc, query=query, rcvbuf=4096)
            self.spells[viewer] = Spell(must_only=how == "lanes=must")
            if enc != POLL:
                hello = viewer.got[0][1]
                low = {
                    "since": since,
                    "last=0": heads,
                    "last=2": [heads[MUST] - 2, heads[CHAT] - 2],
                    "lanes=must": [heads[MUST] - 10, heads[CHAT]],
                    "": [heads[MUST] - 10, heads[CHAT] - 200],
                }[how]
                assert hello["since"] == f"i1.m{max(0, low[MUST])}.c{max(0, low[CHAT])}"
                assert hello["resumed"] == (how == "since")
        self.look()

    @rule(n=pick, reset=st.booleans())
    def leave(self, n: int, reset: bool) -> None:
        viewer = self.some(n)
        if viewer is not None:
            self.read(viewer)
            self.check(viewer)
            del self.spells[viewer]
            self.rig.leave(viewer, reset=reset)

    # What happens.

    @rule(
        room=rooms,
        lane=st.sampled_from([MUST, CHAT, CHAT]),
        size=st.sampled_from([5, 5, 300, 9000]),
        times=st.integers(1, 8),
    )
    def append(self, room: str, lane: int, size: int, times: int) -> None:
        for _ in range(times):
            self.rig.append(room, lane, size=size)
            for viewer, spell in self.spells.items():
                if lane == MUST and viewer.room == room:
                    spell.musts.append((self.now(viewer)["sent"], self.rig.heads[room, MUST]))

    @rule(times=st.integers(1, 6))
    def turn(self, times: int) -> None:
        for _ in range(times):
            self.rig.engine.tick()
            self.look()

    def look(self) -> None:
        for viewer, spell in self.spells.items():
            blocked, head = self.now(viewer)["blocked"], self.rig.heads[viewer.room, CHAT]
            if blocked and spell.blocked_at is None:
                spell.blocked_at = head
            elif not blocked and spell.blocked_at is not None:
                spell.missed += head - spell.blocked_at if head - spell.blocked_at >= 3 else 0
                spell.blocked_at = None

    def read(self, viewer: Viewer) -> None:
        viewer.read()
        # A poll that was answered asks again, when there is more for it: else it would wait.
        if viewer.enc == POLL and viewer.answers == viewer.asked and not self.caught_up(viewer):
            viewer.asked += 1
            lanes = "&lanes=must" if self.spells[viewer].must_only else ""
            viewer.ask(viewer.room, f"?since={viewer.vector}&user={viewer.user}{lanes}")

    def caught_up(self, viewer: Viewer) -> bool:
        lanes = (MUST,) if self.spells[viewer].must_only or not self.spells[viewer].shown else (MUST, CHAT)
        heads = [self.rig.heads[viewer.room, lane] for lane in lanes]
        if viewer.enc == POLL and viewer.answers < viewer.asked:  # it waits, and has not been told where it is
            return [self.rig.position(viewer)[lane] for lane in lanes] == heads
        return [viewer.position.get("mc"[lane], 0) for lane in lanes] == heads

    @rule(n=pick, some=st.sampled_from([1, 700, 20000, 10**6]))
    def reads(self, n: int, some: int) -> None:
        viewer = self.some(n)
        if viewer is not None:
            viewer.read(some)

    @rule(n=pick)
    def hide(self, n: int) -> None:
        viewer = self.some(n, hidden=False)
        if viewer is not None:
            spell = self.spells[viewer]
            assert self.rig.engine.visible(viewer.id, False)
            spell.shown, spell.ever_hidden = False, True
            spell.hidden_from = self.now(viewer)["sent"]

    @rule(n=pick)
    def show(self, n: int) -> None:
        viewer = self.some(n, hidden=True)
        if viewer is not None:
            spell = self.spells[viewer]
            spell.hidden.append((spell.hidden_from, self.now(viewer)["sent"]))
            assert self.rig.engine.visible(viewer.id, True)
            spell.shown = True

    # What must hold.

    @rule(really=st.sampled_from([False, False, True]))
    def calm(self, really: bool = True) -> None:
        if not really:
            return

        def done() -> bool:
            self.look()
            for viewer in self.spells:
                self.read(viewer)
            return self.rig.calm() and all(self.caught_up(viewer) for viewer in self.spells)

        self.rig.until(done)
        for viewer in self.spells:
            self.check(viewer)
        self.rig.until(lambda: self.rig.count("cold") == 0)  # whoever has everything holds nothing
        assert self.rig.count("closed_gone") + self.rig.count("connections") == self.rig.count("accepted")

    def check(self, viewer: Viewer) -> None:
        spell = self.spells[viewer]
        assert viewer.end is None
        assert not [gap for gap in viewer.gaps if gap[0] == "m"]
        if spell.must_only:
            assert not viewer.ids["c"]
            assert not viewer.gaps
        if not spell.ever_hidden:
            assert len(viewer.gaps) * 3 <= spell.missed + 3 * (spell.blocked_at is not None)
        if viewer.enc != POLL:
            self.check_order(viewer, spell)

    def check_order(self, viewer: Viewer, spell: Spell) -> None:
        must, ahead = 0, list(spell.musts)
        for began, message in viewer.got:
            if message["t"] == "score":
                must = int(message["id"][1:])
            elif message["t"] == "batch":
                while ahead and ahead[0][0] <= began:
                    assert ahead.pop(0)[1] <= must, f"{message['id']} went before a must batch that was there"
                assert not any(low <= began < high for low, high in spell.hidden), "chat for a hidden tab"

    def teardown(self) -> None:
        self.calm()
        self.rig.__exit__(None, None, None)


TestFanout = FanoutMachine.TestCase
TestFanout.settings = settings(bounded(40, steps=40), phases=[Phase.explicit, Phase.reuse, Phase.generate])
