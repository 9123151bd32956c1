/* Tiles of narrow layers, whose wide vectors hold two gates: gates.h, which has the others, includes this.
 */
#ifndef FRNN_GATES_NARROW_H
#define FRNN_GATES_NARROW_H

/* acc += A B for an LSTM's pairs of gates, each of which sees numbers of its own: a vector of those of either gate side
 * by side, of which a permutation fills both halves with the next ones. Four rows at a time, since more would not stay
 * in registers. To merge a second broadcast into half of a first takes longer (Zen 5: forward under masks of each gate
 * for inputs and states, with 8 units, 7 %). */
INLINE void gates_add_spread(const int rows, const gates_product *p, int64_t u, wreal acc[GATE_ROWS][4]) {
    const REAL *B = p->packed + u / LANES * p->K * 4 * LANES;
    for (int64_t k0 = 0; k0 < p->K; k0 += LANES, B += LANES * 4 * LANES) {
        const int count = (int)(p->K - k0 < LANES ? p->K - k0 : LANES);
        UNROLL
        for (int r0 = 0; r0 < rows; r0 += 4) {
            const int end = r0 + 4 < rows ? r0 + 4 : rows;
            wreal a[4][2];
            UNROLL
            for (int r = r0; r < end; r++) {
                UNROLL
                for (int v = 0; v < 2; v++)
                    a[r - r0][v] = wload_two(p->A[r] + k0 + 2 * v * p->a_stride, p->a_stride, count);
            }
            UNROLL
            for (int k = 0; k < LANES; k++) {
                if (k == count) break;
                const wreal b[2] = {wload(B + k * 4 * LANES), wload(B + k * 4 * LANES + WIDE_LANES)};
                UNROLL
                for (int r = r0; r < end; r++) {
                    UNROLL
                    for (int v = 0; v < 2; v++) acc[r][v] = wfma(wspread_two(a[r - r0][v], k), b[v], acc[r][v]);
                }
            }
        }
    }
}

/* sums += (mask A) B for pair v of so many gates. A row's numbers are masked for both gates at once and stay in a
 * register: nobody has to write them for each gate before. */
INLINE void pair_add_masked_of(const int rows, const int K, const gates_product *p, const int v, const int gates,
                               wreal sums[GATE_ROWS]) {
    const REAL *B = p->packed + v * WIDE_LANES;
    wreal a[GATE_ROWS];
    UNROLL
    for (int r = 0; r < rows; r++)
        a[r] = (K == LANES ? wload_twice(p->A[r]) : wload_two(p->A[r], 0, K)) * wload(p->mask[v] + r * WIDE_LANES);
    UNROLL
    for (int k = 0; k < LANES; k++, B += gates * LANES) {
        if (k == K) break;
        const wreal b = wload(B);
        UNROLL
        for (int r = 0; r < rows; r++) sums[r] = wfma(wspread_two(a[r], k), b, sums[r]);
    }
}
INLINE void pair_add_masked(const int rows, const gates_product *p, const int v, const int gates,
                            wreal sums[GATE_ROWS]) {
    if (p->K == LANES)
        pair_add_masked_of(rows, LANES, p, v, gates, sums);
    else
        pair_add_masked_of(rows, (int)p->K, p, v, gates, sums);
}

/* The same for the third of three gates, which is alone: two rows in a wide vector, where the last of an odd number is
 * twice. */
INLINE void third_add_masked_of(const int rows, const int K, const gates_product *p, vreal sums[GATE_ROWS]) {
    const REAL *B = p->packed + 2 * LANES, *mask = p->mask[1];
    wreal a[GATE_ROWS], two[GATE_ROWS];
    UNROLL
    for (int r = 0; r < rows; r += 2) {
        const int next = r + 1 < rows ? r + 1 : r;
        a[r] = wjoin(vload_n(p->A[r], K), vload_n(p->A[next], K)) *
               wjoin(vload(mask + r * LANES), vload(mask + next * LANES));
        two[r] = wjoin(sums[r], sums[next]);
    }
    UNROLL
    for (int k = 0; k < LANES; k++, B += 3 * LANES) {
        if (k == K) break;
        const wreal b = wload_twice(B);
        UNROLL
        for (int r = 0; r < rows; r += 2) two[r] = wfma(wspread_two(a[r], k), b, two[r]);
    }
    UNROLL
    for (int r = 0; r < rows; r += 2) {
        sums[r] = wlower(two[r]);
        if (r + 1 < rows) sums[r + 1] = wupper(two[r]);
    }
}
INLINE void third_add_masked(const int rows, const gates_product *p, vreal sums[GATE_ROWS]) {
    if (p->K == LANES)
        third_add_masked_of(rows, LANES, p, sums);
    else
        third_add_masked_of(rows, (int)p->K, p, sums);
}

/* gates_tile for pairs of such gates; W's may see the same numbers, and U's too. */
INLINE void gates_tile_spread(const int rows, const int w_gates, const int w_per_gate, const gates_product *W,
                              const gates_product *U, int64_t u, const REAL *const *from, int64_t from_stride, REAL *C,
                              int64_t ldc, int64_t c_stride) {
    wreal acc[GATE_ROWS][4];
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < 2; v++) acc[r][v] = wload_apart(from[r] + 2 * v * from_stride, from_stride);
    }
    if (w_gates && w_per_gate) gates_add_spread(rows, W, u, acc);
    if (w_gates && !w_per_gate) wgates_add(rows, 2, 0, 0, 0, 2, W, u, acc);
    if (!U->mask[0] && w_per_gate) wgates_add(rows, 2, 0, 0, 0, 2, U, u, acc);
    if (!U->mask[0] && !w_gates) gates_add_spread(rows, U, u, acc);
    UNROLL
    for (int v = 0; v < 2; v++) {
        wreal sums[GATE_ROWS];
        UNROLL
        for (int r = 0; r < rows; r++) sums[r] = acc[r][v];
        if (U->mask[0]) pair_add_masked(rows, U, v, 4, sums);
        UNROLL
        for (int r = 0; r < rows; r++) wstore(C + r * ldc + 2 * v * c_stride, sums[r]);
    }
}

/* Split: where each gate sees numbers of its own, it is multiplied alone, for one of them fills its vector by a load,
 * but half of a wide one by a permutation. That is for processors that do wide vectors as two (Zen 4: under recurrent
 * dropout masks forward takes 0.85 of the time, backward 0.92). Others do them at once, and narrow ones slower beside
 * them. Here W's product is in pairs all the same, and U's is split. */
INLINE void gates_tile_split(const int rows, const gates_product *W, const gates_product *U, int64_t u,
                             const REAL *const *from, int64_t from_stride, REAL *C, int64_t ldc, int64_t c_stride) {
    wreal pairs[GATE_ROWS][4];
    vreal acc[GATE_ROWS][4];
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < 2; v++) pairs[r][v] = wload_apart(from[r] + 2 * v * from_stride, from_stride);
    }
    wgates_add(rows, 2, 0, 0, 0, 2, W, u, pairs);
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < 2; v++) acc[r][2 * v] = wlower(pairs[r][v]), acc[r][2 * v + 1] = wupper(pairs[r][v]);
    }
    vgates_add(rows, 4, 1, 0, 0, 4, U, u, acc);
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int v = 0; v < 4; v++) vstore(C + r * ldc + v * c_stride, acc[r][v]);
    }
}

/* gates_add for a GRU: z and r are a pair, the third gate, if there is one, is alone; of W's it is packed first. An
 * element of A fills one register for both. */
INLINE void gates_add_pair(const int rows, const int gates, const int pair_first, const gates_product *p, int64_t u,
                           wreal pair[GATE_ROWS], vreal alone[GATE_ROWS]) {
    const REAL *B = p->packed + u / LANES * p->K * gates * LANES;
    for (int64_t k = 0; k < p->K; k++, B += gates * LANES) {
        const wreal b = wload(B + (pair_first ? 0 : LANES));
        const vreal c = gates == 3 ? vload(B + (pair_first ? 2 * LANES : 0)) : vset(0);
        UNROLL
        for (int r = 0; r < rows; r++) {
            const wreal a = wset(p->A[r][k]);
            pair[r] = wfma(a, b, pair[r]);
            if (gates == 3) alone[r] = vfma(wlower(a), c, alone[r]);
        }
    }
}

/* The same where each gate sees numbers of its own, as they lie: then narrow vectors are multiplied. Vectors are the
 * pair's and one more, and gate g adds to number g + turn. */
INLINE void gates_add_alone(const int rows, const int gates, const int turn, const gates_product *p, int64_t u,
                            wreal pair[GATE_ROWS], vreal alone[GATE_ROWS]) {
    vreal acc[GATE_ROWS][4];
    UNROLL
    for (int r = 0; r < rows; r++) acc[r][0] = wlower(pair[r]), acc[r][1] = wupper(pair[r]), acc[r][2] = alone[r];
    vgates_add(rows, gates, 1, 0, turn, 3, p, u, acc);
    UNROLL
    for (int r = 0; r < rows; r++) pair[r] = wjoin(acc[r][0], acc[r][1]), alone[r] = acc[r][2];
}

/* gates_tile for a GRU in a pair. */
INLINE void gates_tile_pair(const int rows, const int vectors, const int w_gates, const int u_gates,
                            const int w_per_gate, const int u_per_gate, const gates_product *W, const gates_product *U,
                            int64_t u, const REAL *const *from, int64_t from_stride, const REAL *last, REAL *C,
                            int64_t ldc, int64_t c_stride) {
    wreal pair[GATE_ROWS];
    vreal alone[2][GATE_ROWS]; /* the vectors after the pair */
    UNROLL
    for (int r = 0; r < rows; r++) {
        pair[r] = wload_apart(from[r], from_stride);
        UNROLL
        for (int v = 2; v < vectors; v++)
            alone[v - 2][r] = vload(v == vectors - 1 && last ? last : from[r] + v * from_stride);
    }
    if (w_gates && w_per_gate) gates_add_alone(rows, w_gates, 2, W, u, pair, alone[vectors - 3]);
    if (w_gates && !w_per_gate) gates_add_pair(rows, w_gates, 0, W, u, pair, alone[vectors - 3]);
    if (u_per_gate && U->mask[0]) {
        pair_add_masked(rows, U, 0, u_gates, pair);
        if (u_gates == 3) third_add_masked(rows, U, alone[0]);
    } else if (u_per_gate && !w_gates) {
        gates_add_alone(rows, u_gates, 0, U, u, pair, alone[0]);
    } else {
        gates_add_pair(rows, u_gates, 1, U, u, pair, alone[0]);
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        wstore(C + r * ldc, pair[r]);
        UNROLL
        for (int v = 2; v < vectors; v++) vstore(C + r * ldc + v * c_stride, alone[v - 2][r]);
    }
}

#endif
