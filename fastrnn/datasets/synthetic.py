"""Made-up reviews in which word order decides: a stand-in for IMDb where there is no network.

Between common words, drawn after Zipf's law, lie opinions of two words: a good or bad word and a negator.
A negator in front turns the word's meaning round ("not good"), one behind it does nothing ("good not").
Most opinions agree with the review's label, and most good words are meant as good, so the words alone tell
something; but whoever counts words and ignores their order errs much more often than whoever reads.
"""

from __future__ import annotations

import numpy as np

from fastrnn.datasets.ragged import Ragged

Pair = tuple[np.ndarray, np.ndarray]

# Ids of words, after the three that Keras keeps for padding, start and unknown. All lie below 500, so that a
# small vocabulary still has every opinion.
NEGATORS = np.arange(20, 26)
GOOD_WORDS = np.arange(100, 140)
BAD_WORDS = np.arange(140, 180)
_FIRST_WORD, _WORDS = 4, 20_000

# One opinion in every stretch of this many words.
_STRETCH = 12
# How often an opinion agrees with the label, and how often it is put as the opposite word, negated.
_AGREES, _NEGATED = 0.75, 0.3
_START, _UNKNOWN = 1, 2


def load_data(
    num_words: int | None = None, seed: int = 113, n_train: int = 25_000, n_test: int = 25_000
) -> tuple[Pair, Pair]:
    """Two sets of reviews, in the form of `imdb.load_data`; the same for the same arguments.

    Args:
        num_words: ids from this on become 2, "unknown"; None keeps all.
        seed: of the generator.
        n_train, n_test: the number of reviews.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: x are 1-D object arrays of lists of ints that start with 1,
        y int64 arrays of 0 and 1. Lengths are spread as IMDb's are, 11 to 2,494.
    """
    train, test = np.random.SeedSequence(seed).spawn(2)
    x_train, y_train = _reviews(n_train, np.random.default_rng(train), num_words)
    x_test, y_test = _reviews(n_test, np.random.default_rng(test), num_words)
    return (x_train.lists(), y_train), (x_test.lists(), y_test)


def load_training(
    num_words: int | None = None, seed: int = 113, n: int = 25_000
) -> tuple[list[np.ndarray], np.ndarray]:
    """The first half of `load_data` alone, as a list of int32 arrays: a fraction of the memory."""
    train, _ = np.random.SeedSequence(seed).spawn(2)
    x, y = _reviews(n, np.random.default_rng(train), num_words)
    return x.arrays(), y


def _reviews(n: int, rng: np.random.Generator, num_words: int | None) -> tuple[Ragged, np.ndarray]:
    """`n` reviews and their labels."""
    labels = rng.integers(2, size=n)
    lengths = np.clip(rng.lognormal(np.log(180.0), 0.7, size=n), 10, 2493).astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    flat = _background(int(lengths.sum()), rng)

    opinions = lengths // _STRETCH
    review = np.repeat(np.arange(n), opinions)
    number = np.arange(len(review)) - np.repeat(np.cumsum(opinions) - opinions, opinions)
    place = starts[review] + number * _STRETCH + rng.integers(_STRETCH - 1, size=len(review))
    good = (labels[review] == 1) == (rng.random(len(review)) < _AGREES)
    negated = rng.random(len(review)) < _NEGATED
    word = np.where(good != negated, rng.choice(GOOD_WORDS, len(review)), rng.choice(BAD_WORDS, len(review)))
    negator = rng.choice(NEGATORS, len(review))
    flat[place] = np.where(negated, negator, word)
    flat[place + 1] = np.where(negated, word, negator)

    if num_words is not None:
        flat[flat >= num_words] = _UNKNOWN
    return Ragged(flat, lengths).with_first(_START), labels


def _background(n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` common words as int32, the r-th most frequent about r times rarer than the first."""
    taken = np.concatenate([NEGATORS, GOOD_WORDS, BAD_WORDS])
    words = np.setdiff1d(np.arange(_FIRST_WORD, _FIRST_WORD + _WORDS + len(taken)), taken)
    share = np.cumsum(1.0 / np.arange(3.0, 3.0 + _WORDS))
    # A table of quantiles turns millions of draws into look-ups.
    quantiles = (np.arange(1 << 16) + 0.5) / (1 << 16)
    table = words[np.searchsorted(share / share[-1], quantiles)].astype(np.int32)
    return table[rng.integers(1 << 16, size=n, dtype=np.uint16)]
