//! Runs a GPU plan: loads its kernels once, then puts the launches of each call on the caller's stream. A
//! call copies nothing and waits for nothing, and allocates nothing on the device but what the driver takes for a graph of
//! calls that repeat; so it can be captured in a graph. Only a call that checks its targets waits.

use super::args::Arguments;
use super::jit;
use super::kernels::{Kernels, Loaded};
use super::replay::Replay;
use crate::cubin_cache::CubinCache;
use crate::driver::{Context, DeviceInfo, DevicePtr, Function, LaunchConfig, RawStream, Stream};
use crate::error::{Error, Result};
use crate::executor::{
    Executor, ResolvedBackward, ResolvedForward, ResolvedInputs, ResolvedSettings, ResolvedStep,
};
use crate::nvrtc::Nvrtc;
use crate::workspace::{RawWorkspace, WorkspaceSize};
use cce_codegen::ir::Program;
use cce_codegen::plan::{GpuPlan, Launch, PlanError};
use cce_codegen::problem::Problem;
use cce_codegen::schedule::{Gpu, GpuSchedule, Schedule};
use std::collections::HashMap;

/// The device as schedules know it.
impl From<&DeviceInfo> for Gpu {
    fn from(info: &DeviceInfo) -> Gpu {
        Gpu {
            name: info.name.clone(),
            capability: info.compute_capability,
            multiprocessors: info.multiprocessors,
            shared_per_block: info.shared_per_block,
            l2_bytes: info.l2_bytes,
        }
    }
}

/// A plan's kernels, loaded on one GPU.
pub(crate) struct CudaExecutor {
    context: Context,
    plan: GpuPlan,
    schedule: Schedule,
    functions: HashMap<(usize, &'static str), Function>,
    kernels: Kernels,
    forward: Replay,
    backward: Replay,
}

impl CudaExecutor {
    /// Plans, compiles (or takes from the cache) and loads. `notes` gets what is worth knowing: a cache that
    /// could not be used, say.
    pub(crate) fn new(
        context: &Context,
        program: &Program,
        problem: &Problem,
        schedule: &GpuSchedule,
        notes: &mut Vec<String>,
    ) -> Result<CudaExecutor> {
        let mut plan =
            GpuPlan::build(program, problem, schedule, &Gpu::from(context.info())).map_err(|error| {
                match error {
                    PlanError::Workspace { limit, smallest } => {
                        Error::WorkspaceTooSmall { given: limit, smallest }
                    }
                    other => Error::Plan(other),
                }
            })?;
        let info = context.info();
        let nvrtc = Nvrtc::find(Some(info.driver), Some(info.arch()))?;
        let compiled = jit::compile(&plan, &nvrtc, info.arch(), &CubinCache::from_env())?;
        let mut shared_bytes: HashMap<(usize, &'static str), u32> = HashMap::new();
        for launch in plan.forward.iter().chain(&plan.backward).chain(&plan.check_targets) {
            let most = shared_bytes.entry((launch.module, launch.entry)).or_default();
            *most = launch.shared_bytes.max(*most);
        }
        let (mut functions, mut kernels) = (HashMap::new(), Vec::new());
        for (index, (module, compiled)) in plan.modules.iter_mut().zip(&compiled).enumerate() {
            if let Some(warning) = &compiled.cached.warning
                && !notes.contains(warning)
            {
                notes.push(warning.clone());
            }
            let loaded = Loaded::get(context, &compiled.cached.compiled.cubin, &module.source)?;
            // The sources are most of a plan's memory, and the same in plans of other numbers of tokens.
            module.source = loaded.source();
            for &entry in &module.entries {
                let most = shared_bytes.get(&(index, entry)).copied().unwrap_or(0);
                functions.insert((index, entry), loaded.function(entry, most)?);
            }
            kernels.push(loaded);
        }
        let (schedule, kernels) = (Schedule::Gpu(plan.schedule), Kernels::new(kernels));
        let (context, [forward, backward]) = (context.clone(), [Replay::default(), Replay::default()]);
        Ok(CudaExecutor { context, plan, schedule, functions, kernels, forward, backward })
    }

    fn stream(&self, settings: &ResolvedSettings) -> Result<Stream> {
        match settings.stream {
            None => Ok(self.context.default_stream()),
            Some(raw) => {
                let raw = RawStream(std::ptr::without_provenance_mut(raw as usize));
                // SAFETY: the call's contract is that the stream is live on this device while the call's work
                // runs.
                unsafe { self.context.stream_from_raw(raw) }
            }
        }
    }

    fn launch(&self, stream: &Stream, launches: &[Launch], arguments: &Arguments<'_>) -> Result<()> {
        let _bound = self.context.bind()?;
        for launch in launches.iter().filter(|launch| launch.blocks > 0) {
            let Some(function) = self.functions.get(&(launch.module, launch.entry)) else {
                return Err(Error::Launch {
                    kernel: launch.entry.to_owned(),
                    reason: "the plan names a kernel that none of its modules has".to_owned(),
                });
            };
            let config =
                LaunchConfig::linear(launch.blocks, launch.threads).with_dynamic_shared(launch.shared_bytes);
            let launch_args = arguments.launch(&launch.args)?;
            // SAFETY: the plan's arguments are in the order and of the types of the kernel's parameters (the
            // driver checks their sizes); every address was resolved from views that the caller promises to
            // be valid until the stream's work is done, and from a workspace of the size that the plan asked
            // for.
            unsafe { function.launch(stream, &config, &launch_args) }?;
        }
        Ok(())
    }

    /// A whole pass: its launches, or a graph of them where it repeats.
    fn pass(
        &self,
        replay: &Replay,
        stream: &Stream,
        launches: &[Launch],
        arguments: &Arguments<'_>,
    ) -> Result<()> {
        let launch = |stream: &Stream| self.launch(stream, launches, arguments);
        // SAFETY: the key has every number that the launches are made from; for what they touch, as in `launch`.
        unsafe { replay.run(&self.context, stream, arguments.key(), launch) }
    }

    /// Fails with the first out-of-range target. Waits for the stream.
    fn check_targets(
        &self,
        stream: &Stream,
        inputs: &ResolvedInputs,
        settings: &ResolvedSettings,
        workspace: RawWorkspace,
    ) -> Result<()> {
        let Some(check) = self.plan.check_targets.as_ref().filter(|_| settings.check_targets) else {
            return Ok(());
        };
        if stream.is_capturing()? {
            return Err(Error::InvalidCall {
                reason: "a call that checks its targets waits for the GPU and cannot be captured in a graph: check \
                         outside the capture"
                    .to_owned(),
            });
        }
        let arguments = self.arguments(inputs, settings, workspace);
        self.launch(stream, std::slice::from_ref(check), &arguments)?;
        let mut found = [0i64; 2];
        let from = DevicePtr(arguments.place(self.plan.bad_target));
        // SAFETY: the plan put two i64 there; `found` is borrowed until the stream has been waited for, just
        // below.
        unsafe { stream.download_async(&mut found, from) }?;
        stream.synchronize()?;
        match found {
            [row, target] if row >= 0 => {
                Err(Error::TargetOutOfRange { row: row as usize, target, vocab: self.plan.problem.vocab })
            }
            _ => Ok(()),
        }
    }

    fn arguments<'a>(
        &'a self,
        inputs: &'a ResolvedInputs,
        settings: &'a ResolvedSettings,
        workspace: RawWorkspace,
    ) -> Arguments<'a> {
        Arguments {
            context: &self.context,
            plan: &self.plan,
            inputs,
            settings,
            workspace,
            outputs: &[],
            upstreams: &[],
            gradients: None,
        }
    }
}

impl Executor for CudaExecutor {
    fn workspace(&self) -> WorkspaceSize {
        WorkspaceSize { peak: self.plan.workspace.peak(), held: self.plan.workspace.held }
    }

    fn problem(&self) -> &Problem {
        &self.plan.problem
    }

    fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    fn kernels(&self) -> Kernels {
        self.kernels.clone()
    }

    fn dump(&self, level: &str) -> Option<Result<String>> {
        match level {
            "plan" => Some(Ok(self.plan.dump())),
            "cuda" => Some(Ok(jit::sources(&self.plan))),
            "ptx" => {
                let info = self.context.info();
                let nvrtc = Nvrtc::find(Some(info.driver), Some(info.arch()));
                Some(nvrtc.and_then(|nvrtc| jit::ptx(&self.plan, &nvrtc, info.arch())))
            }
            _ => None,
        }
    }

    fn forward(&self, call: &ResolvedForward) -> Result<()> {
        let stream = self.stream(&call.settings)?;
        self.check_targets(&stream, &call.inputs, &call.settings, call.workspace)?;
        let mut arguments = self.arguments(&call.inputs, &call.settings, call.workspace);
        arguments.outputs = &call.outputs;
        self.pass(&self.forward, &stream, &self.plan.forward, &arguments)
    }

    fn backward(&self, call: &ResolvedBackward) -> Result<()> {
        let stream = self.stream(&call.settings)?;
        let mut arguments = self.arguments(&call.inputs, &call.settings, call.workspace);
        arguments.upstreams = &call.upstreams;
        arguments.gradients = Some(&call.gradients);
        self.pass(&self.backward, &stream, &self.plan.backward, &arguments)
    }

    fn kept_entries(&self, settings: &ResolvedSettings, workspace: RawWorkspace) -> Result<Option<u64>> {
        if self.plan.kept.is_none() && self.plan.live.is_none() {
            return Ok(None);
        }
        let stream = self.stream(settings)?;
        if stream.is_capturing()? {
            return Err(Error::InvalidCall {
                reason: "to count what was kept waits for the GPU and cannot be captured in a graph: count outside \
                         the capture"
                    .to_owned(),
            });
        }
        let place = |buffer| DevicePtr(workspace.at(self.plan.workspace.offset(buffer)) as u64);
        let mut rows = [self.plan.problem.tokens as i32];
        let counted = match self.plan.live {
            Some(tiles) => tiles.counted,
            None => self.plan.kept.and_then(|kept| kept.rows),
        };
        let mut counts = vec![0u32; self.plan.problem.tokens];
        let mut live = vec![0u8; self.plan.live.map_or(0, |tiles| tiles.decisions.bytes as usize)];
        // SAFETY: the forward left these numbers there; the destinations are borrowed until the stream has
        // been waited for, just below.
        unsafe {
            if let Some(count) = counted {
                stream.download_async(&mut rows, place(count))?;
            }
            if let Some(kept) = self.plan.kept {
                stream.download_async(&mut counts, place(kept.of_rows))?;
            }
            if let Some(tiles) = self.plan.live {
                stream.download_async(&mut live, place(tiles.decisions))?;
            }
        }
        stream.synchronize()?;
        let rows = rows[0].max(0) as usize;
        Ok(Some(match self.plan.live {
            Some(tiles) => tiles.kept_logits(&self.plan.problem, rows, &live),
            None => counts.iter().take(rows).map(|&count| u64::from(count)).sum(),
        }))
    }

    fn step(&self, call: &ResolvedStep) -> Result<()> {
        let stream = self.stream(&call.settings)?;
        self.check_targets(&stream, &call.inputs, &call.settings, call.workspace)?;
        let mut arguments = self.arguments(&call.inputs, &call.settings, call.workspace);
        arguments.outputs = &call.outputs;
        arguments.upstreams = &call.upstreams;
        arguments.gradients = Some(&call.gradients);
        self.pass(&self.forward, &stream, &self.plan.forward, &arguments)?;
        self.pass(&self.backward, &stream, &self.plan.backward, &arguments)
    }
}
