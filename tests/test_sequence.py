"""pad_sequences and split_indices against Keras and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from fastrnn.datasets import pad_sequences, split_indices

RAGGED = [[1], [], [2, 3], [4, 5, 6, 7, 8]]


@pytest.fixture(scope="module")
def keras_pad():
    return pytest.importorskip("keras").utils.pad_sequences


@pytest.mark.keras
@pytest.mark.parametrize("padding", ["pre", "post"])
@pytest.mark.parametrize("truncating", ["pre", "post"])
@pytest.mark.parametrize("maxlen", [None, 1, 3, 9])
@pytest.mark.parametrize(
    ("sequences", "dtype", "value"),
    [
        (RAGGED, "int32", 0.0),
        (RAGGED, "float32", -1.5),
        ([np.array(s, dtype=np.int64) for s in RAGGED], "int16", 7),
        ([(1.9, 2.1), (3.5,)], "int32", 0),
        ([[[1, 2]], [[3, 4], [5, 6]]], "int32", 0.0),
        ([["a"], ["b", "c"]], object, "pad"),
        ([[], []], "int32", 4),
    ],
)
def test_equals_keras(keras_pad, sequences, dtype, value, maxlen, padding, truncating):
    kwargs = {"maxlen": maxlen, "dtype": dtype, "padding": padding, "truncating": truncating, "value": value}
    expected = keras_pad(sequences, **kwargs)
    result = pad_sequences(sequences, **kwargs)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


@pytest.mark.keras
@pytest.mark.parametrize(
    ("sequences", "kwargs"),
    [
        (5, {}),
        ([1, 2], {}),
        ([], {}),
        ([[1], [2, 3]], {"padding": "left"}),
        ([[1], [2, 3]], {"truncating": "left"}),
        ([[1], [2, 3]], {"value": "x"}),
        ([[1], [[2, 3]]], {}),
        ([[1], [2, 3]], {"maxlen": 0}),
    ],
)
def test_errors_are_keras_errors(keras_pad, sequences, kwargs):
    def message(pad):
        with pytest.raises(ValueError, match=r"\w") as caught:
            pad(sequences, **kwargs)
        return str(caught.value).split()

    assert message(pad_sequences) == message(keras_pad)


def test_pads_on_the_left_by_default():
    np.testing.assert_array_equal(pad_sequences(RAGGED, maxlen=3), [[0, 0, 1], [0, 0, 0], [0, 2, 3], [6, 7, 8]])


def test_split_is_disjoint_and_whole():
    train, test = split_indices(25_000)
    assert (len(train), len(test)) == (20_000, 5_000)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(25_000))


def test_split_rounds_the_held_out_part_up():
    train, test = split_indices(11, test_size=0.25)
    assert (len(train), len(test)) == (8, 3)


def test_split_equals_scikit_learn():
    selection = pytest.importorskip("sklearn.model_selection", reason="scikit-learn is not installed")
    expected = selection.train_test_split(np.arange(103), test_size=0.2, random_state=42)
    for mine, theirs in zip(split_indices(103), expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(("n", "size"), [(10, 0.0), (10, 1.0), (1, 0.2), (0, 0.2), (10, 0.99)])
def test_split_refuses_an_empty_part(n, size):
    with pytest.raises(ValueError, match="split_indices"):
        split_indices(n, test_size=size)
