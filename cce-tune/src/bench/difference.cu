// How far a vector is from a reference of the same type: per block four sums in fp64, of the squares of the differences,
// of the squares of the reference's finite elements, of the elements that are NaN on either side, and of the
// reference's that are infinite. A grid-stride loop; each block's threads are added up in a fixed order.

__device__ inline float widened(float x) { return x; }

struct F16 { unsigned short bits; };
struct Bf16 { unsigned short bits; };

__device__ inline float widened(F16 x) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
}

__device__ inline float widened(Bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

template <class T>
__device__ inline void difference(const T* result, const T* reference, unsigned long long len, double* sums) {
    double difference = 0, norm = 0, nan = 0, infinite = 0;
    const unsigned long long step = static_cast<unsigned long long>(gridDim.x) * blockDim.x;
    for (unsigned long long at = static_cast<unsigned long long>(blockIdx.x) * blockDim.x + threadIdx.x; at < len; at += step) {
        const float a = widened(result[at]), b = widened(reference[at]);
        if (a != a || b != b) {
            nan += 1;
        } else if (a != b) {
            const double apart = static_cast<double>(a) - static_cast<double>(b);
            difference += apart * apart;
        }
        if (fabsf(b) < __int_as_float(0x7f800000)) norm += static_cast<double>(b) * b;
        infinite += fabsf(b) == __int_as_float(0x7f800000);
    }
    __shared__ double parts[4][256];
    parts[0][threadIdx.x] = difference;
    parts[1][threadIdx.x] = norm;
    parts[2][threadIdx.x] = nan;
    parts[3][threadIdx.x] = infinite;
    for (unsigned half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            for (int of = 0; of < 4; ++of) parts[of][threadIdx.x] += parts[of][threadIdx.x + half];
    }
    if (threadIdx.x == 0)
        for (int of = 0; of < 4; ++of) sums[blockIdx.x * 4 + of] = parts[of][0];
}

extern "C" __global__ void __launch_bounds__(256) difference_f32(
    const float* result, const float* reference, unsigned long long len, double* sums) {
    difference(result, reference, len, sums);
}

extern "C" __global__ void __launch_bounds__(256) difference_f16(
    const F16* result, const F16* reference, unsigned long long len, double* sums) {
    difference(result, reference, len, sums);
}

extern "C" __global__ void __launch_bounds__(256) difference_bf16(
    const Bf16* result, const Bf16* reference, unsigned long long len, double* sums) {
    difference(result, reference, len, sums);
}
