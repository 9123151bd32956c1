"""How cffi compiles csrc/ into fastrnn._kernels; setup.py points here."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent

ffibuilder = FFI()
ffibuilder.cdef((HERE / "fastrnn.h").read_text().split("/* cffi: from here */")[1].replace("#endif", ""))
ffibuilder.cdef("void frnn_point(void *to, int64_t offset, uintptr_t arrays);")
ffibuilder.set_source(
    "fastrnn._kernels",
    '#include "fastrnn.h"\n#include "arrays.h"',
    sources=[f"csrc/{path.name}" for path in sorted(HERE.glob("*.c"))],
    include_dirs=["csrc"],
    libraries=["m"],
    depends=[f"csrc/{path.name}" for path in sorted(HERE.glob("*.h"))],
    # -O3 for the unrolling of the tiles. No -march: the instruction set is chosen at run time.
    extra_compile_args=["-O3", "-std=gnu11", "-pthread", "-fvisibility=hidden"],
    extra_link_args=["-pthread"],
    optional=True,  # no compiler: the install goes on, and `fastrnn info` says why the C backend is missing
)
