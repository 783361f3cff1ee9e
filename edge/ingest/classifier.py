# The third stage of moderation: a classifier behind HTTP, asked about comments in batches. It owns those that wait for
# a score, the requests under way and the breaker, each bounded. It must never ask about a comment twice, let anybody
# wait longer than `timeout_s`, nor raise for what the service does: who asks gets a score, or what holds without one.
#
# A comment may wait in the queue for half of its time: then it is let go, so that every request has the other half at
# least, and a service that has merely too much to do is not taken for one that is broken.
import asyncio
import logging
import random
import re
from collections import Counter, deque
from enum import StrEnum
from functools import partial
from typing import NamedTuple

import aiohttp
import msgspec
import yarl

log = logging.getLogger("edge.ingest.classifier")

WAITING = 4096
"""Comments that wait to be sent: past it there is no score, at once."""
SCORE_BYTES = 64  # of JSON for one score; a double takes 24, and some like to indent
HEAD_BYTES = 1024
IDLE_S = 15.0  # below what servers keep an idle connection for, so that a comment doesn't meet one just closing
NO_NUMBER = re.compile(rb"\b(?:NaN|Infinity)\b")

FAILURES = ("connect", "broken", "timeout", "status", "large", "json", "length", "score", "internal")
"""Of requests, by name: no connection; it ended before the answer did; no whole answer in time; a status that is not
200; too many bytes; no JSON of that form; not one score for each comment; one that is not 0 to 1; a mistake here."""
WHYS = ("breaker", "full", "waited", "late", "failed", "closed")
"""Why there is no score: the breaker is open; too many wait; it waited half of its time; its request took too long; or
failed otherwise; this classifier is closed."""


class Policy(StrEnum):
    """What becomes of a comment without a score. OPEN: it is published, and marked for review. HOLD: it stays pending
    until somebody has reviewed it."""

    OPEN = "open"
    HOLD = "hold"


class Comment(msgspec.Struct, frozen=True):
    """As it is sent: the text is `x`, the author's id `u`."""

    id: str
    x: str
    room: str
    u: str


class Score(NamedTuple):
    """0 is harmless, 1 is not; what follows from it is said in verdict.py."""

    value: float


class Down(NamedTuple):
    """No score: `why` (of WHYS), and whether it is published by the policy; else it stays pending."""

    why: str
    publish: bool


class Breaker:
    """Opens after `row` failures in a row, or when `share` of the last `window` requests failed; then rests, longer
    each time; then lets one request through, which closes it or does not. What was begun before the last change of mind
    doesn't count: `start` says the era, `ended` wants it back."""

    def __init__(
        self, row: int = 5, share: float = 0.5, window: int = 20, rest_s: float = 1.0, most_s: float = 15.0
    ) -> None:
        self._row, self._share, self._window = row, share, window
        self._first_s, self._most_s = rest_s, most_s
        self._rest_s = rest_s
        self._until = 0.0
        self._era = 0
        self._probing = False
        self._last: deque[bool] = deque(maxlen=window)
        self._in_row = 0
        self.is_open = False

    def admits(self, now: float) -> bool:
        return not self.is_open or (now >= self._until and not self._probing)

    def start(self) -> int:
        """A request that was admitted begins."""
        self._probing = self.is_open
        return self._era

    def ended(self, era: int, well: bool, now: float) -> bool | None:
        """What it has just become: open (True), closed (False); None where it stays."""
        if era != self._era:
            return None
        self._in_row = 0 if well else self._in_row + 1
        if self.is_open:
            if well:
                return self._close()
            self._rest_s = min(self._rest_s * 2, self._most_s)
            self._rest(now)
            return None
        self._last.append(well)
        full = len(self._last) == self._window
        if self._in_row < self._row and not (full and self._last.count(False) >= self._share * self._window):
            return None
        self.is_open = True
        self._rest_s = self._first_s
        self._rest(now)
        return True

    def _rest(self, now: float) -> None:
        self._era += 1
        self._probing = False
        self._until = now + self._rest_s * random.uniform(0.8, 1.2)  # workers shall not all try again together

    def _close(self) -> bool:
        self._era += 1
        self._probing = self.is_open = False
        self._last.clear()
        return False


class _Bad(Exception):
    """An answer that is none: its name (of FAILURES), and what it was."""

    def __init__(self, name: str, words: str) -> None:
        super().__init__(words)
        self.name = name


class _Answer(msgspec.Struct):
    scores: list[float]


class _Waiting:
    __slots__ = ("answer", "comment", "since")

    def __init__(self, comment: Comment, since: float, answer: "asyncio.Future[Score | Down]") -> None:
        self.comment = comment
        self.since = since
        self.answer = answer


class Classifier:
    """Asks `url` about at most `batch` comments at a time, `at_once` times at once; a comment waits `linger_s` for
    others to go with. `key` is sent as a bearer token unless it is empty. Raises ValueError for settings that make no
    sense. It belongs to the loop that it is first used in, and is to be closed there."""

    def __init__(
        self,
        url: str,
        key: str = "",
        timeout_s: float = 0.4,
        at_once: int = 4,
        batch: int = 64,
        linger_s: float = 0.02,
        policy: Policy = Policy.OPEN,
        *,
        waiting: int = WAITING,
        breaker: Breaker | None = None,
    ) -> None:
        self._url = _checked(url, key)
        if min(at_once, batch, waiting) < 1 or not 0 <= linger_s < timeout_s / 2 < float("inf"):
            raise ValueError("classifier: at_once, batch and waiting from 1, and linger_s below half of timeout_s")
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._timeout_s, self._linger_s = timeout_s, linger_s
        self._at_once, self._batch = at_once, batch
        self._policy = Policy(policy)
        self._most = waiting
        self._breaker = breaker or Breaker()
        self._queue: deque[_Waiting] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._counts = Counter(dict.fromkeys(("asked", "scored", "requests", "request_us", "opened"), 0))
        self._counts.update(dict.fromkeys([f"failed_{name}" for name in FAILURES], 0))
        self._counts.update(dict.fromkeys([f"down_{why}" for why in WHYS], 0))

    async def classify(self, comment: Comment) -> Score | Down:
        """Within `timeout_s`, and without a pause where there will be no score."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._counts["asked"] += 1
        if self._closed:
            return self._down("closed")
        if not self._breaker.admits(now):
            return self._down("breaker")
        if len(self._queue) >= self._most:
            return self._down("full")
        waiting = _Waiting(comment, now, loop.create_future())
        self._queue.append(waiting)
        if len(self._queue) == 1 or (len(self._queue) >= self._batch and len(self._tasks) < self._at_once):
            self._pump()
        return await waiting.answer

    @property
    def ready(self) -> bool:
        """It may be asked just now; one that has failed too often is left alone for a while."""
        return not self._closed and self._breaker.admits(asyncio.get_running_loop().time())

    def figures(self) -> dict[str, int]:
        """`waiting`, `under_way` and `open` go up and down, the others only up."""
        now = {"waiting": len(self._queue), "under_way": len(self._tasks), "open": int(self._breaker.is_open)}
        return {f"classifier_{name}": value for name, value in {**self._counts, **now}.items()}

    async def close(self) -> None:
        """Whoever waits is answered by the policy."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._drain("closed")
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._session is not None:
            await self._session.close()

    def _pump(self) -> None:
        """Lets go who has waited too long, sends what is due, and comes back when the next is.

        Who waits was admitted by the breaker: the queue is emptied when it opens, and the one batch that it lets
        through leaves nobody behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        queue = self._queue
        while queue and queue[0].since + self._timeout_s / 2 <= now:
            self._answer(queue.popleft(), "waited")
        while queue and len(self._tasks) < self._at_once:
            if len(queue) < self._batch and queue[0].since + self._linger_s > now:
                break
            self._send()
        if queue:
            wait_s = self._linger_s if len(self._tasks) < self._at_once else self._timeout_s / 2
            self._timer = loop.call_at(queue[0].since + wait_s, self._pump)

    def _send(self) -> None:
        batch: list[_Waiting] = []
        while self._queue and len(batch) < self._batch:
            waiting = self._queue.popleft()
            if not waiting.answer.done():  # who asked has given up
                batch.append(waiting)
        if batch:
            task = asyncio.get_running_loop().create_task(self._ask(batch, self._breaker.start()))
            self._tasks.add(task)
            task.add_done_callback(partial(self._sent, batch))

    def _sent(self, batch: list[_Waiting], task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        for waiting in batch:
            self._answer(waiting, "closed")  # only a cancelled request has left any
        if not self._closed:
            self._pump()

    async def _ask(self, batch: list[_Waiting], era: int) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._counts["requests"] += 1
        failure: Exception | None = None
        try:
            async with asyncio.timeout_at(batch[0].since + self._timeout_s):
                scores = await self._post([waiting.comment for waiting in batch])
        except Exception as error:
            failure = error
            name = _name_of(error)
            self._counts[f"failed_{name}"] += 1
            if name == "internal":
                log.exception("%d comments could not be asked about", len(batch))
            for waiting in batch:
                self._answer(waiting, "late" if name == "timeout" else "failed")
        else:
            for waiting, score in zip(batch, scores, strict=True):
                if not waiting.answer.done():
                    self._counts["scored"] += 1
                    waiting.answer.set_result(Score(score))
        now = loop.time()
        self._counts["request_us"] += round((now - began) * 1e6)
        self._judge(self._breaker.ended(era, failure is None, now), failure)

    def _judge(self, opened: bool | None, failure: Exception | None) -> None:
        if opened:
            self._counts["opened"] += 1
            words = f"{_name_of(failure)}: {failure}" if failure is not None else "too many requests failed"
            log.warning("the classifier is given a rest (%s); until it answers the policy is %s", words, self._policy)
            self._drain("breaker")
        elif opened is False:
            log.info("the classifier answers again")

    async def _post(self, comments: list[Comment]) -> list[float]:
        most = HEAD_BYTES + SCORE_BYTES * len(comments)
        body = msgspec.json.encode({"comments": comments})
        async with self._http().post(self._url, data=body, headers=self._headers, allow_redirects=False) as answer:
            if answer.status != 200:
                raise _Bad("status", f"it answers {answer.status}")
            if "Content-Encoding" in answer.headers:
                raise _Bad("json", "the answer is compressed, which was not asked for")
            data = bytearray()
            async for part in answer.content.iter_any():
                data += part
                if len(data) > most:
                    raise _Bad("large", f"the answer has more than {most} bytes")
        return _scores(bytes(data), len(comments))

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._at_once, keepalive_timeout=IDLE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),  # there is one deadline, _ask's
                auto_decompress=False,
            )
        return self._session

    def _drain(self, why: str) -> None:
        while self._queue:
            self._answer(self._queue.popleft(), why)

    def _answer(self, waiting: _Waiting, why: str) -> None:
        if not waiting.answer.done():
            waiting.answer.set_result(self._down(why))

    def _down(self, why: str) -> Down:
        self._counts[f"down_{why}"] += 1
        return Down(why, self._policy is Policy.OPEN)


def _checked(url: str, key: str) -> yarl.URL:
    made = yarl.URL(url)
    if made.scheme not in ("http", "https") or not made.host or made.user or made.password:
        raise ValueError("classifier: an address http://… or https://… without a name and password is wanted")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError("classifier: the key has characters that no header may have")
    return made


def _name_of(error: Exception) -> str:
    match error:
        case _Bad():
            return error.name
        case TimeoutError():
            return "timeout"
        case aiohttp.ClientConnectorError():
            return "connect"
        case aiohttp.ClientError() | OSError():
            return "broken"
    return "internal"


def _scores(data: bytes, count: int) -> list[float]:
    try:
        scores = msgspec.json.decode(data, type=_Answer).scores
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        if NO_NUMBER.search(data):  # not JSON either, but this is what it is
            raise _Bad("score", "a score is no number") from None
        raise _Bad("json", f"the answer is not as agreed: {error}") from None
    if len(scores) != count:
        raise _Bad("length", f"{len(scores)} scores for {count} comments")
    bad = next((score for score in scores if not 0 <= score <= 1), None)
    if bad is not None:
        raise _Bad("score", f"a score of {bad}")
    return scores
