# What the ingest benchmarks say: made-up chat in Latin letters or in many scripts, and lists of words and patterns that
# none of it holds. The same seed makes the same texts. It must never make a text that a server would refuse.

import random
from itertools import accumulate

from edge import wire
from edge.ingest.patterns import Pattern
from edge.ingest.words import Entry

ASCII, MIXED = "ASCII", "mixed scripts"
LETTERS = "etaoinshrdlucmfwypgbvk"
SCRIPTS = (
    "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэф",
    "のるがいしかとてにをはでんすたまラスールゴ素晴加油进球好",
    "कगचजटडतदनपबमयरलवसहािीुूेैोौंक्",
    "ăâđêôơưáàảãạắằấầéèẻẽẹếềíìóòỏõọốồớờúùứừý",
    "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "αβγδεζηθικλμνξοπρσςτυφχψωάέήίόύώ",
)
EMOJI = "👏 🔥 ⚽️ 🇧🇷 😂😂😂 👩‍👩‍👧 ❤️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿".split()


def vocabulary(rng: random.Random, letters: str, count: int) -> list[str]:
    return ["".join(rng.choices(letters, k=1 + min(rank // 8, rng.randint(1, 9)))) for rank in range(count)]


def comments(count: int, mixed: bool, seed: int = 2) -> list[str]:
    """Texts of 20 to 120 characters, none of them twice: about 60 on average, as chat is, with words as often as their
    rank has it. `mixed` ones are in six scripts and Latin, each with an emoji."""
    rng = random.Random(seed)
    tongues = [vocabulary(rng, letters, 5_000) for letters in (LETTERS, *(SCRIPTS if mixed else ()))]
    weights = list(accumulate(1 / rank for rank in range(3, 5_003)))
    made: set[str] = set()
    while len(made) < count:
        words = rng.choices(rng.choice(tongues), cum_weights=weights, k=rng.randint(4, 18))
        if mixed:
            words += [*rng.choices(tongues[0], cum_weights=weights, k=2), rng.choice(EMOJI)]
        text = " ".join(words)[:120].strip()
        if len(text) >= 20:
            made.add(wire.clean_text(text))
    return sorted(made)


def rules(seed: int = 1) -> tuple[list[Entry], list[Pattern]]:
    """1,000 words and 100 patterns that none of the texts holds."""
    rng = random.Random(seed)
    letters = "bcdfghjklmnpqrstvwxz"
    actions = ("reject", "hold", "shadow")
    words = [
        Entry("".join(rng.choices(LETTERS, k=rng.randint(6, 10))), rng.choice(actions), whole=number % 4 > 0)
        for number in range(1000)
    ]
    shapes = (
        r"https?://[\w.-]*{}\.(?:com|net|ru)",
        r"\b(?:buy|get|free)\s+{}\s+now\b",
        r"\+\d{{2,3}}[ -]?{}\d{{3}}",
        r"{}[.,]*\s*(?:coins?|tokens?)",
    )
    patterns = [
        Pattern(shapes[number % 4].format("".join(rng.choices(letters, k=6))), rng.choice(actions))
        for number in range(100)
    ]
    return words, patterns
