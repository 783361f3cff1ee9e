# What many do at once: the same text from many users is damped, and a sudden crowd on one target or of new accounts is
# told to the moderators. It owns what a room has seen lately, in bounded tables. It must never judge one comment by
# itself, nor keep a text past its window. The same text is looked for by each worker; crowds are counted by all of them
# together, for those who make one come by any (edge/moderation/crowds.py).
#
# Near-identical: of a text's distinct words the four with the least hashes are its sketch, and any three of the four
# name it. So a text in which one word was put in, left out or replaced still shares a name with the one before: the
# least three of what both have are within the least four of either. Hashes have keys that are others in each process,
# so nobody can choose words by theirs (edge/_fast/sketch.pyx). Texts that share a name are compared, for all that they
# have in common may be three words that everybody uses today.
from collections.abc import Mapping
from heapq import nlargest
from operator import itemgetter

from edge._fast.sketch import GRAM, LEAST_WORDS, LONG, UNSPACED, Names, Sketch
from edge.ingest.meter import Meter, Switch
from edge.ingest.recent import Recent
from edge.ingest.verdict import Refusal

WINDOW_S = 20.0
SAME = 8
"""Users who have said nearly the same within the window, from whom on it is refused."""
ALIKE = 0.5
"""The words that two texts share, as a part of all that are in either."""
NAMES = 16_384

TARGET_ON, TARGET_OFF = 60, 20
NEW_ON, NEW_OFF = 100, 30
NEW_SHARE = 0.5
"""Of all comments: only where newcomers are that many, they are a crowd and not just growth."""
ALARM_S = 10.0
CALM_S = 30.0
TARGETS = 4096
"""That are counted in a room: by a worker in a second, and by the one that adds it all up."""
LONGEST = 64
"""Characters of one that is counted: no user's name or comment's id has more."""
LOUD = 256
"""Of these an alarm may be on for so many at once."""


Said = tuple[int, str, str]
"""How many users have said the like of a text, the last of them, and the skeleton of the text."""


class Echo:
    """Nearly the same text, from many users of one room: so many of them pass in a window, counted by its halves."""

    __slots__ = ("_half_s", "_most", "_old", "_since", "_users", "_young")

    def __init__(self, users: int = SAME, window_s: float = WINDOW_S, names: int = NAMES) -> None:
        self._users = users
        self._half_s = window_s / 2
        self._most = max(4, names // 2)
        self._since = float("-inf")
        self._young = Names()  # of each: Said
        self._old = Names()

    def check(self, bones: str, user: str, now: float) -> Refusal | None:
        """Counts this text, or refuses it where too many have said the like. `bones` is its skeleton."""
        if now - self._since >= self._half_s or len(self._young) + 4 > self._most:
            self._turn(now)
        names = first(bones, user, self._young, self._old)
        if names is None:
            return None
        words = parts(bones)
        counted: dict[int, Said] = {}
        for name in names:
            said = self._counted(name, words, bones, user)
            if said is None:
                return Refusal("repeated", "crowd", self._since + self._half_s - now)
            counted[name] = said
        for name, said in counted.items():
            if said is not self._young.get(name):
                self._young.put(name, said)
        return None

    def _counted(self, name: int, words: set[str], bones: str, user: str) -> Said | None:
        """What is known under a name with this text in it; None where that is one too many."""
        said: Said | None = self._young.get(name)
        before: Said | None = self._old.get(name)
        if said is not None and not alike(words, said[2]):
            return said  # the name is another text's, until the table turns
        if before is not None and not alike(words, before[2]):
            before = None
        last = said or before
        if last is not None and last[1] == user:
            return said or (0, user, bones)
        users = 1 + (said[0] if said else 0)
        return None if users + (before[0] if before else 0) > self._users else (users, user, bones)

    def _turn(self, now: float) -> None:
        self._old = self._young if now - self._since < 2 * self._half_s else Names()
        self._young = Names()
        self._since = now


def parts(bones: str) -> set[str]:
    """The long words of a text; where it has no space between words, each few characters in a row."""
    words = bones.split()
    long = {word for word in words if len(word) >= LONG}
    if len(long) < LEAST_WORDS and any(len(word) >= UNSPACED for word in long):
        joined = "".join(words)
        return {joined[at : at + GRAM] for at in range(len(joined) - GRAM + 1)}
    return long


def alike(words: set[str], bones: str) -> bool:
    others = parts(bones)
    return len(words & others) >= ALIKE * len(words | others)


# Keys from Python's own salted hash, which are others in each process, as all its hashes are.
first = Sketch((hash("edge.crowd.start"), hash("edge.crowd.step"))).first
"""The four names of a text, by its skeleton, where somebody has said the like."""


class Counts:
    """What one worker has taken of a room since it said so last: all comments, newcomers' among them, and how many
    spoke to whom."""

    __slots__ = ("all", "new", "targets")

    def __init__(self) -> None:
        self.all = 0
        self.new = 0
        self.targets: dict[str, int] = {}

    def said(self, targets: tuple[str, ...], newcomer: bool) -> None:
        """A comment that speaks to `targets`, or is a newcomer's; any other is one more of `all`, and that is it."""
        self.all += 1
        self.new += newcomer
        for target in targets:
            count = self.targets.get(target, 0)
            if count or (len(self.targets) < TARGETS and len(target) <= LONGEST):
                self.targets[target] = count + 1

    def largest(self, most: int) -> dict[str, int]:
        """The targets that most speak to."""
        if len(self.targets) <= most:
            return self.targets
        return dict(nlargest(most, self.targets.items(), key=itemgetter(1)))


class Crowds:
    """A room's, as all workers together see them: each goes on once, and off once it has been calm for a while."""

    __slots__ = ("_all", "_loud", "_new", "_new_switch", "_targets")

    def __init__(self) -> None:
        self._all = Meter(ALARM_S)
        self._targets: Recent[str, Meter] = Recent(TARGETS)
        self._loud: dict[str, tuple[Meter, Switch]] = {}  # the targets that an alarm is on for: few
        self._new = Meter(ALARM_S)
        self._new_switch = Switch(NEW_ON, NEW_OFF, CALM_S)

    def add(self, comments: int, new: int, targets: Mapping[str, int], now: float) -> None:
        """What a worker has counted."""
        self._all.add(now, comments)
        self._new.add(now, new)
        for target, count in targets.items():
            meter = self._targets.get(target) or Meter(ALARM_S)
            meter.add(now, count)
            self._targets.put(target, meter)
            if meter.seen(now) >= TARGET_ON and target not in self._loud and len(self._loud) < LOUD:
                self._loud[target] = meter, Switch(TARGET_ON, TARGET_OFF, CALM_S)
                self._loud[target][1].turn(TARGET_ON, now)

    def turn(self, now: float) -> list[tuple[str, str]]:
        """To be called about once a second: what is on, "newcomers" with '', "target" with a name that is mentioned or
        the id of a comment."""
        found = []
        new = self._new.seen(now)
        self._new_switch.turn(new if new >= NEW_SHARE * self._all.seen(now) else 0.0, now)
        if self._new_switch.is_on:
            found.append(("newcomers", ""))
        for target, (meter, switch) in list(self._loud.items()):
            switch.turn(meter.seen(now), now)
            if switch.is_on:
                found.append(("target", target))
            else:
                del self._loud[target]
        return found

    def at_rest(self, now: float) -> bool:
        """Nothing is on, and nobody speaks."""
        return not (self._loud or self._new_switch.is_on or self._all.seen(now))
