"""The CUDA kernels, through Numba, and what launches them for `fastrnn.backends.cuda`.

device.py     memory, streams and launches
products.py   the big products outside the recurrence, with lookups, dropout masks and sums done on their way
sweep.py      how a recurrent layer is cut into blocks of threads; what both cells share
lstm.py, gru.py   a cell each, forward and backward, one launch for all time steps
recurrent.py  what a recurrent layer launches, forward and backward
embedding.py  the lookup by token ids and its gradient
plain.py      activations, dropout, the mask of padding
end.py        from the last output to loss, metrics and gradient
updates.py    optimizer steps and clipping
parts.py      the layers of a model that trains on the GPU

Every array that a kernel sees is flat. A kernel is made by a function of the floating type and of what must be known
when it is compiled, and kept.
"""

import importlib.util

# before any module imports Numba, which takes half a second
if importlib.util.find_spec("numba_cuda") is None:
    raise ImportError("the package numba-cuda is not installed; `pip install fastrnn[cuda]` brings it")
