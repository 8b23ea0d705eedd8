//! Elementary functions in f32 that the compiler vectorises.
//!
//! Each is branch-free straight-line arithmetic without fused multiply-adds, so that a loop over it becomes
//! vector code on every instruction set, with the same bits. Errors, measured against f64 over the whole
//! range (the tests hold them): `exp`, `ln`, `expm1`, `log1p`, `sigmoid`, `softplus` at most 3 units in the
//! last place of the result, `tanh` at most 4. NaN propagates, overflow gives infinity. Results below the
//! smallest normal number may lose precision.
//!
//! Polynomials of `exp` and `ln`: S. L. Moshier, Cephes, `expf.c` and `logf.c`.

use std::f32::consts::LOG2_E;

/// ln 2 in two pieces, the first short enough that `n * LN2_HIGH` is exact for |n| < 2^9.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// Adding and subtracting it rounds to an integer, which then stands in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// Splits `x` into an integer `n` and a rest with `x = n ln2 + rest`, |rest| <= 0.35.
#[inline(always)]
fn reduce(x: f32) -> (i32, f32) {
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let rest = (x - n * LN2_HIGH) - n * LN2_LOW;
    (shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32, rest)
}

/// `e^r - 1` for |r| <= 0.35.
#[inline(always)]
fn expm1_reduced(r: f32) -> f32 {
    let mut p = 1.987_569_2e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 0.166_666_65;
    p = p * r + 0.5;
    p * (r * r) + r
}

/// `2^n` for -127 < n < 128.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

#[inline(always)]
fn clamp(x: f32, low: f32, high: f32) -> f32 {
    // Comparisons with NaN are false, so that it passes through; f32::clamp promises the same but vectorises
    // worse.
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

/// `e^x`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let (n, r) = reduce(clamp(x, -104.0, 89.0));
    // Two factors, so that neither overflows nor underflows before the product does.
    let half = n >> 1;
    (expm1_reduced(r) + 1.0) * power_of_two(half) * power_of_two(n - half)
}

/// `e^x - 1`.
#[inline(always)]
pub(crate) fn expm1(x: f32) -> f32 {
    let (n, r) = reduce(clamp(x, -40.0, 89.0));
    let half = n >> 1;
    let (a, b) = (power_of_two(half), power_of_two(n - half));
    let large = ((expm1_reduced(r) + 1.0) * a) * b - 1.0;
    let scale = a * b;
    let small = scale * expm1_reduced(r) + (scale - 1.0);
    if x > 44.0 { large } else { small }
}

/// Natural logarithm.
#[inline(always)]
pub(crate) fn ln(x: f32) -> f32 {
    let tiny = x < f32::MIN_POSITIVE;
    let scaled = if tiny { x * 8_388_608.0 } else { x };
    let bits = scaled.to_bits() as i32;
    // The mantissa between sqrt(1/2) and sqrt(2): 0x3f3504f3 is sqrt(1/2).
    let exponent = (bits.wrapping_sub(0x3f35_04f3)) >> 23;
    let mantissa = f32::from_bits(bits.wrapping_sub(exponent << 23) as u32);
    let n = exponent as f32 - if tiny { 23.0 } else { 0.0 };
    let value = ln_reduced(mantissa - 1.0, n);
    let value = if x == f32::INFINITY { x } else { value };
    let value = if x == 0.0 { f32::NEG_INFINITY } else { value };
    if x >= 0.0 { value } else { f32::NAN }
}

/// `ln(1 + f) + n ln2` for `1 + f` between sqrt(1/2) and sqrt(2).
#[inline(always)]
fn ln_reduced(f: f32, n: f32) -> f32 {
    let mut p = 7.037_684e-2;
    p = p * f - 0.115_146_1;
    p = p * f + 0.116_769_99;
    p = p * f - 0.124_201_41;
    p = p * f + 0.142_493_23;
    p = p * f - 0.166_680_58;
    p = p * f + 0.200_007_14;
    p = p * f - 0.249_999_94;
    p = p * f + 0.333_333_3;
    let square = f * f;
    let tail = p * f * square + n * LN2_LOW - 0.5 * square;
    (f + tail) + n * LN2_HIGH
}

/// `ln(1 + x)`.
#[inline(always)]
pub(crate) fn log1p(x: f32) -> f32 {
    let u = 1.0 + x;
    // What rounding 1 + x lost, to first order: ln(1 + x) = ln(u) + (x - (u - 1)) / u.
    let value = ln(u) + (x - (u - 1.0)) / u;
    let value = if u == 1.0 { x } else { value };
    if x == f32::INFINITY || u == 0.0 { ln(u) } else { value }
}

/// Hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let t = expm1(-2.0 * x.abs());
    let value = -t / (t + 2.0);
    if x < 0.0 { -value } else { value }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `ln(1 + e^x)`.
#[inline(always)]
pub(crate) fn softplus(x: f32) -> f32 {
    let positive = if x > 0.0 { x } else { 0.0 };
    let value = positive + log1p(exp(-x.abs()));
    if x.is_nan() { x } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest error in units of the last place over a sweep of `from..=to`.
    fn worst(f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64, from: f32, to: f32) -> f64 {
        let mut worst: f64 = 0.0;
        for step in 0..=400_000u32 {
            let x = from + (to - from) * (step as f32 / 400_000.0);
            let (value, truth) = (f64::from(f(x)), exact(f64::from(x)));
            let magnitude = (truth.abs() as f32).max(f32::MIN_POSITIVE);
            let unit = f64::from(f32::from_bits(magnitude.to_bits() + 1) - magnitude);
            worst = worst.max((value - truth).abs() / unit);
        }
        worst
    }

    fn softplus64(x: f64) -> f64 {
        x.max(0.0) + (-x.abs()).exp().ln_1p()
    }

    #[test]
    fn functions_stay_within_their_stated_error() {
        let sigmoid64 = |x: f64| 1.0 / (1.0 + (-x).exp());
        for (from, to) in [(-87.0, 88.7), (-1.0, 1.0), (-1e-3, 1e-3)] {
            assert!(worst(exp, f64::exp, from, to) <= 3.0, "exp {}", worst(exp, f64::exp, from, to));
            assert!(
                worst(expm1, f64::exp_m1, from, to) <= 3.0,
                "expm1 {}",
                worst(expm1, f64::exp_m1, from, to)
            );
            assert!(worst(tanh, f64::tanh, from, to) <= 4.0, "tanh {}", worst(tanh, f64::tanh, from, to));
            assert!(
                worst(sigmoid, sigmoid64, from, to) <= 3.0,
                "sigmoid {}",
                worst(sigmoid, sigmoid64, from, to)
            );
            assert!(
                worst(softplus, softplus64, from, to) <= 3.0,
                "softplus {}",
                worst(softplus, softplus64, from, to)
            );
        }
        for (from, to) in [(1e-37, 1e-30), (1e-6, 2.0), (0.9, 1.1), (1.0, 1e30)] {
            assert!(worst(ln, f64::ln, from, to) <= 3.0, "ln {}", worst(ln, f64::ln, from, to));
        }
        for (from, to) in [(-0.99, 2.0), (-1e-3, 1e-3), (1.0, 1e30)] {
            assert!(
                worst(log1p, f64::ln_1p, from, to) <= 3.0,
                "log1p {}",
                worst(log1p, f64::ln_1p, from, to)
            );
        }
    }

    #[test]
    fn special_values_are_the_functions_limits() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(expm1(f32::NEG_INFINITY), -1.0);
        assert_eq!(expm1(f32::INFINITY), f32::INFINITY);
        assert_eq!(ln(0.0), f32::NEG_INFINITY);
        assert_eq!(ln(f32::INFINITY), f32::INFINITY);
        assert_eq!(ln(1.0), 0.0);
        assert!(ln(-1.0).is_nan());
        assert_eq!(log1p(-1.0), f32::NEG_INFINITY);
        assert_eq!(log1p(f32::INFINITY), f32::INFINITY);
        assert!(log1p(-2.0).is_nan());
        assert_eq!(tanh(f32::INFINITY), 1.0);
        assert_eq!(tanh(f32::NEG_INFINITY), -1.0);
        assert_eq!(sigmoid(f32::NEG_INFINITY), 0.0);
        assert_eq!(sigmoid(f32::INFINITY), 1.0);
        assert_eq!(softplus(f32::NEG_INFINITY), 0.0);
        assert_eq!(softplus(f32::INFINITY), f32::INFINITY);
        for f in [exp, expm1, ln, log1p, tanh, sigmoid, softplus] {
            assert!(f(f32::NAN).is_nan());
        }
    }
}
