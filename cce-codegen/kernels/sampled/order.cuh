// A column's list in the order of its rows, whatever order it was filled in: so that the same sums get the same bits.

// Orders a list by its rows, each of which it has at most once: a network of comparisons that always moves the smaller one forward, so that what lies
// behind the end counts as the largest without being there. All threads of the block.
DEVICE void sort_list(Weighted* list, int n) {
    int padded = 2;
    while (padded < n) padded *= 2;
    auto compare = [&](int a, int b) {
        if (b < n) { Weighted x = list[a], y = list[b]; if (y.row < x.row) { list[a] = y; list[b] = x; } }
    };
    for (int size = 2; size <= padded; size *= 2) {
        __syncthreads();
        for (int i = threadIdx.x; i < padded / 2; i += THREADS) { int block = i / (size / 2) * size, at = i % (size / 2); compare(block + at, block + size - 1 - at); }
        for (int half = size / 4; half > 0; half /= 2) {
            __syncthreads();
            for (int i = threadIdx.x; i < padded / 2; i += THREADS) { int a = i / half * (2 * half) + i % half; compare(a, a + half); }
        }
    }
    __syncthreads();
}

// The same of several lists, one after the other, from `list` to `to`: every entry finds its place, the number of its list's entries with a smaller row.
// ends: of the lists, the first of which begins at `from`; both count from the same place. All threads of the block.
DEVICE void sort_lists(const Weighted* list, Weighted* unsorted, Weighted* to, int from, const int* ends, int n) {
    for (int i = threadIdx.x; i < n; i += THREADS) unsorted[i] = list[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += THREADS) {
        int at = 0;
        while (from + i >= ends[at]) at++;
        const Weighted mine = unsorted[i];
        const int begin = at ? ends[at - 1] - from : 0, end = ends[at] - from;
        int place = begin;
        #pragma unroll 4
        for (int k = begin; k < end; k++) place += unsorted[k].row < mine.row;
        to[place] = mine;
    }
    __syncthreads();
}

// The lists of COLUMNS columns from `first` on, which lie one after the other, as many at a time as shared memory can order: visit(list, ends, from, c0, c1)
// of those of first + c0 .. first + c1, of which c ends at list[ends[c] - from]. All threads of the block.
template <class Visit> DEVICE void each_ordered(Weighted* lists, const u32* starts_of, int first, Visit visit) {
    __shared__ Weighted unsorted[SORTED], sorted[SORTED];
    __shared__ int ends[COLUMNS];                             // from the beginning of the first
    const int columns = min(COLUMNS, COLD - first);
    const u32 begin = starts_of[first];
    if (threadIdx.x < columns) ends[threadIdx.x] = starts_of[first + threadIdx.x + 1] - begin;
    __syncthreads();
    for (int c0 = 0, from = 0; c0 < columns;) {
        int c1 = c0 + 1;
        while (c1 < columns && ends[c1] - from <= SORTED) c1++;
        const int n = ends[c1 - 1] - from;
        Weighted* list = lists + begin + from;
        if (n > SORTED) sort_list(list, n);
        else if (n > 0) { sort_lists(list, unsorted, sorted, from, ends + c0, n); list = sorted; }
        visit(list, ends, from, c0, c1);
        from += n;
        c0 = c1;
        __syncthreads();                                      // before shared memory changes
    }
}
