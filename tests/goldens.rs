//! Emitted CUDA under review: every kernel variant as a file, compiled for every architecture of its family.
//!
//! `UPDATE_GOLDENS=1 cargo test --test goldens` writes the files anew. The compiler tests need the NVRTCs
//! that `cargo xtask test` fetches.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use cce::{DType, Filter, Problem, Program, losses};
use cce_codegen::plan::{self, GpuPlan, Module};
use cce_codegen::schedule::{Family, Gpu, GpuSchedule, Tile};
use cce_runtime::nvrtc::{Arch, Nvrtc, Options, Search, Source};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A plan whose sources are kept.
struct Golden {
    name: &'static str,
    program: Program,
    problem: Problem,
    family: Family,
}

fn problem(tokens: usize, hidden: usize, vocab: usize, dtype: DType) -> Problem {
    Problem { filter: Filter::Exact, ..Problem::new(tokens, hidden, vocab, dtype) }
}

/// Every skeleton in its families, with a short and a long transform, with and without packing, Col
/// gradients, scaling, sums in the output.
fn goldens() -> Vec<Golden> {
    let all_inputs = |mut problem: Problem, program: &Program| {
        let values = program
            .inputs()
            .iter()
            .enumerate()
            .filter(|(_, input)| !matches!(input.kind, cce::InputKind::Logit | cce::InputKind::Target));
        problem.input_gradients = values.map(|(at, _)| cce_codegen::ir::InputId(at as u16)).collect();
        problem
    };
    let gemma2 = losses::gemma2::program();
    let smoothing = losses::label_smoothing::program();
    let biased = losses::cross_entropy_with_bias::program();
    let mut dense = problem(8192, 2304, 256_000, DType::Bf16);
    dense.ignored = cce_codegen::problem::Ignored::None;
    let sampled = |problem: Problem| Problem { filter: Filter::SAMPLED, ..problem };
    let mut accumulated = problem(300, 64, 1000, DType::Bf16);
    let out = cce::GradientOutput { dtype: DType::F32, accumulate: true };
    accumulated.hidden_gradient = Some(out);
    accumulated.classifier_gradient = Some(out);
    vec![
        Golden {
            name: "cross_entropy_wgmma_bf16",
            program: losses::cross_entropy::program(),
            problem: dense.clone(),
            family: Family::Wgmma,
        },
        Golden {
            name: "cross_entropy_sampled_bf16",
            program: losses::cross_entropy::program(),
            problem: sampled(dense.clone()),
            family: Family::Wgmma,
        },
        Golden {
            name: "cross_entropy_blocks_bf16",
            program: losses::cross_entropy::program(),
            problem: Problem { filter: Filter::BLOCKS, ..dense.clone() },
            family: Family::Wgmma,
        },
        Golden {
            name: "gemma2_blocks_mma_f16",
            problem: Problem {
                filter: Filter::BLOCKS,
                ..all_inputs(problem(300, 136, 507, DType::F16), &gemma2)
            },
            program: gemma2.clone(),
            family: Family::Mma,
        },
        Golden {
            name: "gemma2_wgmma_f16",
            problem: all_inputs(problem(300, 136, 507, DType::F16), &gemma2),
            program: gemma2.clone(),
            family: Family::Wgmma,
        },
        Golden {
            name: "cross_entropy_mma_bf16",
            program: losses::cross_entropy::program(),
            problem: dense,
            family: Family::Mma,
        },
        Golden {
            name: "gemma2_mma_f16",
            problem: all_inputs(problem(300, 123, 507, DType::F16), &gemma2),
            program: gemma2,
            family: Family::Mma,
        },
        Golden {
            name: "label_smoothing_sampled_mma_f16",
            program: smoothing.clone(),
            problem: sampled(problem(300, 123, 4099, DType::F16)),
            family: Family::Mma,
        },
        Golden {
            name: "cross_entropy_with_bias_sampled_simt_f32",
            problem: all_inputs(sampled(problem(300, 64, 4099, DType::F32)), &biased),
            program: biased,
            family: Family::Simt,
        },
        Golden {
            name: "label_smoothing_simt_f32",
            problem: all_inputs(problem(300, 123, 507, DType::F32), &smoothing),
            program: smoothing,
            family: Family::Simt,
        },
        Golden {
            name: "token_logprob_simt_bf16",
            program: losses::token_logprob::program(),
            problem: accumulated,
            family: Family::Simt,
        },
    ]
}

impl Golden {
    fn plan(&self) -> GpuPlan {
        let gpu = Gpu::h100();
        let schedule = GpuSchedule::of_family(self.family, &self.program, &self.problem, &gpu);
        assert_eq!(schedule.family, self.family);
        GpuPlan::build(&self.program, &self.problem, &schedule, &gpu).unwrap()
    }

    fn file(&self, module: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("cce-codegen/goldens")
            .join(format!("{}.{module}.cu", self.name))
    }
}

#[test]
fn emitted_sources_are_those_under_review() {
    let update = std::env::var_os("UPDATE_GOLDENS").is_some();
    let mut expected = Vec::new();
    for golden in goldens() {
        for module in golden.plan().modules {
            let file = golden.file(module.name);
            if update {
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(&file, module.source.as_bytes()).unwrap();
            }
            let kept =
                std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            if let Some((line, (kept, emitted))) = kept
                .lines()
                .zip(module.source.lines())
                .enumerate()
                .find(|(_, (kept, emitted))| kept != emitted)
            {
                panic!(
                    "{}:{}\n  kept:    {kept}\n  emitted: {emitted}\n\
                     review the change, then UPDATE_GOLDENS=1",
                    file.display(),
                    line + 1
                );
            }
            assert!(kept == *module.source, "{}: one is longer than the other", file.display());
            expected.push(file);
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cce-codegen/goldens");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        assert!(expected.contains(&path), "{} belongs to no plan any more: remove it", path.display());
    }
}

fn nvrtc(variable: &str, arch: Arch) -> Arc<Nvrtc> {
    let folder = std::env::var_os(variable).unwrap_or_else(|| {
        panic!("{variable} is not set: run the tests with `cargo xtask test`, which fetches NVRTC")
    });
    Nvrtc::find_in(&Search::at(folder), None, Some(arch)).unwrap()
}

/// The architectures that goldens are compiled for. PTX's mma.sync begins with sm_80; FFMA runs everywhere;
/// wgmma is sm_90a's alone.
const ARCHITECTURES: [Arch; 5] = [Arch::SM_80, Arch::SM_89, Arch::SM_90A, Arch::SM_100A, Arch::SM_120];

/// A module to be compiled, and what it is called in messages.
struct Job {
    name: String,
    loss: String,
    module: Module,
    arch: Arch,
}

impl Job {
    fn of(name: &str, plan: &GpuPlan, arch: Arch) -> Vec<Job> {
        let job = |module: &Module| Job {
            name: format!("{name}.{}.cu", module.name),
            loss: plan.program.name().to_owned(),
            module: module.clone(),
            arch,
        };
        plan.modules.iter().map(job).collect()
    }

    /// The source without the comment that names the loss.
    fn kernels(&self) -> &str {
        self.module.source.split_once("\n\n").map_or("", |(_, kernels)| kernels)
    }

    /// What is wrong with it: an error, spills, missing entries, warnings. ptxas says as a mere remark that it
    /// serialises wgmma instructions (C7510), which costs most of their speed.
    fn failure(&self, variable: &str) -> Option<String> {
        let Job { name, loss, module, arch } = self;
        let source = Source { text: &module.source, name, loss };
        let compiled = match nvrtc(variable, *arch).compile(&source, *arch, &Options::default()) {
            Ok(compiled) => compiled,
            Err(error) => return Some(format!("{name} for {arch}: {error}")),
        };
        let spilled: Vec<_> = compiled.kernels.iter().filter(|kernel| kernel.spills()).collect();
        let missing: Vec<_> = module.entries.iter().filter(|entry| compiled.kernel(entry).is_err()).collect();
        let complaints = ["warning", "Potential Performance Loss", "serialized"];
        let complains = complaints.iter().any(|complaint| compiled.log.contains(complaint));
        (!spilled.is_empty() || !missing.is_empty() || complains).then(|| {
            format!("{name} for {arch}: spills {spilled:?}, missing {missing:?}, log:\n{}", compiled.log)
        })
    }
}

fn compile_all(variable: &str, jobs: &[Job]) {
    let failures: Vec<String> = jobs.par_iter().filter_map(|job| job.failure(variable)).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn compile_goldens(variable: &str, architectures: &[Arch]) {
    let mut jobs = Vec::new();
    for golden in goldens() {
        let runs = |arch: &&Arch| golden.family != Family::Wgmma || **arch == Arch::SM_90A;
        for &arch in architectures.iter().filter(runs) {
            jobs.extend(Job::of(golden.name, &golden.plan(), arch));
        }
    }
    compile_all(variable, &jobs);
}

#[test]
fn every_golden_compiles_without_spills_or_warnings_for_every_architecture_with_nvrtc_13() {
    compile_goldens("CCE_TEST_NVRTC_13", &ARCHITECTURES);
}

#[test]
fn every_golden_compiles_without_spills_or_warnings_with_nvrtc_12() {
    compile_goldens("CCE_TEST_NVRTC_12", &[Arch::SM_80, Arch::SM_90A]);
}

/// With the tiles that a schedule chooses for a large head, where the registers are fewest.
fn of_a_large_head(gpu: &Gpu, family: Family, filter: Filter) -> Vec<GpuPlan> {
    let types = [DType::Bf16, DType::F16, DType::F32];
    let programs = losses::ALL.iter().map(|(_, program)| program());
    let cases = programs.flat_map(|program| types.map(|dtype| (program.clone(), dtype)));
    cases
        .filter_map(|(program, dtype)| {
            let problem = Problem { filter, ..Problem::new(8192, 2304, 256_000, dtype) };
            let problem = match program.has_target() {
                true => problem,
                false => Problem { ignored: cce_codegen::problem::Ignored::None, ..problem },
            };
            let offered = family.refuses(&problem, gpu).is_none();
            (offered && plan::refuses(&program, &problem).is_none()).then(|| {
                let schedule = GpuSchedule::of_family(family, &program, &problem, gpu);
                GpuPlan::build(&program, &problem, &schedule, gpu).unwrap()
            })
        })
        .collect()
}

/// Modules that differ by more than the comment that names the loss.
fn different(plans: &[GpuPlan], arch: Arch) -> Vec<Job> {
    let mut jobs: Vec<Job> = Vec::new();
    for plan in plans {
        let (dtype, filter) = (plan.problem.dtype, plan.problem.filter);
        for job in Job::of(&format!("{}, {dtype:?}, {filter}", plan.program.name()), plan, arch) {
            if !jobs.iter().any(|other| other.kernels() == job.kernels()) {
                jobs.push(job);
            }
        }
    }
    jobs
}

#[test]
fn every_shipped_loss_on_hopper_compiles_without_spills_sampled_where_it_can_be() {
    let of = |filter| of_a_large_head(&Gpu::h100(), Family::Wgmma, filter);
    let sampled = of(Filter::SAMPLED);
    assert!(!sampled.is_empty(), "no loss can be sampled");
    let plans = [of(Filter::Exact), sampled, of(Filter::BLOCKS)].concat();
    compile_all("CCE_TEST_NVRTC_13", &different(&plans, Arch::SM_90A));
}

#[test]
fn what_samples_compiles_without_spills_for_every_shipped_loss_before_hopper() {
    let gpu = Gpu::of_capability(8, 0);
    for family in [Family::Mma, Family::Simt] {
        let mut jobs = different(&of_a_large_head(&gpu, family, Filter::SAMPLED), Arch::SM_80);
        jobs.retain(|job| job.module.name.starts_with("sampled"));
        assert!(!jobs.is_empty(), "no loss can be sampled");
        compile_all("CCE_TEST_NVRTC_13", &jobs);
    }
}

/// mma.sync instructions of a warp in one stage of the ring, of the tile that has the fewest.
fn multiplications_of_a_stage(schedule: &GpuSchedule) -> usize {
    let tiles =
        [schedule.logits, schedule.logits_gradient, schedule.classifier_gradient, schedule.hidden_gradient];
    let of = |tile: Tile| (tile.m / tile.warps_m / 16) * (tile.n / tile.warps_n / 8) * (tile.k / 16);
    tiles.map(of).into_iter().min().unwrap() as usize
}

#[test]
fn matrix_kernels_use_tensor_cores_where_the_family_says_so() {
    let nvdisasm = std::env::var_os("CCE_TEST_NVDISASM")
        .expect("CCE_TEST_NVDISASM is not set: run the tests with `cargo xtask test`, which fetches it");
    let folder = tempfile::tempdir().unwrap();
    for golden in goldens() {
        let plan = golden.plan();
        for module in plan.modules.iter().filter(|module| module.family.is_some()) {
            let source = Source { text: &module.source, name: "golden.cu", loss: golden.program.name() };
            let compiled = nvrtc("CCE_TEST_NVRTC_13", Arch::SM_90A)
                .compile(&source, Arch::SM_90A, &Options::default())
                .unwrap();
            let file = folder.path().join("golden.cubin");
            std::fs::write(&file, &compiled.cubin).unwrap();
            let output = std::process::Command::new(&nvdisasm).arg("-c").arg(&file).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let sass = String::from_utf8_lossy(&output.stdout);
            let counts = ["HMMA.16816.F32", "LDSM", "LDGSTS", "FFMA"].map(|op| sass.matches(op).count());
            let what = format!("{}.{}: HMMA, LDSM, LDGSTS, FFMA = {counts:?}", golden.name, module.name);
            match golden.family {
                // A fence of all memory in the main loop costs a third of the tensor cores' time: whoever
                // synchronises there waits for every store of the GPU.
                Family::Wgmma => {
                    let lines: Vec<&str> = sass.lines().collect();
                    let multiplies = |line: &&str| line.contains("HGMMA");
                    let first = lines.iter().position(multiplies).expect("HGMMA in the SASS");
                    let last = lines.iter().rposition(multiplies).expect("HGMMA in the SASS");
                    let fenced = lines[first..=last].iter().any(|line| line.contains("MEMBAR"));
                    let copies = sass.matches("UTMALDG").count();
                    assert!(
                        !fenced && copies >= 2 && counts[0] == 0,
                        "{what}, fenced {fenced}, UTMALDG {copies}"
                    );
                }
                // A stage of the smallest tile unrolled. Aligned rows arrive through cp.async; a hidden size of 123
                // leaves rows at 2-byte addresses, which it cannot copy.
                Family::Mma => assert!(
                    counts[0] >= multiplications_of_a_stage(&plan.schedule)
                        && counts[1] >= 16
                        && (counts[2] >= 8 || golden.problem.hidden == 123),
                    "{what}"
                ),
                Family::Simt => assert!(counts[0] == 0 && counts[3] >= 512, "{what}"),
            }
        }
    }
}
