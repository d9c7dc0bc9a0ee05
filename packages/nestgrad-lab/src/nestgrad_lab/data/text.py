"""WikiText-2: articles of Wikipedia, split into words, as windows of words each with the word after it.

Its files, `wikitext-2-train.txt`, -valid and -test, are looked for in the folder `text` of the user's cache, then of
the folder that NESTGRAD_DATA names, packed by gzip (`.txt.gz`) or not. The order of the training articles is free:
copies differ in it. What is read must have the published numbers of words.
"""

from __future__ import annotations

import collections
import functools
import gzip
import hashlib
import zlib

import numpy as np

from nestgrad_lab.data.dataset import Array, Dataset, Part, digest
from nestgrad_lab.data.public import VARIABLE, at_hand, roots
from nestgrad_lab.errors import DataError, OptionError

WIKITEXT_2 = "wikitext-2"
FOLDER = "text"
WORDS = {"train": 2_088_628, "valid": 217_646, "test": 245_569}
"""With an end of sentence for each line, as published (Merity et al. 2016)."""
VOCABULARY = 33_278
UNKNOWN, END = "<unk>", "<eos>"
WINDOW = 70
"""The words of a window in Clarke et al. 2022."""


def wikitext_2(window: int = WINDOW, vocabulary: int = VOCABULARY) -> Dataset:
    """Windows (n, window) of word numbers, one after the other, and as targets the words that follow; raises DataError.

    vocabulary: so many words are told apart, the most frequent of the training text, and `<unk>` stands for all others.
    """
    if not 1 < vocabulary <= VOCABULARY:
        raise OptionError(
            f"{WIKITEXT_2}: vocabulary {vocabulary}, limit: 2 to {VOCABULARY}. Remedy: leave it out for all words."
        )
    if not 1 <= window < WORDS["valid"]:
        raise OptionError(f"{WIKITEXT_2}: window {window}, limit: 1 to {WORDS['valid'] - 1}. Remedy: {WINDOW}.")
    texts, raw = _texts()
    known = _most_frequent(texts["train"], vocabulary)
    numbers = {word: number for number, word in enumerate(known)}
    unknown = numbers[UNKNOWN]
    found = {part: np.array([numbers.get(word, unknown) for word in words], np.int32) for part, words in texts.items()}
    return Dataset(
        name=WIKITEXT_2,
        task="classification",
        features=tuple(f"word{k}" for k in range(window)),
        classes=known,
        train=windows(found["train"], window),
        valid=windows(found["valid"], window),
        test=windows(found["test"], window),
        x_shift=np.zeros(window),
        x_scale=np.ones(window),
        y_shift=0.0,
        y_scale=1.0,
        sha256=digest(raw, np.array([window, vocabulary])),
    )


def windows(words: Array, window: int) -> Part:
    """The words cut into windows, x and y (n, window): y holds the word after each of x."""
    count = (len(words) - 1) // window
    return Part(words[: count * window].reshape(-1, window), words[1 : count * window + 1].reshape(-1, window))


def _most_frequent(words: tuple[str, ...], vocabulary: int) -> tuple[str, ...]:
    """So many words, the most frequent first, alphabetically among equals; `<unk>` is one of them."""
    counts = collections.Counter(words)
    ordered = sorted(counts, key=lambda word: (word != UNKNOWN, -counts[word], word))
    return tuple(ordered[:vocabulary])


@functools.lru_cache(maxsize=1)
def _texts() -> tuple[dict[str, tuple[str, ...]], Array]:
    """The words of each part, and the SHA-256 of the bytes that they were read from."""
    texts: dict[str, tuple[str, ...]] = {}
    read = hashlib.sha256()
    for part, count in WORDS.items():
        content = _content(part)
        read.update(content)
        words = tuple(content.decode("utf-8").replace("\n", f" {END} ").split())
        different = len(set(words)) if part == "train" else VOCABULARY
        if len(words) != count or different != VOCABULARY:
            raise DataError(
                f"{WIKITEXT_2}, {part}: {len(words)} words, {different} different ones, limit: {count} and "
                f"{VOCABULARY}. Remedy: put the public file there, by word, its rare words as {UNKNOWN}."
            )
        texts[part] = words
    return texts, np.frombuffer(read.digest(), np.uint8)


def _content(part: str) -> bytes:
    name = f"{WIKITEXT_2}-{part}.txt"
    path = at_hand(FOLDER, f"{name}.gz", name)
    if path is None:
        places = [root / FOLDER for root in roots()]
        raise DataError(
            f"{WIKITEXT_2}: {name} or {name}.gz is in none of {len(places)} places: {', '.join(map(str, places))}. "
            f"Remedy: put the three files into {places[0]}, or set {VARIABLE} to a folder that holds {FOLDER}. They "
            "are public as train.txt, valid.txt and test.txt at https://github.com/pytorch/examples, "
            "word_language_model/data/wikitext-2."
        )
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {error}, limit: a whole file. Remedy: put a whole copy there.") from None
