# A part of `make bench-ingest`: what stages 1 and 2 cost by themselves, in microseconds of one core: the whole of them,
# and their parts; what building a list costs; the worst that texts and lists can do. It must never time a comment that
# was not published: that would be the price of a refusal.

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import cycle

from bench.ingest_texts import ASCII, MIXED, comments, rules
from edge import wire
from edge.errors import EdgeError
from edge.ingest import modes
from edge.ingest.crowd import Echo
from edge.ingest.limits import Author, Limits, Rates
from edge.ingest.normal import forms, skeleton
from edge.ingest.patterns import Pattern, Patterns
from edge.ingest.pipeline import Pipeline, Rules
from edge.ingest.text import mentions
from edge.ingest.verdict import Kind
from edge.ingest.words import Entry, WordList, Words

ROOM = "derby"
ADDRESS = bytes(10) + b"\xff\xff\x0a"
AIMS_US = {ASCII: 5.0, MIXED: 9.0}


def timed(run: Callable[[], object], count: int, rounds: int) -> tuple[float, float]:
    """Microseconds for one of `count`: the median of the rounds, and the best."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        found.append((time.perf_counter() - start) * 1e6 / count)
    return statistics.median(found), min(found)


def clock() -> Iterator[float]:
    """A comment each ms, so that no limit is met but all are worked out."""
    now = 1000.0
    while True:
        now += 1e-3
        yield now


def whole(texts: list[str], words: list[Entry], patterns: list[Pattern], rounds: int) -> tuple[float, float]:
    pipeline = Pipeline(Rates())
    pipeline.set_rules(ROOM, Rules(words=WordList(words), patterns=Patterns(patterns)))
    voices = cycle(
        [pipeline.voice(ROOM, Author(f"user{number}"), ADDRESS + number.to_bytes(3)) for number in range(50_000)]
    )
    times = clock()
    gc.freeze()  # as a worker does after its start

    def run() -> None:
        for text in texts:
            verdict = pipeline.check(next(voices), text, next(times))
            if verdict.kind is not Kind.PUBLISH:
                raise RuntimeError(f"{text!r}: {verdict}")

    return timed(run, len(texts), rounds)


def parts(texts: list[str], words: list[Entry], patterns: list[Pattern], rounds: int) -> Iterator[tuple[str, float]]:
    bones = [skeleton(text) for text in texts]
    folded = [forms(text)[0] for text in texts]
    list_ = Words(here=WordList(words))
    set_ = Patterns(patterns)
    limits = Limits(Rates())
    echo = Echo()
    users = [f"user{number}" for number in range(len(texts))]
    purses = [limits.purse(Author(user), ADDRESS + at.to_bytes(3), ROOM) for at, user in enumerate(users)]
    both = list(zip(texts, bones, strict=True))
    author = Author("ann")
    times = clock()
    every: list[tuple[str, Callable[[], object]]] = [
        ("clean_text (in wire)", lambda: [wire.clean_text(text) for text in texts]),
        ("limits", lambda: [purse.take(next(times)) for purse in purses]),
        ("mode, where one is set", lambda: [modes.check(modes.Mode(), author, text, None, 0.0) for text in texts]),
        ("folded, and skeleton", lambda: [forms(text) for text in texts]),
        ("words", lambda: [list_.find(text, bone) for text, bone in both]),
        ("patterns", lambda: [set_.find(text, plain) for text, plain in zip(texts, folded, strict=True)]),
        ("crowd", lambda: [echo.check(bone, user, next(times)) for bone, user in zip(bones, users, strict=True)]),
        ("mentions", lambda: [mentions(text) for text in texts]),
    ]
    for name, run in every:
        yield name, timed(run, len(texts), rounds)[1]


def worst() -> Iterator[tuple[str, float]]:
    """In milliseconds."""
    rng = random.Random(3)
    words = [Entry("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(4, 10)))) for _ in range(10_000)]
    yield "build a list of 10,000 words", timed(lambda: WordList(words), 1000, 3)[0]
    nested = WordList([Entry(("ab" * 32)[-length:], "hold", False) for length in range(2, 65)])
    text = "ab" * 250
    yield "500 characters against entries nested in each other", timed(lambda: nested.find(text, text), 1000, 5)[0]
    costly: list[Pattern] = []
    while True:
        try:
            Patterns([*costly, Pattern(f"(a|b)*a(a|b){{{12 + len(costly)}}}c")])
        except EdgeError:
            break
        costly.append(Pattern(f"(a|b)*a(a|b){{{12 + len(costly)}}}c"))
    yield f"compile {len(costly)} costly patterns", timed(lambda: Patterns(costly), 1000, 3)[0]
    set_ = Patterns(costly)
    texts = ["".join(rng.choices("ab", k=500)) for _ in range(20)]
    searched = timed(lambda: [set_.find(text, text) for text in texts], 1000 * len(texts), 3)[0]
    yield "500 characters against them", searched
    strange = [wire.clean_text("".join(chr(rng.randrange(0x3400, 0x9FFF)) for _ in range(500))) for _ in range(20)]
    yield "500 characters that were never met before", timed(lambda: [skeleton(it) for it in strange], 20_000, 1)[0]


def run(count: int, rounds: int) -> list[str]:
    """What missed its aim, in words."""
    missed = []
    words, patterns = rules()
    for name, aim in AIMS_US.items():
        texts = comments(count, mixed=name == MIXED)
        median, best = whole(texts, words, patterns, rounds)
        chars = statistics.mean(map(len, texts))
        print(
            f"\n{name}: {len(texts)} comments of {chars:.0f} characters, {len(words)} words, {len(patterns)} patterns"
        )
        print(f"  the whole pipeline    {median:7.2f} us (best {best:.2f}; aim {aim:.0f})")
        if median > aim:
            missed.append(f"{name}: stages 1 and 2 take {median:.1f} us of {aim:.0f}")
        for part, took in parts(texts, words, patterns, rounds):
            print(f"    {part:24}{took:6.2f} us")
    print("\nthe worst")
    for part, took in worst():
        print(f"  {part:52}{took:9.3f} ms")
    return missed
