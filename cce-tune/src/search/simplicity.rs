//! Which of two schedules is the simpler: the second key where times tie.

use cce_codegen::schedule::{Schedule, Tile};

/// The order of simplicity: what compares as less is simpler. Schedules of a GPU compare by the bytes of
/// shared memory that their rings take (stages times depth times rows and columns of a stage, in elements,
/// over all tiles), then the elements of their tiles, then warps, splits, group, chunk, hot columns; those of
/// the CPU device by their token block, then their strip. Schedules that are alike in all of this compare by
/// their fields in order, so that only equal ones are equal.
pub fn simplicity(schedule: &Schedule) -> [u64; 32] {
    let mut key = [0; 32];
    let parts: Vec<u64> = match schedule {
        Schedule::Cpu(cpu) => vec![cpu.token_block.into(), cpu.strip.into()],
        Schedule::Gpu(gpu) => {
            let tiles = [gpu.logits, gpu.logits_gradient, gpu.classifier_gradient, gpu.hidden_gradient];
            let sum = |of: fn(&Tile) -> u64| tiles.iter().map(of).sum::<u64>();
            let wide = |x: u32| u64::from(x);
            let mut parts = vec![
                sum(|t| u64::from(t.stages) * u64::from(t.k) * u64::from(t.m + t.n)),
                sum(|t| u64::from(t.m) * u64::from(t.n)),
                sum(|t| u64::from(t.warps_m) * u64::from(t.warps_n)),
                wide(gpu.splits),
                wide(gpu.group),
                wide(gpu.chunk),
                wide(gpu.hot),
                gpu.family as u64,
            ];
            let fields = |t: &Tile| [t.m, t.n, t.k, t.stages, t.warps_m, t.warps_n];
            parts.extend(tiles.iter().flat_map(fields).map(wide));
            parts
        }
    };
    for (slot, part) in key.iter_mut().zip(parts) {
        *slot = part;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use cce_codegen::problem::{DType, Problem};
    use cce_codegen::schedule::{Gpu, GpuSchedule};
    use std::collections::HashSet;

    #[test]
    fn every_candidate_of_a_gpu_has_its_own_place_and_fewer_stages_are_simpler() {
        let program = cce::losses::named("cross_entropy").unwrap();
        let problem = Problem::new(8192, 2304, 256_000, DType::Bf16);
        let space: HashSet<Schedule> = GpuSchedule::space(&program, &problem, &Gpu::h100())
            .into_iter()
            .map(|(schedule, _)| Schedule::Gpu(schedule))
            .collect();
        let keys: HashSet<[u64; 32]> = space.iter().map(simplicity).collect();
        assert_eq!(keys.len(), space.len());
        let mut fewer = GpuSchedule::default_for(&program, &problem, &Gpu::h100());
        let more = simplicity(&Schedule::Gpu(fewer));
        fewer.logits.stages -= 1;
        assert!(simplicity(&Schedule::Gpu(fewer)) < more);
    }
}
