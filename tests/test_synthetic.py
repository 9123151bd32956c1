"""The made-up reviews: the same every time, of IMDb's form, and unsolvable without word order."""

from __future__ import annotations

import numpy as np
import pytest

from fastrnn.datasets import pad_sequences, synthetic


@pytest.fixture(scope="module")
def training():
    return synthetic.load_training(500)


def test_has_the_form_of_imdb():
    (x_train, y_train), (x_test, y_test) = synthetic.load_data(n_train=50, n_test=20)
    assert (len(x_train), len(y_train), len(x_test), len(y_test)) == (50, 50, 20, 20)
    assert x_train.dtype == object
    assert type(x_train[0]) is list
    assert type(x_train[0][1]) is int
    assert y_train.dtype == np.int64
    assert set(y_train) == {0, 1}
    assert all(row[0] == 1 and min(row[1:]) >= 4 for row in x_train)


def test_is_the_same_every_time_and_differs_by_seed():
    a, b, c = (synthetic.load_data(n_train=20, n_test=20, seed=seed) for seed in (3, 3, 4))
    assert a[0][0].tolist() == b[0][0].tolist()
    assert a[1][0].tolist() == b[1][0].tolist()
    assert a[0][0].tolist() != c[0][0].tolist()
    assert a[0][0].tolist() != a[1][0].tolist()


def test_training_half_alone_is_the_same():
    x, y = synthetic.load_training(300, n=40)
    (x_both, y_both), _ = synthetic.load_data(300, n_train=40, n_test=5)
    assert [row.tolist() for row in x] == x_both.tolist()
    np.testing.assert_array_equal(y, y_both)


def test_lengths_and_words_are_spread_as_in_imdb(training):
    x, y = training
    lengths = np.array([len(row) for row in x])
    assert lengths.min() >= 11
    assert lengths.max() <= 2494
    assert 150 < np.median(lengths) < 210
    assert 200 < lengths.mean() < 260
    assert 0.48 < y.mean() < 0.52
    assert max(row.max() for row in x) < 500


def test_order_tells_more_than_words(training):
    """A linear model of word counts stays well below a reader that lets negators turn the next word round."""
    x, y = training
    tokens = pad_sequences(x, maxlen=100)
    good, bad = np.isin(tokens, synthetic.GOOD_WORDS), np.isin(tokens, synthetic.BAD_WORDS)
    opinion = good.astype(int) - bad
    after_negator = np.zeros_like(good)
    after_negator[:, 1:] = np.isin(tokens, synthetic.NEGATORS)[:, :-1]

    def accuracy(score):
        return ((score > 0) == y).mean()

    words = accuracy(opinion.sum(1))
    order = accuracy(np.where(after_negator, -opinion, opinion).sum(1))
    assert words < 0.75
    assert order > 0.87
