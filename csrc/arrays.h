/* Addresses of NumPy arrays, many in one call: a small layer's kernels take no longer than to ask Python's buffer
 * protocol for the twenty arrays of its forward and backward. For the extension module only; the kernels know nothing
 * of Python. */
#ifndef FASTRNN_ARRAYS_H
#define FASTRNN_ARRAYS_H

#include <Python.h>
#include <stdint.h>

/* How each array object begins, by NumPy's binary interface (PyArrayObject_fields). */
typedef struct {
    PyObject_HEAD void *data;
} array_head;

/* Sets the addresses that lie `offset` bytes from the beginning of a struct, one after another, to where the data of
 * the arrays lie, NULL for None. `arrays` is the address of a tuple, which must live until this returns. cffi lets go
 * of the interpreter's lock for the call; what is done here needs none, for the tuple cannot change, no reference is
 * counted and no error set. */
static void frnn_point(void *to, int64_t offset, uintptr_t arrays) {
    void **address = (void **)((char *)to + offset);
    PyObject *tuple = (PyObject *)arrays;
    Py_ssize_t count = PyTuple_Size(tuple);
    for (Py_ssize_t k = 0; k < count; k++) {
        PyObject *array = PyTuple_GetItem(tuple, k);
        address[k] = array == Py_None ? NULL : ((array_head *)array)->data;
    }
}

#endif
