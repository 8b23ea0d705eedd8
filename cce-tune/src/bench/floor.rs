//! What no schedule can be faster than: the products that must be done over the device's peak, or the bytes
//! that must be moved over its bandwidth.

use cce_codegen::problem::{DType, Filter, Problem};
use cce_runtime::driver::DeviceInfo;
use serde::Serialize;

/// What a GPU can do at most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Peak {
    /// Floating-point operations a second in dense products of the problem's type.
    pub flops: f64,
    /// Bytes a second from and to its memory; `None` where the driver does not tell.
    pub bandwidth: Option<f64>,
}

/// A lower bound of a problem's time on a device.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Floor {
    /// In ms.
    pub ms: f64,
    /// Floating-point operations that must be done.
    pub flops: f64,
    /// Bytes that must be read or written.
    pub bytes: f64,
    /// What they are divided by.
    pub peak: Peak,
}

impl Peak {
    /// The peak of a GPU at its highest clock: operations a clock and multiprocessor of NVIDIA's architecture
    /// white papers (A100: 312 TFLOP/s in bf16 with 108 multiprocessors at 1.41 GHz; H100 SXM: 989 with 132 at
    /// 1.83 GHz; B200: 2250 with 148 at 1.85 GHz). `None` for an architecture that is not among them.
    pub fn of(info: &DeviceInfo, dtype: DType) -> Option<Peak> {
        let (products, fused) = match info.compute_capability {
            (8, 0) => (2048.0, 128.0),
            (8, _) => (1024.0, 256.0),
            (9, 0) => (4096.0, 256.0),
            (10, _) => (8192.0, 256.0),
            (12, _) => (1024.0, 256.0),
            _ => return None,
        };
        let a_clock = if dtype == DType::F32 { fused } else { products };
        let flops = a_clock * f64::from(info.multiprocessors) * f64::from(info.clock_khz) * 1e3;
        // Two transfers a clock, as of every memory of these GPUs: 3.35 TB/s of an H100's 5120 bits at 2.619 GHz.
        let bandwidth = 2.0 * f64::from(info.memory_clock_khz) * 1e3 * f64::from(info.memory_bus_bits) / 8.0;
        Some(Peak { flops, bandwidth: Some(bandwidth).filter(|bytes| *bytes > 0.0) })
    }
}

impl Floor {
    /// The floor of a problem in which `counted` of the tokens are not ignored. The logits take 2 N D V
    /// operations once; under the filter `exact`, dE and dC as many each. Other filters leave out entries of
    /// the gradients, how many is the data's: they count for nothing here. That the logits are computed a
    /// second time in the backward pass is a choice of the kernels and counts for nothing either. E and C are
    /// read once, the gradients written once.
    pub fn of(problem: &Problem, counted: usize, peak: Peak) -> Floor {
        let product = 2.0 * counted as f64 * problem.hidden as f64 * problem.vocab as f64;
        let (hidden, classifier) = (problem.hidden_gradient.is_some(), problem.classifier_gradient.is_some());
        let gradients = match problem.filter {
            Filter::Exact => usize::from(hidden) + usize::from(classifier),
            _ => 0,
        };
        let flops = product * (1 + gradients) as f64;
        let rows = counted * (1 + usize::from(hidden)) + problem.vocab * (1 + usize::from(classifier));
        let bytes = (rows * problem.hidden * problem.dtype.bytes()) as f64;
        let moving = peak.bandwidth.map_or(0.0, |bandwidth| bytes / bandwidth);
        Floor { ms: (flops / peak.flops).max(moving) * 1e3, flops, bytes, peak }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_counts_the_logits_once_and_each_exact_gradient_once() {
        let peak = Peak { flops: 989e12, bandwidth: Some(3.35e12) };
        let sampled = Problem { filter: Filter::SAMPLED, ..Problem::new(8192, 2304, 256_000, DType::Bf16) };
        let exact = Problem { filter: Filter::Exact, ..sampled.clone() };
        let loss = Problem { hidden_gradient: None, classifier_gradient: None, ..exact.clone() };
        let of = |problem: &Problem| Floor::of(problem, 8192, peak).ms;
        assert!((of(&loss) - 9.77).abs() < 0.01, "{}", of(&loss));
        assert_eq!(of(&sampled), of(&loss));
        assert!((of(&exact) - 3.0 * of(&loss)).abs() < 1e-9);
        assert_eq!(Floor::of(&loss, 4096, peak).ms, 0.5 * of(&loss));
        // Eight tokens: C is read and dC written, 2.36 GB.
        let few = Floor::of(&exact, 8, peak);
        assert!((few.ms - 0.704).abs() < 0.001, "{}", few.ms);
    }
}
