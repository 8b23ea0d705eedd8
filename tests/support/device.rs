//! Where a case runs, and with which schedule.

use cce::{Device, Schedule};
use cce_codegen::schedule::{CpuSchedule, Family, Gpu as GpuFacts, GpuSchedule};
use cce_codegen::{ir::Program, problem::Problem};
use cce_runtime::driver::{Context, Devices};
use cce_runtime::error::Error;

/// A device under test.
pub enum Bench {
    Cpu(Device),
    Gpu(Gpu),
}

/// A GPU under test.
pub struct Gpu {
    pub device: Device,
    pub context: Context,
    /// What schedules are chosen by.
    pub facts: GpuFacts,
}

/// The schedule of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// None is given: the plan takes the best it knows.
    Selected,
    /// The default of the family.
    Family(Family),
    /// This one.
    Given(Schedule),
}

impl Choice {
    /// A CPU schedule of small blocks: several of each in small problems.
    pub fn small_blocks() -> Choice {
        Choice::Given(Schedule::Cpu(CpuSchedule { token_block: 16, strip: 32 }))
    }

    /// For a case's label.
    pub fn name(&self) -> String {
        match self {
            Choice::Selected => "selected".to_owned(),
            Choice::Family(family) => family.name().to_owned(),
            Choice::Given(Schedule::Cpu(CpuSchedule { token_block, strip })) => {
                format!("blocks of {token_block} x {strip}")
            }
            Choice::Given(schedule) => format!("{schedule:?}"),
        }
    }

    /// What is given to the plan's builder.
    pub fn schedule(&self, bench: &Bench, program: &Program, problem: &Problem) -> Option<Schedule> {
        match (self, bench) {
            (Choice::Given(schedule), _) => Some(*schedule),
            (Choice::Family(family), Bench::Gpu(gpu)) => {
                Some(Schedule::Gpu(GpuSchedule::of_family(*family, program, problem, &gpu.facts)))
            }
            (Choice::Selected | Choice::Family(_), _) => None,
        }
    }
}

impl Bench {
    pub fn cpu() -> Bench {
        Bench::Cpu(Device::cpu())
    }

    pub fn device(&self) -> &Device {
        match self {
            Bench::Cpu(device) => device,
            Bench::Gpu(gpu) => &gpu.device,
        }
    }

    pub fn gpu(&self) -> Option<&Gpu> {
        match self {
            Bench::Cpu(_) => None,
            Bench::Gpu(gpu) => Some(gpu),
        }
    }
}

impl Gpu {
    /// The first GPU; `None` where there is none.
    pub fn find() -> Option<Gpu> {
        match Devices::count() {
            Ok(0) | Err(Error::NoDriver { .. }) => return None,
            Ok(_) => {}
            Err(error) => panic!("there is a driver, but it does not work: {error}"),
        }
        let device = Device::cuda(0).expect("the first GPU works");
        let context = Context::new(0).expect("the first GPU works");
        let facts = GpuFacts::from(context.info());
        Some(Gpu { device, context, facts })
    }

    /// The families that can run a problem on this GPU.
    pub fn families(&self, problem: &Problem) -> Vec<Family> {
        let can = |family: &Family| family.refuses(problem, &self.facts).is_none();
        Family::ALL.into_iter().filter(can).collect()
    }
}
