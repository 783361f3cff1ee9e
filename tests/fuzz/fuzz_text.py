# The fuzz target of text in C: each module against what it has to be, written once more in Python, or asked of the
# functions that it stands in for. `one` raises on any disagreement. Run alone it fuzzes with atheris (python -m
# tests.fuzz.fuzz_text [corpus] [-libFuzzer options]); the tests call `one`, and each check, without it.
import re
import sys
import unicodedata
from typing import Any
from unittest import mock

from edge import wire
from edge._fast.sieve import Sieve
from edge._fast.sketch import GRAM, LEAST_WORDS, LONG, UNSPACED, Sketch
from edge.errors import EdgeError
from edge.ingest.normal import collapse, fold, forms, skeleton
from edge.ingest.words import Entry, WordList

KEYS = (0x0123456789ABCDEF, 0xFEDCBA9876543210)
SKETCH = Sketch(KEYS)
M64 = (1 << 64) - 1


def forms_model(text: str) -> tuple[str, str]:
    folded = fold(text)
    return folded, collapse(folded)


def forms_hold(text: str) -> None:
    """`text` is in NFC."""
    folded, bones = forms(text)
    assert (text.lower() if folded is None else folded, bones) == forms_model(text), ascii(text)


UNSEEN = re.compile(f"[{wire.UNSEEN}]")
STACK = re.compile(f"[{wire.MARKS}{wire.FAR}]+")
KINDS = ((f"[{wire.ACCENTS}]", 4), (f"[{wire.MARKS}{wire.FAR}]", 8), (f"[{wire.FAR}]", 4))


def clean_model(text: str) -> str:
    """By the patterns that say what bad is. What is not seen holds no two marks apart."""
    if len(text) <= 4 * wire.TEXT_CHARS:
        text = unicodedata.normalize("NFC", text)
    if len(text) > wire.TEXT_CHARS:
        raise EdgeError("bad_text", "many")
    seen = UNSEEN.sub("", text)
    if wire._BAD_TEXT.search(text) or not re.search(r"[^\s\u2800]", seen):
        raise EdgeError("bad_text", "bad")
    if any(len(re.findall(kind, stack)) > most for stack in STACK.findall(seen) for kind, most in KINDS):
        raise EdgeError("bad_text", "marks")
    return text


def cleaned(clean: Any, text: str) -> str | None:
    try:
        made: str = clean(text)
    except EdgeError as bad:
        assert bad.name == "bad_text"
        return None
    return made


def clean_holds(text: str) -> None:
    assert cleaned(wire.clean_text, text) == cleaned(clean_model, text), ascii(text)


def names_model(bones: str) -> tuple[int, ...] | None:
    words = bones.split()
    long = {tuple(map(ord, word)) for word in words if len(word) >= LONG}
    hashes = sorted(map(word_hash, long))
    if len(hashes) < LEAST_WORDS and any(len(word) >= UNSPACED for word in long):
        joined = "".join(words)
        grams = {joined[at : at + GRAM] for at in range(len(joined) - GRAM + 1)}
        hashes = sorted(map(gram_hash, grams))
    if len(hashes) < LEAST_WORDS:
        return None
    a, b, c, d = hashes[:4]
    return tuple(name >> 4 for name in (a ^ b ^ c, a ^ b ^ d, a ^ c ^ d, b ^ c ^ d))


def mixed(a: int, b: int) -> int:
    return (a * b & M64) ^ (a * b >> 64)


def word_hash(word: tuple[int, ...]) -> int:
    h = KEYS[0]
    for code in word:
        h = mixed(h ^ code, KEYS[1] | 1)
    return mixed(h, KEYS[0] | 1)


def gram_hash(gram: str) -> int:
    packed = sum(ord(char) << 21 * at for at, char in enumerate(gram, 3 - GRAM))
    return mixed(mixed(KEYS[0] ^ packed, KEYS[1] | 1), KEYS[0] | 1)


def names_hold(bones: str) -> None:
    assert SKETCH.names(bones) == names_model(bones), ascii(bones)


def sieve_holds(text: str, words: list[tuple[str, bool]]) -> bool:
    """Where it says no, a list of these finds nothing."""
    bones = skeleton(text)
    may = Sieve(words).may(text, bones)
    assert may or not any(word in bones for word, alone in words if not alone), ascii((text, words))
    return may


def list_holds(text: str, entries: list[Entry]) -> None:
    """A list finds what it finds without its sieve, and looking at all that it finds."""
    listed = WordList(entries)
    found = listed.find(text, skeleton(text))
    listed._sieve = Everything()  # type: ignore[assignment]
    assert found == listed.find(text, skeleton(text)), ascii((text, entries))
    with mock.patch.multiple("edge.ingest.words", _may_begin=always, _may_end=always):
        assert found == listed.find(text, skeleton(text)), ascii((text, entries))


def always(bones: str, at: int, text: str) -> bool:
    return True


class Everything:
    def may(self, text: str, bones: str) -> bool:
        return True


def one(data: bytes) -> None:
    for text in (data.decode(errors="ignore"), data.decode("utf-16-le", "ignore"), data.decode("latin-1")):
        clean_holds(text)
        normal = unicodedata.normalize("NFC", text)
        forms_hold(normal)
        bones = skeleton(normal)
        names_hold(bones)
        parts = [(part, at % 2 > 0) for at, part in enumerate(bones.split()) if part]
        if parts:
            assert sieve_holds(normal, [(part, False) for part, _ in parts])
            sieve_holds(normal[: len(normal) // 2], parts)


def main() -> None:
    import atheris  # type: ignore[import-not-found]

    # The compiled modules give no coverage; the references do, and they branch where those must.
    with atheris.instrument_imports(include=["tests.fuzz"]):
        from tests.fuzz import fuzz_text

    atheris.Setup(sys.argv, fuzz_text.one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
