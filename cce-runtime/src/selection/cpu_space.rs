//! The schedules of the CPU device.

use crate::cpu::default_schedule;
use cce_codegen::problem::Problem;
use cce_codegen::schedule::CpuSchedule;

/// Every schedule of the CPU device that is worth a measurement for this problem, the default first.
///
/// Token blocks: the logits of one are in memory at once, and too few leave the matrix product without work.
/// Strips: what one pass over a row of logits takes at a time, from a first-level cache's worth to a whole
/// row.
pub fn cpu_space(problem: &Problem) -> Vec<CpuSchedule> {
    const TOKEN_BLOCKS: [u32; 6] = [16, 32, 64, 128, 256, 512];
    const STRIPS: [u32; 5] = [512, 1024, 2048, 4096, 8192];
    // One size that covers everything is enough.
    let covering = |all: &[u32], most: usize| {
        all.iter().position(|&size| size as usize >= most).unwrap_or(all.len() - 1)
    };
    let token_blocks = &TOKEN_BLOCKS[..=covering(&TOKEN_BLOCKS, problem.tokens)];
    let strips = &STRIPS[..=covering(&STRIPS, problem.vocab)];
    let largest = token_blocks.last().copied().unwrap_or(512);
    let default = default_schedule(problem);
    let mut space = vec![CpuSchedule { token_block: default.token_block.min(largest), ..default }];
    for &token_block in token_blocks {
        for &strip in strips {
            let candidate = CpuSchedule { token_block, strip };
            if !space.contains(&candidate) {
                space.push(candidate);
            }
        }
    }
    space
}

#[cfg(test)]
mod tests {
    use super::*;
    use cce_codegen::problem::DType;

    #[test]
    fn the_space_of_a_small_problem_holds_no_two_schedules_that_do_the_same() {
        let tiny = cpu_space(&Problem::new(8, 8, 100, DType::F32));
        assert_eq!(tiny, [CpuSchedule { token_block: 16, strip: 512 }]);
        let large = cpu_space(&Problem::new(4096, 576, 49152, DType::F32));
        assert!(large.len() >= 30);
        let default = default_schedule(&Problem::new(4096, 576, 49152, DType::F32));
        assert_eq!(large[0], default);
    }
}
