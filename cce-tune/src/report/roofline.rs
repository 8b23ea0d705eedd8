//! The least time that a problem can take on a device: its roofline (Williams, Waterman and Patterson, 2009).
//!
//! With N tokens, D hidden units, V vocabulary entries and elements of s bytes, a product of the logits' size takes
//! P = 2 N D V operations. The *work* of a call is what its method cannot do without:
//!
//! | call | operations | bytes |
//! |---|---|---|
//! | loss alone | P (the logits) | (N D + V D) s |
//! | gradients, `exact` or `blocks` | P (the logits), P again (they were not kept), P for dE, P for dC | 2 (N D + V D) s, and N D s for dE, V D s for dC |
//! | gradients, `sampled` with at most K entries a token | P (the logits), 2 N K D for each of dE and dC | as above |
//!
//! and 12 N bytes besides: a target of 4, a loss and an lse of 4 each. `blocks` skips a part of its products, and
//! `sampled` keeps fewer than K entries as a rule: for these it is the work at their bounds. Gradients of inputs, the
//! loss's own arithmetic, and exact columns of a sampled schedule are left out.
//!
//! The roof is max(operations / peak, bytes / bandwidth). Peaks are those of the vendor's data sheets, dense, without
//! sparsity; no clock under a power limit reaches them.

use cce_tuning_db::{Device, Dtype, Filter, Key, Objective, Shape};

/// What a problem cannot do without.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Multiplications and additions.
    pub operations: f64,
    /// Bytes read and written, each once a pass.
    pub bytes: f64,
}

/// What a device can do at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Operations a second, in units of 10^12, in the problem's type.
    pub tera_operations: f64,
    /// Bytes a second, in units of 10^9.
    pub giga_bytes: f64,
}

impl Work {
    /// The work of a key's problem at this shape.
    pub fn of(key: &Key, shape: Shape) -> Work {
        let (n, d, v) = (shape.tokens as f64, shape.hidden as f64, shape.vocab as f64);
        let size = match key.dtype {
            Dtype::F32 => 4.0,
            _ => 2.0,
        };
        let product = 2.0 * n * d * v;
        let (inputs, rest) = ((n * d + v * d) * size, 12.0 * n);
        if key.objective == Objective::Loss {
            return Work { operations: product, bytes: inputs + rest };
        }
        let gradients = key.problem.gradients;
        let wanted = f64::from(u8::from(gradients.hidden) + u8::from(gradients.classifier));
        let operations = match key.filter {
            Filter::Sampled { max_entries, .. } => product + wanted * 2.0 * n * f64::from(max_entries) * d,
            _ => (2.0 + wanted) * product,
        };
        let written = |rows: f64, wanted: bool| if wanted { rows * d * size } else { 0.0 };
        let outputs = written(n, gradients.hidden) + written(v, gradients.classifier);
        Work { operations, bytes: 2.0 * inputs + outputs + rest }
    }

    /// The least time on a device, in ms.
    pub fn roof_ms(&self, peak: &Peak) -> f64 {
        let arithmetic = self.operations / (peak.tera_operations * 1e9);
        let memory = self.bytes / (peak.giga_bytes * 1e6);
        arithmetic.max(memory)
    }

    /// Whether arithmetic, and not memory, is what bounds it.
    pub fn is_bound_by_arithmetic(&self, peak: &Peak) -> bool {
        self.operations / (peak.tera_operations * 1e9) >= self.bytes / (peak.giga_bytes * 1e6)
    }
}

/// Data sheets of NVIDIA's: a part of the name, 10^12 operations a second dense in bf16 and f16, in fp32 outside the
/// tensor cores, 10^9 bytes a second. The first that matches is taken.
const SHEETS: [(&str, f64, f64, f64); 10] = [
    ("H100 80GB HBM3", 989.4, 66.9, 3350.0),
    ("H100 NVL", 835.5, 60.0, 3900.0),
    ("H100 PCIe", 756.0, 51.0, 2000.0),
    ("H200 NVL", 835.5, 60.0, 4800.0),
    ("H200", 989.4, 66.9, 4800.0),
    ("A100-SXM4-80GB", 312.0, 19.5, 2039.0),
    ("A100 80GB PCIe", 312.0, 19.5, 1935.0),
    ("A100", 312.0, 19.5, 1555.0),
    ("L40S", 362.0, 91.6, 864.0),
    ("RTX 4090", 165.2, 82.6, 1008.0),
];

impl Peak {
    /// What the data sheet of a device says; `None` for one that is not listed, and for CPUs.
    pub fn of(device: &Device, dtype: Dtype) -> Option<Peak> {
        let Device::Gpu(gpu) = device else { return None };
        let (_, half, single, giga_bytes) = SHEETS.iter().find(|(name, ..)| gpu.name.contains(name))?;
        let tera_operations = if dtype == Dtype::F32 { *single } else { *half };
        Some(Peak { tera_operations, giga_bytes: *giga_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cce_tuning_db::{Eps, Gradients, Problem, ProgramHash};

    fn key(gradients: Gradients, filter: Filter) -> (Key, Shape) {
        let shape = Shape::new(8192, 2304, 256_000);
        let device = Device::gpu("NVIDIA H100 80GB HBM3", (9, 0), 132, 232_448, 50 << 20);
        let objective =
            if gradients == Gradients::NONE { Objective::Loss } else { Objective::LossAndGradients };
        let problem = Problem::new(shape).with_gradients(gradients);
        let key = Key::new(ProgramHash::of(b"x"), problem, device);
        (key.with_objective(objective).with_filter(filter), shape)
    }

    #[test]
    fn the_work_is_that_of_the_table() {
        let product = 2.0 * 8192.0 * 2304.0 * 256_000.0;
        let inputs = (8192.0 + 256_000.0) * 2304.0 * 2.0;
        let (loss, shape) = key(Gradients::NONE, Filter::Exact);
        assert_eq!(Work::of(&loss, shape), Work { operations: product, bytes: inputs + 12.0 * 8192.0 });
        let (exact, shape) = key(Gradients::new(true, true), Filter::Exact);
        assert_eq!(
            Work::of(&exact, shape),
            Work { operations: 4.0 * product, bytes: 3.0 * inputs + 12.0 * 8192.0 }
        );
        let eps = Eps::new(1.0 / 1024.0).unwrap();
        let (sampled, shape) = key(Gradients::new(true, false), Filter::Sampled { eps, max_entries: 384 });
        let kept = 2.0 * 8192.0 * 384.0 * 2304.0;
        assert_eq!(Work::of(&sampled, shape).operations, product + kept);
    }

    #[test]
    fn the_roof_is_the_slower_of_arithmetic_and_memory() {
        let (loss, shape) = key(Gradients::NONE, Filter::Exact);
        let peak = Peak::of(&loss.device, loss.dtype).unwrap();
        let work = Work::of(&loss, shape);
        assert!((work.roof_ms(&peak) - 9.767).abs() < 0.01, "{}", work.roof_ms(&peak));
        assert!(work.is_bound_by_arithmetic(&peak));
        let narrow = Peak { tera_operations: 989.4, giga_bytes: 1.0 };
        assert!(!work.is_bound_by_arithmetic(&narrow));
        assert!((work.roof_ms(&narrow) - work.bytes / 1e6).abs() < 1e-6);
        assert_eq!(Peak::of(&Device::cpu("EPYC", 2), Dtype::F32), None);
    }
}
