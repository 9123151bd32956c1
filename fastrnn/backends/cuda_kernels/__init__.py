"""The CUDA kernels, through Numba: what `fastrnn.backends.cuda` launches.

device.py     memory, streams and launches
products.py   the big products outside the recurrence, and what goes over whole arrays
sweep.py      how a recurrent layer is cut into blocks of threads; what both cells share
lstm.py, gru.py   a cell each, forward and backward, one launch for all time steps
embedding.py  the lookup by token ids and its gradient

Every array that a kernel sees is flat. A kernel is made by a function of the floating type and of what must be known
when it is compiled, and kept.
"""

import importlib.util

# before any module imports Numba, which takes half a second
if importlib.util.find_spec("numba_cuda") is None:
    raise ImportError("the package numba-cuda is not installed; `pip install fastrnn[cuda]` brings it")
