// Sums over tokens.

// The sum of value(i) over all tokens, for every thread of a block of 1024; fixed order, f64.
template <class Value> DEVICE double total(int tokens, Value value) {
    __shared__ double parts[32];
    double sum = 0.0;
    for (int i = threadIdx.x; i < tokens; i += 1024) sum += value(i);
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffff, sum, d);
    if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = sum;
    __syncthreads();
    sum = parts[threadIdx.x & 31];
    for (int d = 16; d; d /= 2) sum += __shfl_xor_sync(0xffffffff, sum, d);
    __syncthreads();
    return sum;
}
