"""Data to train on: the IMDb reviews, a synthetic stand-in for them, and helpers to make arrays of them."""

from fastrnn.datasets import imdb, synthetic
from fastrnn.datasets.sequence import pad_sequences
from fastrnn.datasets.split import split_indices

__all__ = ["imdb", "pad_sequences", "split_indices", "synthetic"]
