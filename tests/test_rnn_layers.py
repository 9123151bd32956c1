"""The LSTM and GRU layers on top of the ops: states, gradients, dropout, stateful, many samples of their own."""

from __future__ import annotations

import numpy as np
import pytest

import fastrnn as fr

LAYERS = [fr.LSTM, fr.GRU]


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(list(shape)).normal(size=shape)


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_by_central_differences(kind: type[fr.LSTM]) -> None:
    fr.set_seed(1)
    layer = kind(3, return_sequences=True, return_state=True, dtype="float64")
    x, initial = random(2, 4, 5), [random(2, 3) for _ in range(kind.states_count)]
    y, *states = layer(x, initial_state=initial, training=True)
    dy, dstates = random(*y.shape), [random(2, 3) + k for k in range(len(states))]
    layer.set_weights([w + 0.3 * random(*w.shape) for w in layer.get_weights()])
    layer(x, initial_state=initial, training=True)
    dx = layer.backward(dy, dstates)

    def loss() -> float:
        outputs = layer(x, initial_state=initial)
        return float(sum((a * b).sum() for a, b in zip(outputs, [dy, *dstates], strict=True)))

    assert layer.dinitial_state is not None
    for array, gradient in zip([x, *layer.weights, *initial], [dx, *layer.grads, *layer.dinitial_state], strict=True):
        for index in list(np.ndindex(array.shape))[::3]:
            value = array[index]
            array[index] = value + 1e-6
            above = loss()
            array[index] = value - 1e-6
            below = loss()
            array[index] = value
            assert abs((above - below) / 2e-6 - gradient[index]) < 1e-7


@pytest.mark.parametrize("kind", LAYERS)
def test_states_carry_on(kind: type[fr.LSTM]) -> None:
    """A sequence in two parts, the states handed over, gives what it gives whole: by hand and with stateful."""
    layer = kind(6, return_sequences=True, return_state=True)
    x = random(3, 10, 4).astype(np.float32)
    whole, *final = layer(x)
    first, *middle = layer(x[:, :4])
    second, *end = layer(x[:, 4:], initial_state=middle)
    np.testing.assert_array_equal(np.concatenate([first, second], axis=1), whole)
    for a, b in zip(end, final, strict=True):
        np.testing.assert_array_equal(a, b)
    stateful = kind(6, return_sequences=True, stateful=True)
    stateful.build(x.shape)
    stateful.set_weights(layer.get_weights())
    parts = [stateful(x[:, :4]), stateful(x[:, 4:])]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    with pytest.raises(ValueError, match="must have the 3 samples of the last call"):
        stateful(x[:2])
    stateful.reset_state()
    np.testing.assert_array_equal(stateful(x[:2]), whole[:2])


@pytest.mark.parametrize("kind", LAYERS)
def test_dropout_masks(kind: type[fr.LSTM]) -> None:
    gates = kind.gates
    assert kind(4).draw_dropout_masks(5, 3) == (None, None)
    shared, none = kind(4, dropout=0.25).draw_dropout_masks(5, 3)
    assert none is None
    assert shared.shape == (5, 3)
    layer = kind(40, dropout=0.25, recurrent_dropout=0.5, seed=7)
    x_mask, h_mask = layer.draw_dropout_masks(50, 30)
    assert x_mask.shape == (gates, 50, 30)
    assert h_mask.shape == (gates, 50, 40)
    assert set(np.unique(x_mask)) == {np.float32(0), np.float32(1 / 0.75)}
    assert set(np.unique(h_mask)) == {np.float32(0), np.float32(2)}
    assert abs(x_mask.mean() - 1) < 0.03
    assert abs(h_mask.mean() - 1) < 0.03
    assert not np.array_equal(x_mask[0], x_mask[1])
    again = kind(40, dropout=0.25, recurrent_dropout=0.5, seed=7)
    np.testing.assert_array_equal(again.draw_dropout_masks(50, 30)[0], x_mask)
    assert not np.array_equal(again.draw_dropout_masks(50, 30)[0], x_mask)


@pytest.mark.parametrize("kind", LAYERS)
def test_dropout_acts_in_training_only(kind: type[fr.LSTM]) -> None:
    layer = kind(6, dropout=0.4, recurrent_dropout=0.4)
    plain = kind(6)
    x = random(8, 5, 4).astype(np.float32)
    layer.build(x.shape)
    plain.build(x.shape)
    plain.set_weights(layer.get_weights())
    np.testing.assert_array_equal(layer(x), plain(x))
    assert not np.array_equal(layer(x, training=True), plain(x))


def test_set_seed_makes_everything_reproducible() -> None:
    def outcome() -> np.ndarray:
        fr.set_seed(11)
        layer = fr.LSTM(5, dropout=0.3, recurrent_dropout=0.3)
        return layer(random(4, 6, 3), training=True)

    np.testing.assert_array_equal(outcome(), outcome())


@pytest.mark.parametrize("sequences", [False, True])
def test_masks_go_on_behind_a_layer_with_sequences_only(sequences: bool) -> None:
    layer = fr.GRU(3, return_sequences=sequences)
    mask = np.ones((2, 4), bool)
    assert (layer.compute_mask(random(2, 4, 3), mask) is mask) == sequences
    assert layer.compute_output_shape((None, 4, 3)) == ((None, 4, 3) if sequences else (None, 3))


def test_names_count_as_in_keras() -> None:
    first, second = fr.LSTM(1).name, fr.LSTM(1).name
    assert first.startswith("lstm")
    assert second == f"lstm_{int(first.partition('_')[2] or 0) + 1}"
