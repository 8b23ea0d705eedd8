//! What generates the code in this build: a winner of another generation is stale.

use super::{config, cpu_space};
use cce_codegen::problem::{DType, Problem};
use cce_codegen::schedule::Schedule;
use cce_tuning_db as db;
use cce_tuning_db::Generation;
use std::sync::OnceLock;

/// Raised when the CPU device's loops change so much that its schedules should be measured again.
const CPU_REVISION: u32 = 1;

/// `cce_codegen::generation::kernels()`, asked while this crate was built: a new process has no time for it.
const KERNELS: &str = env!("CCE_KERNELS");

/// What generates the code here, for a device of this kind: a stored winner of another generation is stale.
pub fn generation(device: &db::Device) -> Generation {
    let nominal = Problem::new(4096, 576, 49152, DType::F32);
    let version = env!("CARGO_PKG_VERSION");
    match device {
        db::Device::Cpu(_) => Generation::new(
            format!("{version}, cpu device {CPU_REVISION}"),
            space_hash(cpu_space(&nominal).into_iter().map(Schedule::Cpu)),
        ),
        // The same in every process of a build, and not for nothing: asked for once.
        _ => {
            static SPACE: OnceLock<String> = OnceLock::new();
            let space = || space_hash(cce_codegen::generation::space().into_iter().map(Schedule::Gpu));
            Generation::new(format!("{version}, kernels {KERNELS}"), SPACE.get_or_init(space).clone())
        }
    }
}

fn space_hash(space: impl Iterator<Item = Schedule>) -> String {
    let mut hasher = blake3::Hasher::new();
    for config in space.filter_map(|schedule| config(&schedule).ok()) {
        hasher.update(config.hash().as_bytes());
    }
    hasher.finalize().to_hex().as_str()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::tests::device;
    use super::*;

    #[test]
    fn the_generation_of_a_gpu_names_the_kernels_and_the_space_that_there_are() {
        let gpu = db::Device::gpu("a gpu", (9, 0), 132, 232_448, 1 << 25);
        let made = generation(&gpu);
        assert!(made.codegen.ends_with(&cce_codegen::generation::kernels()), "{made:?}");
        let nothing = blake3::Hasher::new().finalize().to_hex();
        assert_ne!(made.search_space, nothing.as_str()[..16], "{made:?}");
        assert_ne!(made, generation(&device()));
    }
}
