//! What no schedule can be faster than: the operations that must be done over the device's peak, or the bytes
//! that must be moved over its bandwidth, whichever takes longer (the roofline of Williams, Waterman and
//! Patterson, 2009).
//!
//! Invariants: it is a lower bound, so that whatever a filter may leave out, what a schedule computes twice, and
//! a loss's own arithmetic count for nothing, and peaks are at the highest clock; the tuner and its reports
//! count the same work and divide it by the same rates.

use cce_codegen::problem::{DType, Filter, Problem};
use cce_runtime::driver::DeviceInfo;
use cce_tuning_db as db;
use serde::Serialize;

/// What a GPU can do at most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Peak {
    /// Floating-point operations a second in dense products of the problem's type.
    pub flops: f64,
    /// Bytes a second from and to its memory; `None` where the driver does not tell.
    pub bandwidth: Option<f64>,
}

/// What a problem cannot do without.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes read or written.
    pub bytes: f64,
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

/// Boards whose clock and bandwidth are known without a driver that tells them: a part of the name, the boost
/// clock in MHz (that of the fp32 rate of NVIDIA's data sheet, and what the driver states as the highest), and
/// 10^9 bytes a second of the data sheet. The first that matches is taken.
const BOARDS: [(&str, f64, f64); 10] = [
    ("H100 80GB HBM3", 1980.0, 3350.0),
    ("H100 NVL", 1785.0, 3900.0),
    ("H100 PCIe", 1755.0, 2000.0),
    ("H200 NVL", 1785.0, 4800.0),
    ("H200", 1980.0, 4800.0),
    ("A100-SXM4-80GB", 1410.0, 2039.0),
    ("A100 80GB PCIe", 1410.0, 1935.0),
    ("A100", 1410.0, 1555.0),
    ("L40S", 2520.0, 864.0),
    ("RTX 4090", 2520.0, 1008.0),
];

/// Operations a clock and multiprocessor: in products of f16 or bf16 that accumulate in fp32, and in fp32. Of
/// NVIDIA's architecture white papers (A100: 312 TFLOP/s in bf16 with 108 multiprocessors at 1.41 GHz; H100 SXM:
/// 989 with 132 at 1.83 GHz; B200: 2250 with 148 at 1.85 GHz; L40S: 362 with 142 at 2.52 GHz; RTX 4090: 165 with
/// 128 at 2.52 GHz, as GeForce boards accumulate in fp32 at half the rate). `None` for an architecture that is not among
/// them.
fn rates(name: &str, compute_capability: (u32, u32)) -> Option<(f64, f64)> {
    Some(match compute_capability {
        (8, 0) => (2048.0, 128.0),
        (8 | 12, _) if name.contains("GeForce") => (512.0, 256.0),
        (8 | 12, _) => (1024.0, 256.0),
        (9, 0) => (4096.0, 256.0),
        (10, _) => (8192.0, 256.0),
        _ => return None,
    })
}

impl Peak {
    /// The peak of a GPU at the highest clock that its driver states; `None` for an architecture whose rates are
    /// not known.
    pub fn of(info: &DeviceInfo, dtype: DType) -> Option<Peak> {
        let (products, fused) = rates(&info.name, info.compute_capability)?;
        let a_clock = if dtype == DType::F32 { fused } else { products };
        let flops = a_clock * f64::from(info.multiprocessors) * f64::from(info.clock_khz) * 1e3;
        // Two transfers a clock, as of every memory of these GPUs: 3.35 TB/s of an H100's 5120 bits at 2.619 GHz.
        let bandwidth = 2.0 * f64::from(info.memory_clock_khz) * 1e3 * f64::from(info.memory_bus_bits) / 8.0;
        Some(Peak { flops, bandwidth: Some(bandwidth).filter(|bytes| *bytes > 0.0) })
    }

    /// The peak of the device of a key, which may be another machine's: at the clock of its board; `None` for a
    /// board that is not listed, and for the CPU device.
    pub fn of_stored(key: &db::Key) -> Option<Peak> {
        let db::Device::Gpu(gpu) = &key.device else { return None };
        let (_, mhz, giga_bytes) = BOARDS.iter().find(|(name, ..)| gpu.name.contains(name))?;
        let (major, minor) = gpu.compute_capability;
        let (products, fused) = rates(&gpu.name, (major.into(), minor.into()))?;
        let a_clock = if key.dtype == db::Dtype::F32 { fused } else { products };
        Some(Peak { flops: a_clock * f64::from(gpu.sms) * mhz * 1e6, bandwidth: Some(giga_bytes * 1e9) })
    }
}

impl Work {
    /// The work of a problem in which `counted` of the tokens are not ignored.
    pub fn of(problem: &Problem, counted: usize) -> Work {
        let sizes = [counted, problem.hidden, problem.vocab].map(|size| size as f64);
        let gradients = [problem.hidden_gradient.is_some(), problem.classifier_gradient.is_some()];
        Work::new(sizes, problem.dtype.bytes() as f64, gradients, problem.filter == Filter::Exact)
    }

    /// The work of a stored problem at this shape, as if no token were ignored.
    pub fn of_stored(key: &db::Key, shape: db::Shape) -> Work {
        let sizes = [shape.tokens, shape.hidden, shape.vocab].map(|size| size as f64);
        let size = if key.dtype == db::Dtype::F32 { 4.0 } else { 2.0 };
        let gradients = [key.problem.gradients.hidden, key.problem.gradients.classifier];
        Work::new(sizes, size, gradients, key.filter == db::Filter::Exact)
    }

    /// The logits take 2 N D V operations once; under the filter `exact`, dE and dC as many each. Other filters
    /// leave out entries of the gradients, how many is the data's: they count for nothing here. That the logits
    /// are computed a second time in the backward pass is a choice of the kernels and counts for nothing either.
    /// E and C are read once, the gradients written once.
    fn new([n, d, v]: [f64; 3], size: f64, wanted: [bool; 2], is_exact: bool) -> Work {
        let [hidden, classifier] = wanted.map(|wanted| f64::from(u8::from(wanted)));
        let gradients = if is_exact { hidden + classifier } else { 0.0 };
        Work {
            flops: 2.0 * n * d * v * (1.0 + gradients),
            bytes: (n * (1.0 + hidden) + v * (1.0 + classifier)) * d * size,
        }
    }

    fn seconds(&self, peak: &Peak) -> (f64, f64) {
        (self.flops / peak.flops, peak.bandwidth.map_or(0.0, |bandwidth| self.bytes / bandwidth))
    }

    /// Whether arithmetic, and not memory, is what bounds it.
    pub fn is_bound_by_arithmetic(&self, peak: &Peak) -> bool {
        let (computing, moving) = self.seconds(peak);
        computing >= moving
    }

    /// The least time that it takes at this peak.
    pub fn floor(&self, peak: Peak) -> Floor {
        let (computing, moving) = self.seconds(&peak);
        Floor { ms: computing.max(moving) * 1e3, flops: self.flops, bytes: self.bytes, peak }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cce_tuning_db::{Device, Gradients, Key, ProgramHash, Shape};

    const PEAK: Peak = Peak { flops: 989e12, bandwidth: Some(3.35e12) };

    fn key(name: &str, capability: (u16, u16), sms: u32) -> Key {
        let problem = db::Problem::new(Shape::new(8192, 2304, 256_000));
        let device = Device::gpu(name, capability, sms, 232_448, 50 << 20);
        Key::new(ProgramHash::of(b"x"), problem.with_gradients(Gradients::new(true, true)), device)
    }

    #[test]
    fn the_floor_counts_the_logits_once_and_each_exact_gradient_once() {
        let sampled = Problem { filter: Filter::SAMPLED, ..Problem::new(8192, 2304, 256_000, DType::Bf16) };
        let exact = Problem { filter: Filter::Exact, ..sampled.clone() };
        let loss = Problem { hidden_gradient: None, classifier_gradient: None, ..exact.clone() };
        let of = |problem: &Problem| Work::of(problem, 8192).floor(PEAK).ms;
        assert!((of(&loss) - 9.77).abs() < 0.01, "{}", of(&loss));
        assert_eq!(of(&sampled), of(&loss));
        assert!((of(&exact) - 3.0 * of(&loss)).abs() < 1e-9);
        assert_eq!(Work::of(&loss, 4096).floor(PEAK).ms, 0.5 * of(&loss));
        // Eight tokens: C is read and dC written, 2.36 GB.
        let few = Work::of(&exact, 8);
        assert!((few.floor(PEAK).ms - 0.704).abs() < 0.001, "{}", few.floor(PEAK).ms);
        assert!(!few.is_bound_by_arithmetic(&PEAK) && Work::of(&exact, 8192).is_bound_by_arithmetic(&PEAK));
    }

    #[test]
    fn a_stored_problem_has_the_work_of_the_problem_it_was() {
        let problem = Problem::new(8192, 2304, 256_000, DType::Bf16);
        let key = key("NVIDIA H100 80GB HBM3", (9, 0), 132);
        let shape = key.problem.shape();
        let exact = Problem { filter: Filter::Exact, ..problem.clone() };
        assert_eq!(Work::of_stored(&key, shape), Work::of(&exact, 8192));
        let eps = db::Eps::new(1.0 / 1024.0).unwrap();
        let sampled = key.with_filter(db::Filter::Sampled { eps, max_entries: 384 });
        let filtered = Problem { filter: Filter::SAMPLED, ..problem };
        assert_eq!(Work::of_stored(&sampled, shape), Work::of(&filtered, 8192));
    }

    #[test]
    fn boards_reach_the_rates_of_their_data_sheets_at_the_clock_of_their_fp32_rate() {
        let sheets = [
            ("NVIDIA H100 80GB HBM3", (9, 0), 132, 66.9, 4096.0 / 256.0),
            ("NVIDIA H100 NVL", (9, 0), 132, 60.0, 16.0),
            ("NVIDIA H100 PCIe", (9, 0), 114, 51.0, 16.0),
            ("NVIDIA H200", (9, 0), 132, 66.9, 16.0),
            ("NVIDIA A100-SXM4-80GB", (8, 0), 108, 19.5, 16.0),
            ("NVIDIA L40S", (8, 9), 142, 91.6, 4.0),
            ("NVIDIA GeForce RTX 4090", (8, 9), 128, 82.6, 2.0),
        ];
        for (name, capability, sms, fp32, ratio) in sheets {
            let half = key(name, capability, sms);
            let single = half.clone().with_dtype(db::Dtype::F32);
            let rate = |key: &Key| Peak::of_stored(key).unwrap().flops / 1e12;
            assert!((rate(&single) / fp32 - 1.0).abs() < 0.01, "{name}: {}", rate(&single));
            assert_eq!(rate(&half), ratio * rate(&single), "{name}");
        }
        assert_eq!(Peak::of_stored(&key("NVIDIA Unheard-of", (9, 0), 132)), None);
        let mut cpu = key("NVIDIA H100 PCIe", (9, 0), 114);
        cpu.device = Device::cpu("EPYC", 2);
        assert_eq!(Peak::of_stored(&cpu), None);
    }
}
