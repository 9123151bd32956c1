"""Reading and writing files: Keras' weights, and writing any file whole or not at all."""

from fastrnn.io.weights import load_weights, save_weights

__all__ = ["load_weights", "save_weights"]
