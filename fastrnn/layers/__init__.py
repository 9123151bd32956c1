"""The layers: Keras' names, arguments and weight order; NumPy in, NumPy out."""

from fastrnn.layers.dense import Dense
from fastrnn.layers.dropout import Dropout
from fastrnn.layers.embedding import Embedding
from fastrnn.layers.rnn import GRU, LSTM

__all__ = ["GRU", "LSTM", "Dense", "Dropout", "Embedding"]
