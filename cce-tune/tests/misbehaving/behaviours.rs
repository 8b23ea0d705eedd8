//! What a worker can do with a schedule, beside what it should.

use cce_codegen::schedule::CpuSchedule;

/// Token blocks, and what the worker does with them.
pub(super) const HANGS: u32 = 101;
pub(super) const ABORTS: u32 = 102;
pub(super) const IS_KILLED: u32 = 103;
pub(super) const EXITS: u32 = 104;
pub(super) const WRITES_GARBAGE: u32 = 105;
pub(super) const IS_WRONG: u32 = 106;
pub(super) const LEAVES_HOLES: u32 = 107;
pub(super) const HANGS_WHEN_TIMED: u32 = 108;
pub(super) const BREAKS_THE_DEVICE: u32 = 109;
pub(super) const OVERFLOWS_THE_STACK: u32 = 110;
pub(super) const PRINTS: u32 = 111;

/// Which schedules misbehave besides, and how: `BLOCK/STRIP=ONE OF THE ABOVE`, separated by commas.
pub(super) const MISBEHAVE: &str = "CCE_TEST_MISBEHAVE";

/// What the worker does with a schedule: any other number than those above is good behaviour.
pub(super) fn behaviour(cpu: CpuSchedule) -> u32 {
    let place = format!("{}/{}", cpu.token_block, cpu.strip);
    let stated = std::env::var(MISBEHAVE).unwrap_or_default();
    let mut stated = stated.split(',').filter_map(|one| one.split_once('='));
    stated.find(|(of, _)| *of == place).map_or(cpu.token_block, |(_, what)| what.parse().unwrap())
}
