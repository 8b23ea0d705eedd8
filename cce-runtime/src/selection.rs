//! Which schedule a plan uses when its caller names none: the best that the tuner stored, if it fits.
//!
//! The glue between three vocabularies: a program, a problem and a device become a [`Key`], a [`Schedule`]
//! becomes a [`Config`] and back, and this build of the code generator becomes a [`Generation`]. The tuner
//! stores under what this module says, and a plan asks for the same.
//!
//! Invariants: nothing here makes a plan fail. What cannot be read, understood or used ends in the default
//! schedule, with a note that says so once a process. Nothing here writes.
//!
//! | variable | |
//! |---|---|
//! | `CCE_TUNING_DIR` | the folder of the tuning database; `none`: no database and no profiles are used |
//! | `XDG_DATA_HOME` | else its `cce`; else `~/.local/share/cce` |
//! | `CCE_PROFILE` | profile files, separated as in `PATH`, asked after the database |

use crate::cpu as cpu_device;
use crate::driver::DeviceInfo;
use cce_codegen::ir::{InputKind, Program, UnaryOp};
use cce_codegen::plan::GpuPlan;
use cce_codegen::problem::{DType, Filter, Ignored, Problem};
use cce_codegen::schedule::{CpuSchedule, Gpu, GpuSchedule, Schedule};
use cce_codegen::valid::{ProgramBuilder, Site};
use cce_tuning_db as db;
use cce_tuning_db::{Config, Generation, Grade, Key, Request, Selection, Winners};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

/// Raised when the CPU device's loops change so much that its schedules should be measured again.
const CPU_REVISION: u32 = 1;

/// The key of a GPU.
pub fn gpu(info: &DeviceInfo) -> db::Device {
    let small = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    db::Device::gpu(
        info.name.clone(),
        (small(info.compute_capability.0), small(info.compute_capability.1)),
        info.multiprocessors,
        info.shared_per_block.into(),
        info.l2_bytes,
    )
}

/// The key of the CPU device: the processor's model and the threads of the rayon pool that it is called from.
pub fn cpu() -> db::Device {
    let cores = u32::try_from(rayon::current_num_threads()).unwrap_or(u32::MAX);
    db::Device::cpu(cpu_model(), cores)
}

/// The processor's model as the system names it, else its architecture.
fn cpu_model() -> String {
    let named = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    named.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// What the tuner stores trials under, and a plan asks for.
///
/// # Errors
/// When the filter's threshold is no positive number.
pub fn key(program: &Program, problem: &Problem, device: db::Device) -> db::Result<Key> {
    let shape = shape(problem);
    let is_value = |kind| matches!(kind, InputKind::Row | InputKind::Col | InputKind::Scalar);
    let values = program.inputs().iter().enumerate().filter(|(_, input)| is_value(input.kind));
    let inputs = values
        .enumerate()
        .filter(|(_, (id, _))| problem.input_gradients.iter().any(|wanted| wanted.index() == *id))
        .fold(0u64, |mask, (ordinal, _)| mask | 1 << (ordinal % 64));
    let accumulates =
        |output: Option<cce_codegen::problem::GradientOutput>| output.is_some_and(|o| o.accumulate);
    let gradients =
        db::Gradients::new(problem.hidden_gradient.is_some(), problem.classifier_gradient.is_some());
    let described = db::Problem::new(shape)
        .with_gradients(gradients.with_inputs(inputs))
        .with_ignored(problem.ignored == Ignored::Possible)
        .with_accumulate(accumulates(problem.hidden_gradient) || accumulates(problem.classifier_gradient));
    let objective = match problem.wants_gradients() {
        true => db::Objective::LossAndGradients,
        false => db::Objective::Loss,
    };
    let dtype = match problem.dtype {
        DType::Bf16 => db::Dtype::Bf16,
        DType::F16 => db::Dtype::F16,
        DType::F32 => db::Dtype::F32,
    };
    let filter = match problem.filter {
        Filter::Exact => db::Filter::Exact,
        Filter::Blocks { eps } => db::Filter::Blocks { eps: db::Eps::new(eps.into())? },
        Filter::Sampled { eps, max_entries } => {
            db::Filter::Sampled { eps: db::Eps::new(eps.into())?, max_entries }
        }
    };
    Ok(Key::new(db::ProgramHash::from_bytes(program.hash()), described, device)
        .with_objective(objective)
        .with_memory(db::MemoryClass::of_limit(problem.workspace_limit))
        .with_dtype(dtype)
        .with_filter(filter))
}

/// N, D and V as they are stored with a measurement.
pub fn shape(problem: &Problem) -> db::Shape {
    db::Shape::new(problem.tokens as u64, problem.hidden as u64, problem.vocab as u64)
}

/// A schedule as it is stored.
///
/// # Errors
/// Those of serialisation, which a schedule of plain numbers does not meet.
pub fn config(schedule: &Schedule) -> serde_json::Result<Config> {
    serde_json::to_value(schedule).map(Config::new)
}

/// The schedule that was stored.
///
/// # Errors
/// When this version does not know such a schedule: in words, for a note.
pub fn schedule(config: &Config) -> Result<Schedule, String> {
    use serde::Deserialize;
    Schedule::deserialize(config.value()).map_err(|error| format!("not a schedule of this version: {error}"))
}

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
            static GPU: OnceLock<Generation> = OnceLock::new();
            GPU.get_or_init(|| gpu_generation(version)).clone()
        }
    }
}

/// The kernels are what a nominal plan of each family emits: whatever changes in skeletons or emission shows
/// there.
fn gpu_generation(version: &str) -> Generation {
    let gpu = Gpu::h100();
    let problem = Problem::new(4096, 576, 49152, DType::Bf16);
    let (mut hasher, mut space) = (blake3::Hasher::new(), Vec::new());
    if let Some(program) = nominal_program() {
        let schedules =
            [GpuSchedule::default_for(&program, &problem, &gpu), GpuSchedule::simt(&program, &problem, &gpu)];
        let plans = schedules.iter().filter_map(|s| GpuPlan::build(&program, &problem, s, &gpu).ok());
        for module in plans.flat_map(|plan| plan.modules) {
            hasher.update(module.source.as_bytes());
        }
        space = GpuSchedule::space(&program, &problem, &gpu);
    }
    let kernels = &hasher.finalize().to_hex().as_str()[..16].to_owned();
    Generation::new(
        format!("{version}, kernels {kernels}"),
        space_hash(space.into_iter().map(|(schedule, _)| Schedule::Gpu(schedule))),
    )
}

/// Softcapped cross entropy with a bias: transform, Col input and target, all that a skeleton has holes for.
fn nominal_program() -> Option<Program> {
    let site = Site::default();
    let mut builder = ProgramBuilder::new(site, "nominal");
    let x = builder.input(site, "x", InputKind::Logit);
    let y = builder.input(site, "y", InputKind::Target);
    let bias = builder.input(site, "bias", InputKind::Col);
    let cap = builder.input(site, "cap", InputKind::Scalar);
    let (biased, tanh) = (builder.add(site, x, bias), UnaryOp::Tanh);
    let scaled = builder.div(site, biased, cap);
    let bounded = builder.unary(site, tanh, scaled);
    let z = builder.mul(site, cap, bounded);
    let (lse, at) = (builder.lse(site, z), builder.at(site, z, y));
    let loss = builder.sub(site, lse, at);
    builder.output(site, "loss", loss);
    builder.finish().ok()
}

fn space_hash(space: impl Iterator<Item = Schedule>) -> String {
    let mut hasher = blake3::Hasher::new();
    for config in space.filter_map(|schedule| config(&schedule).ok()) {
        hasher.update(config.hash().as_bytes());
    }
    hasher.finalize().to_hex().as_str()[..16].to_owned()
}

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
    let default = cpu_device::default_schedule(problem);
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

/// The folder of the tuning database; `None` when `CCE_TUNING_DIR` is `none` or nothing says where it could
/// be.
pub fn folder() -> Option<PathBuf> {
    folder_of(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
}

fn folder_of(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    match variable("CCE_TUNING_DIR") {
        Some(folder) if folder == "none" => None,
        Some(folder) => Some(folder.into()),
        None => variable("XDG_DATA_HOME")
            .map(|folder| Path::new(&folder).join("cce"))
            .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".local/share/cce"))),
    }
}

/// The profile files that `CCE_PROFILE` names.
pub fn profiles() -> Vec<PathBuf> {
    match std::env::var_os("CCE_PROFILE") {
        Some(paths) => std::env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()).collect(),
        None => Vec::new(),
    }
}

/// How a plan came by its schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen<T> {
    /// How good the match is; [`Grade::Default`] when nothing stored was used.
    pub grade: Grade,
    /// What the plan made of the stored schedule; `None`: the caller takes its default.
    pub value: Option<T>,
    /// What a user may want to know: warnings of the database, winners that did not fit.
    pub notes: Vec<String>,
}

/// Goes through the stored winners for a plan, best first, and takes the first that `fit` accepts. `fit`
/// makes of a schedule whatever the plan needs, or says why it does not fit.
pub fn choose<T>(
    program: &Program,
    problem: &Problem,
    device: db::Device,
    fit: impl FnMut(Schedule) -> Result<T, String>,
) -> Chosen<T> {
    match winners() {
        Some(winners) => choose_from(&winners, program, problem, device, fit),
        None => Chosen { grade: Grade::Default, value: None, notes: Vec::new() },
    }
}

/// As [`choose`], from these winners.
pub fn choose_from<T>(
    winners: &Winners,
    program: &Program,
    problem: &Problem,
    device: db::Device,
    mut fit: impl FnMut(Schedule) -> Result<T, String>,
) -> Chosen<T> {
    let generation = generation(&device);
    let selection = match key(program, problem, device) {
        Ok(key) => winners.select(&Request::new(key, generation)),
        // A filter that no key can state is refused by the plan itself, in better words.
        Err(_) => Selection::default(),
    };
    let mut notes: Vec<String> = selection.warnings.iter().map(ToString::to_string).collect();
    let choice = selection.choose(|candidate| schedule(&candidate.winner.config).and_then(&mut fit));
    for rejection in &choice.rejected {
        notes.push(format!("a stored schedule ({}) was not used: {}", rejection.grade, rejection.reason));
    }
    Chosen { grade: choice.grade, value: choice.chosen.map(|(_, value)| value), notes }
}

/// What identifies the state of the layers: their places, and when the snapshot was written.
#[derive(Clone, Debug, PartialEq)]
struct State {
    folder: PathBuf,
    profiles: Vec<PathBuf>,
    snapshot: Option<(SystemTime, u64)>,
}

/// The winners of this machine, read again when the tuner has written meanwhile. `None` when they are
/// switched off.
pub fn winners() -> Option<Arc<Winners>> {
    static LOADED: Mutex<Option<(State, Arc<Winners>)>> = Mutex::new(None);
    let folder = folder()?;
    let written = std::fs::metadata(folder.join("winners.snap"))
        .and_then(|data| Ok((data.modified()?, data.len())))
        .ok();
    let state = State { profiles: profiles(), snapshot: written, folder };
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((known, winners)) = &*loaded
        && *known == state
    {
        return Some(Arc::clone(winners));
    }
    let winners = Arc::new(open(&state.folder, &state.profiles));
    *loaded = Some((state, Arc::clone(&winners)));
    Some(winners)
}

/// The winners of a database and, below them, of profiles.
pub fn open(folder: &Path, profiles: &[PathBuf]) -> Winners {
    profiles.iter().fold(Winners::open(folder), |winners, profile| winners.with_profile_file(profile))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cce_codegen::ir::InputId;
    use cce_tuning_db::{KeyWinners, Profile, Provenance, Trial};

    fn device() -> db::Device {
        db::Device::cpu("a processor", 2)
    }

    fn winners_of(problem: &Problem, schedules: &[(Schedule, f64)], generation: &Generation) -> Winners {
        let key = key(&program(), problem, device()).unwrap();
        let trials: Vec<Trial> = schedules
            .iter()
            .map(|(schedule, ms)| {
                let provenance = Provenance::new("here", 1);
                let config = config(schedule).unwrap();
                Trial::measured(config, shape(problem), vec![*ms], generation.clone(), provenance).unwrap()
            })
            .collect();
        let entries = vec![KeyWinners::choose(key, &trials)];
        Winners::empty().with_profile(Profile::new("test", Provenance::new("here", 1), entries))
    }

    fn cpu_schedule(token_block: u32) -> Schedule {
        Schedule::Cpu(CpuSchedule { token_block, strip: 1024 })
    }

    #[test]
    fn a_stored_schedule_of_this_generation_is_chosen_as_exact() {
        let problem = Problem::new(256, 64, 512, DType::F32);
        let stored = [(cpu_schedule(32), 2.0), (cpu_schedule(64), 1.0)];
        let winners = winners_of(&problem, &stored, &generation(&device()));
        let chosen = choose_from(&winners, &program(), &problem, device(), Ok);
        assert_eq!(chosen.grade, Grade::Exact);
        assert_eq!(chosen.value, Some(cpu_schedule(64)));
        assert!(chosen.notes.is_empty(), "{:?}", chosen.notes);
    }

    #[test]
    fn a_winner_that_does_not_fit_the_call_gives_way_to_the_next_and_is_named() {
        let problem = Problem::new(256, 64, 512, DType::F32);
        let stored = [(cpu_schedule(32), 2.0), (cpu_schedule(64), 1.0)];
        let winners = winners_of(&problem, &stored, &generation(&device()));
        let refuse_64 = |schedule| match schedule == cpu_schedule(64) {
            true => Err("too large today".to_owned()),
            false => Ok(schedule),
        };
        let chosen = choose_from(&winners, &program(), &problem, device(), refuse_64);
        assert_eq!(chosen.value, Some(cpu_schedule(32)));
        assert!(chosen.notes[0].contains("too large today"), "{:?}", chosen.notes);
        let none = choose_from(&winners, &program(), &problem, device(), |_| Err::<(), _>("no".to_owned()));
        assert_eq!((none.grade, none.value), (Grade::Default, None));
    }

    #[test]
    fn a_winner_of_another_generation_is_stale_and_one_of_another_shape_is_near() {
        let problem = Problem::new(256, 64, 512, DType::F32);
        let stored = [(cpu_schedule(64), 1.0)];
        let old = winners_of(&problem, &stored, &Generation::new("0.0.1", "another"));
        let chosen = choose_from(&old, &program(), &problem, device(), Ok);
        assert_eq!(chosen.grade, Grade::Stale);
        assert_eq!(chosen.notes.len(), 1);

        let current = winners_of(&problem, &stored, &generation(&device()));
        let larger = Problem::new(1024, 64, 512, DType::F32);
        let chosen = choose_from(&current, &program(), &larger, device(), Ok);
        assert!(matches!(chosen.grade, Grade::NearShape { .. }), "{:?}", chosen.grade);
    }

    #[test]
    fn everything_that_a_kernel_is_specialised_on_makes_another_key() {
        let base = Problem::new(256, 64, 512, DType::F32);
        let of = |problem: &Problem| key(&program(), problem, device()).unwrap();
        let variants = [
            Problem { tokens: 1024, ..base.clone() },
            Problem { hidden: 65, ..base.clone() },
            Problem { vocab: 513, ..base.clone() },
            Problem { dtype: DType::Bf16, ..base.clone() },
            Problem { filter: Filter::SAMPLED, ..base.clone() },
            Problem { ignored: Ignored::None, ..base.clone() },
            Problem { hidden_gradient: None, ..base.clone() },
            Problem { classifier_gradient: None, ..base.clone() },
            Problem { input_gradients: vec![InputId(2)], ..base.clone() },
            Problem { workspace_limit: Some(1 << 30), ..base.clone() },
        ];
        for variant in &variants {
            assert_ne!(of(variant), of(&base), "{variant:?}");
        }
        assert_eq!(of(&Problem { tokens: 250, ..base.clone() }), of(&base));
        let no_number = Filter::Sampled { eps: 0.0, max_entries: 1 };
        assert!(key(&program(), &Problem { filter: no_number, ..base }, device()).is_err());
    }

    #[test]
    fn a_schedule_survives_storage_and_an_unknown_one_is_refused_in_words() {
        for schedule_stored in cpu_space(&Problem::new(4096, 576, 49152, DType::F32)) {
            let stored = config(&Schedule::Cpu(schedule_stored)).unwrap();
            assert_eq!(schedule(&stored), Ok(Schedule::Cpu(schedule_stored)));
        }
        let foreign = Config::new(serde_json::json!({"tpu": {}}));
        assert!(schedule(&foreign).unwrap_err().contains("not a schedule of this version"));
    }

    #[test]
    fn the_space_of_a_small_problem_holds_no_two_schedules_that_do_the_same() {
        let tiny = cpu_space(&Problem::new(8, 8, 100, DType::F32));
        assert_eq!(tiny, [CpuSchedule { token_block: 16, strip: 512 }]);
        let large = cpu_space(&Problem::new(4096, 576, 49152, DType::F32));
        assert!(large.len() >= 30);
        let default = cpu_device::default_schedule(&Problem::new(4096, 576, 49152, DType::F32));
        assert_eq!(large[0], default);
    }

    #[test]
    fn the_generation_of_a_gpu_names_the_kernels_and_the_space_that_there_are() {
        assert!(nominal_program().is_some());
        let gpu = db::Device::gpu("a gpu", (9, 0), 132, 232_448, 1 << 25);
        let made = generation(&gpu);
        let nothing = blake3::Hasher::new().finalize().to_hex();
        assert!(!made.codegen.ends_with(&nothing.as_str()[..16]), "{made:?}");
        assert_ne!(made.search_space, nothing.as_str()[..16], "{made:?}");
        assert_ne!(made, generation(&device()));
    }

    #[test]
    fn the_folder_follows_the_environment() {
        let with = |pairs: &'static [(&str, &str)]| {
            folder_of(|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.into()))
        };
        assert_eq!(with(&[("CCE_TUNING_DIR", "/t"), ("HOME", "/h")]), Some("/t".into()));
        assert_eq!(with(&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")]), Some("/x/cce".into()));
        assert_eq!(with(&[("HOME", "/h")]), Some("/h/.local/share/cce".into()));
        assert_eq!(with(&[("CCE_TUNING_DIR", "none"), ("HOME", "/h")]), None);
        assert_eq!(with(&[]), None);
    }

    /// `weight * (lse(x + bias) - at(x + bias, y))`.
    fn program() -> Program {
        let site = Site::default();
        let mut builder = ProgramBuilder::new(site, "loss");
        let x = builder.input(site, "x", InputKind::Logit);
        let y = builder.input(site, "y", InputKind::Target);
        let bias = builder.input(site, "bias", InputKind::Col);
        let weight = builder.input(site, "weight", InputKind::Row);
        let z = builder.add(site, x, bias);
        let (lse, at) = (builder.lse(site, z), builder.at(site, z, y));
        let nll = builder.sub(site, lse, at);
        let loss = builder.mul(site, weight, nll);
        builder.output(site, "loss", loss);
        builder.finish().unwrap()
    }
}
