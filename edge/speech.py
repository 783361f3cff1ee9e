# What becomes of a comment that somebody says here: bans and rules first, whom and what it speaks to next, then the
# offer, the queue, or a refusal. It owns the memory of what was said a moment ago, by which a retry is known, and the
# comments that wait to be resolved. It must never tell the author more than is certain, nor ask the classifier before
# it has answered.
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from edge import wire
from edge._fast.passed import Passed
from edge.errors import EdgeError
from edge.ingest.pipeline import PRE, Pipeline, Voice
from edge.ingest.recent import Recent
from edge.ingest.text import mentions
from edge.ingest.verdict import PUBLISH, Kind, Refusal, Verdict
from edge.known import Known
from edge.moderation.look import Look
from edge.moderation.review import Review, Tell, Waiting
from edge.moderation.rules import Rules
from edge.offers import Done, Offers
from edge.speaker import Speaker

REMOVED = Verdict(Kind.REJECTED, Refusal("moderated", "review"))
SAID = 131_072
"""Places for comments that are known again when they are sent once more, with the same `ref`; the last half of so many
are."""
OTHERS = 65_536
"""And of those of which there is more to be known than that they are published."""
SAME_S = 60.0
"""For so long, and in the same words: others are judged by themselves."""
HOLDING = 10_000
"""Comments on their way into the queue, at a time; past it they are refused."""
BEHIND = 128
"""Comments of one author that wait behind one that is being resolved; past it they are refused."""

Key = tuple[str, str]
"""A room, and the id of a comment in it: somebody's second room may well have the ref of the first."""


class _Judged(NamedTuple):
    """A comment as it was sent, and what was found then."""

    text: str
    re: str | None
    at: float
    verdict: Verdict


class _Said(NamedTuple):
    """A comment that has passed the rules."""

    room: str
    user: str
    voice: Voice
    body: wire.CommentBody
    names: tuple[str, ...]
    comment: wire.Message
    verdict: Verdict
    looked_at: bool
    done: Done


class Speech:
    """`tell` says something to all sockets of one user; `spawn` starts a task. With `lenient`, a mention of somebody
    who is not known is left as it is."""

    def __init__(
        self,
        offers: Offers,
        pipeline: Pipeline,
        rules: Rules,
        review: Review,
        known: Known,
        look: Look | None,
        tell: Tell,
        spawn: Callable[[Any], Any],
        lenient: bool = False,
    ) -> None:
        self._offers = offers
        self._pipeline = pipeline
        self._rules = rules
        self._review = review
        self._known = known
        self._look = look
        self._tell = tell
        self._spawn = spawn
        self._lenient = lenient
        self._passed = Passed(SAID)
        self._judged: Recent[Key, _Judged] = Recent(OTHERS)  # with another verdict than PUBLISH
        self._decided: Recent[Key, Verdict] = Recent(OTHERS)
        self._looked: Recent[Key, bool] = Recent(OTHERS)
        self._behind: dict[tuple[str, str], deque[_Said]] = {}  # by author, while one of theirs is being resolved
        self._holding = 0
        self.rejected = 0
        self.shadowed = 0
        self.held = 0

    def say(self, speaker: Speaker, body: wire.CommentBody, made: str, done: Done) -> None:
        """`done` is called later, or at once; an EdgeError says why the comment was not taken."""
        identity, room = speaker.identity, speaker.room
        text, re, paid = body.x, body.re, body.paid
        names = mentions(text) if "@" in text else ()
        wall, now = time.time(), time.monotonic()
        ban = self._rules.ban(room, identity.user, wall)
        if ban is not None and not ban.shadow:
            self.rejected += 1
            raise ban.refusal(wall)
        fresh = now - self._passed.since(room, made, text, re) > SAME_S
        known = None if fresh and not self._judged else self._known_verdict(room, made, body, now, fresh)
        if known is None:
            verdict = self._pipeline.check(speaker.voice, text, now, re, paid=paid is not None)
        elif (over := self._pipeline.again(speaker.voice, now)) is None:
            verdict = known
        else:
            self.rejected += 1
            raise over.error()
        if verdict.kind is Kind.REJECTED:
            self.rejected += 1
            assert verdict.refusal is not None
            raise verdict.refusal.error()
        if known is None:  # or who sends it again and again would be measured once for good
            if verdict is PUBLISH:
                self._passed.put(room, made, text, re, now)
            else:
                self._judged.put((room, made), _Judged(text, re, now, verdict))
            if self._decided:
                self._decided.drop((room, made))  # that was of other words, or is long ago
        ts = int(wall * 1000)
        gone = made in self._rules.gone(room)
        if ban is not None or gone or verdict.kind is Kind.SHADOW:
            self.shadowed += 1
            done("published")
            if not gone:  # else they were told that it is
                comment = wire.comment(made, identity.public(), text, ts, re=re, tier=identity.tier)
                self._spawn(self._tell(room, identity.user, wire.own(comment)))
            return
        looked_at = self._look is not None and not identity.moderates
        plain = verdict is PUBLISH and not looked_at and re is None and not names and paid is None
        if plain and (not self._behind or (room, identity.user) not in self._behind):  # as most are
            self._offers.take(room, speaker.shown.item(room, made, text, ts), done)
            return
        comment = wire.comment(made, identity.public(), text, ts, re=re, tier=identity.tier)
        if paid is not None and paid.pin_seconds:
            comment["pin_until"] = ts + paid.pin_seconds * 1000
        try:
            self._resolve(_Said(room, identity.user, speaker.voice, body, names, comment, verdict, looked_at, done))
        except EdgeError:
            self.rejected += 1
            raise

    def decided(self, room: str, made: str, published: bool) -> None:
        """A comment that waited does so no more, whoever has decided it and wherever: so a retry is not put to anybody
        again."""
        self._decided.put((room, made), PUBLISH if published else REMOVED)

    def _known_verdict(self, room: str, made: str, body: wire.CommentBody, now: float, fresh: bool) -> Verdict | None:
        """Of one that is sent again, because its answer was lost: it is measured once. One that is `fresh` has not
        passed."""
        key = room, made
        if not fresh:
            return self._decided.get(key) or PUBLISH
        found = self._judged.get(key)
        if found is None or (found.text, found.re) != (body.x, body.re) or now - found.at > SAME_S:
            return None
        return self._decided.get(key) or found.verdict

    # Whom it speaks to. What has to be looked up holds back what the same author says next, and nobody else.

    def _resolve(self, said: _Said) -> None:
        author = (said.room, said.user)
        if (waiting := self._behind.get(author)) is not None:
            if len(waiting) >= BEHIND:
                raise EdgeError("overloaded", retry_after=1)
            waiting.append(said)
        elif said.body.re is None and not said.names:
            self._put(said)
        elif (at := self._known.find(said.room, said.body.re, said.names)) is not None:
            self._speak_to(said, at)
        else:
            self._behind[author] = deque((said,))
            self._spawn(self._look_up(author))

    async def _look_up(self, author: tuple[str, str]) -> None:
        waiting = self._behind[author]
        try:
            while waiting:
                said = waiting.popleft()
                try:
                    at: tuple[str, ...] = ()
                    if said.body.re is not None or said.names:
                        at = await self._known.look(said.room, said.body.re, said.names, self._lenient)
                    self._speak_to(said, at)
                except EdgeError as error:
                    self.rejected += 1
                    self._pipeline.unsaid(said.voice)
                    said.done(error)
                except BaseException:
                    said.done(EdgeError("internal"))
                    raise
        finally:
            del self._behind[author]
            for said in waiting:
                said.done(EdgeError("internal"))

    def _speak_to(self, said: _Said, at: tuple[str, ...]) -> None:
        if at:
            said.comment["at"] = list(at)
        self._put(said)

    # Where it goes.

    def _put(self, said: _Said) -> None:
        unlooked = said.verdict is PRE and self._look is not None
        waiting = Waiting(said.room, said.user, said.verdict.reasons, said.comment, unlooked=unlooked)
        if said.verdict.kind is Kind.PENDING:
            self._hold(waiting, said)
        else:
            done = partial(self._published, waiting, said.done) if said.looked_at else said.done
            self._offers.take(said.room, wire.item(said.room, said.comment, said.body.paid is not None), done)

    def _published(self, waiting: Waiting, done: Done, status: str | EdgeError) -> None:
        done(status)
        key = (waiting.room, waiting.comment["id"])
        if status == "published" and self._look is not None and not self._looked.get(key):
            self._looked.put(key, True)
            waiting.shown = True
            self._look.at(waiting)

    def _hold(self, waiting: Waiting, said: _Said) -> None:
        if self._holding >= HOLDING:
            raise EdgeError("overloaded", retry_after=2)
        self._holding += 1
        self._spawn(self._held(waiting, said))

    async def _held(self, waiting: Waiting, said: _Said) -> None:
        answer: str | EdgeError = "unknown"
        try:
            answer = await self._review.hold(waiting)
            self.held += answer == "pending"
        except EdgeError as error:
            self.rejected += 1
            answer = error
        finally:
            self._holding -= 1
            said.done(answer)
        if waiting.revision and waiting.unlooked and self._look is not None:
            self._look.at(waiting)
