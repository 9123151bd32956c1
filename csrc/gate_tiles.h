/* The tiles of gates.h for vectors of one width, which it includes once for each: a wide one holds two gates, or else
 * one. */

/* acc += A B of one product, whose gate g adds to vector g + turn of acc, of so many in a circle. */
INLINE void V(gates_add)(const int rows, const int gates, const int per_gate, const int far, const int turn,
                         const int vectors, const gates_product *p, int64_t u, V(real) acc[GATE_ROWS][4]) {
    const REAL *B = p->packed + u / LANES * p->K * gates * V(lanes);
    for (int64_t k = 0; k < p->K; k++, B += gates * V(lanes)) {
        if (far) __builtin_prefetch(p->next + k * p->next_step, 0, 2);
        V(real) b[4];
        UNROLL
        for (int g = 0; g < gates; g++) b[g] = V(load)(B + g * V(lanes));
        UNROLL
        for (int r = 0; r < rows; r++) {
            UNROLL
            for (int g = 0; g < gates; g++) {
                const REAL a = p->A[r][k + (per_gate ? g * p->a_stride : 0)];
                V(real) *const sum = &acc[r][(g + turn) % vectors];
                *sum = V(fma)(V(set)(a), b[g], *sum);
            }
        }
    }
}

/* One tile of so many vectors: C = start + W's product + U's, of the units from u on. U's gates are the first vectors;
 * W sees all, in LSTM's order, and in a GRU's the last one first. Row r starts from from[r], vector v from v *
 * from_stride after it; but the last vector of all rows from `last` where that is given. C's vectors are c_stride
 * apart, those of a wide one side by side. */
INLINE void V(gates_tile)(const int rows, const int vectors, const int w_gates, const int u_gates, const int w_per_gate,
                          const int u_per_gate, const int far, const gates_product *W, const gates_product *U,
                          int64_t u, const REAL *const *from, int64_t from_stride, const REAL *last, REAL *C,
                          int64_t ldc, int64_t c_stride) {
    enum { side = V(lanes) / LANES };
    V(real) acc[GATE_ROWS][4];
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < vectors; v++)
            acc[r][v] = V(load_apart)(v == vectors - 1 && last ? last : from[r] + v * side * from_stride, from_stride);
    }
    if (w_gates) V(gates_add)(rows, w_gates, w_per_gate, 0, u_gates == vectors ? 0 : vectors - 1, vectors, W, u, acc);
    V(gates_add)(rows, u_gates, u_per_gate, far, 0, vectors, U, u, acc);
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < vectors; v++) V(store)(C + r * ldc + v * side * c_stride, acc[r][v]);
    }
}
