//! Plans, run on copies of one head.

mod buffers;
mod judgement;
mod results;

pub use results::Results;

use super::compile::compiled;
use super::{DeviceCompiler, HostData, Memory, Tolerance};
use crate::Error;
use crate::arguments::Arguments;
use crate::data::Head;
use crate::phases::Phase;
use crate::search::{Bench, Compile, Failure};
use crate::task::Task;
use buffers::{Copied, MOST_COPIES, OutputBuffers, copied, named_values};
use cce_codegen::problem::{Filter, Problem};
use cce_codegen::schedule::Schedule;
use cce_runtime::{Call, Device, DeviceKind, GradientViews, Inputs, Outputs, Plan, Upstream, Workspace};
use cce_tuning_db::{Clocks, Resources, Status};
use judgement::Reference;
use results::{not_finite, refuse};
use std::sync::Arc;

/// A task on a device, with its inputs in the device's memory.
pub struct PlanBench<M: Memory> {
    memory: M,
    device: Device,
    task: Task,
    tolerance: Tolerance,
    copies: Vec<Copied<M::Buffer>>,
    rows: Vec<(String, M::Buffer)>,
    cols: Vec<(String, M::Buffer)>,
    scalars: Vec<(String, f32)>,
    outputs: OutputBuffers<M::Buffer>,
    /// Those of another seed: what is searched and sampled has them from the start, before further copies of the
    /// inputs take the room.
    others: Option<OutputBuffers<M::Buffer>>,
    workspace: Option<(u64, Workspace<'static>)>,
    reference: Option<Reference<M::Buffer>>,
    problem: Option<Problem>,
    phases: Vec<Phase>,
}

impl<M: Memory> PlanBench<M> {
    /// Copies the inputs to the device. `head` has the task's shape and type. With the problem of a `search`, several
    /// times, as far as half of the free memory allows; else once.
    ///
    /// # Errors
    /// When there is no room for one copy and the outputs, which a search for sampled gradients has twice, or `arguments` do not fit the program.
    pub fn new(
        memory: M,
        device: Device,
        task: Task,
        head: &Head,
        arguments: &Arguments,
        search: Option<&Problem>,
    ) -> Result<PlanBench<M>, Error> {
        let outputs = OutputBuffers::new(&memory, &task)?;
        let rows = named_values(&arguments.rows, |name, v| memory.upload(HostData::F32(v), name))?;
        let cols = named_values(&arguments.cols, |name, v| memory.upload(HostData::F32(v), name))?;
        let mut copies = vec![copied(&memory, head, None, 0)?];
        let is_sampled = |problem: &&Problem| matches!(problem.filter, Filter::Sampled { .. });
        let others = search.filter(is_sampled).map(|_| OutputBuffers::new(&memory, &task)).transpose()?;
        let bytes = ((head.hidden.len() + head.classifier.len()) * head.dtype().bytes()) as u64;
        while search.is_some() && copies.len() < MOST_COPIES && memory.free_bytes() / 2 > bytes {
            let copy = copied(&memory, head, copies.first(), copies.len())?;
            copies.push(copy);
        }
        let problem_filter = task.filter.unwrap_or(Filter::SAMPLED);
        Ok(PlanBench {
            tolerance: Tolerance::of(task.dtype, problem_filter),
            memory,
            device,
            copies,
            rows,
            cols,
            scalars: arguments.scalars.clone(),
            outputs,
            others,
            workspace: None,
            reference: None,
            problem: search.cloned(),
            phases: Vec::new(),
            task,
        })
    }

    /// Says where the time of its preparation went.
    #[must_use]
    pub(super) fn with_phases(self, phases: Vec<Phase>) -> PlanBench<M> {
        PlanBench { phases, ..self }
    }

    /// Runs a plan of this task once: what it computes is what candidates are compared with.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when some of it is not finite; what the plan or the device reports.
    pub fn make_reference(&mut self, plan: &Plan, arguments: &Arguments) -> Result<(), Error> {
        self.run_poisoned(plan, 0)?;
        let download = |(name, buffer): (String, &M::Buffer)| Ok((name, self.memory.download(buffer)?));
        let outputs: Vec<_> = self.outputs.rows().map(download).collect::<Result<_, Error>>()?;
        let reduced = self.reduced()?;
        let mut unusable = Vec::new();
        for (name, values) in &outputs {
            unusable.extend(not_finite(&format!("output {name}"), values));
        }
        unusable.extend(not_finite("the mean loss", &[reduced]));
        for (name, buffer) in self.outputs.gradients() {
            let itself = self.memory.compare(buffer, buffer)?;
            let count = itself.nan + itself.infinite;
            unusable.extend((count > 0).then(|| format!("{count} elements of {name}")));
        }
        refuse(unusable, &self.task.program, arguments)?;
        let fresh = OutputBuffers::new(&self.memory, &self.task)?;
        let used = std::mem::replace(&mut self.outputs, fresh);
        let OutputBuffers { hidden, classifier, inputs, .. } = used;
        let inputs = inputs.into_iter().map(|(_, buffer)| buffer);
        let gradients = hidden.into_iter().chain(classifier).chain(inputs).collect();
        self.reference = Some(Reference { reduced, outputs, gradients });
        Ok(())
    }

    /// What candidates are compared with, on the host; `None` where it was not made.
    ///
    /// # Errors
    /// What the device reports.
    pub fn reference(&self) -> Result<Option<Results>, Error> {
        let Some(Reference { reduced, outputs, gradients }) = &self.reference else { return Ok(None) };
        let names = self.outputs.gradients().map(|(name, _)| name);
        let gradients = names.zip(gradients).map(|(name, buffer)| Ok((name, self.memory.download(buffer)?)));
        let gradients = gradients.collect::<Result<_, Error>>()?;
        Ok(Some(Results { reduced: *reduced, outputs: outputs.clone(), gradients }))
    }

    /// Makes the reference another.
    #[cfg(test)]
    pub(super) fn spoil_reference(&mut self, spoil: impl FnOnce(&mut Results)) -> Result<(), Error> {
        let Some(mut results) = self.reference()? else { return Ok(()) };
        spoil(&mut results);
        let Results { reduced, outputs, gradients } = results;
        let upload = |(name, values): &(String, Vec<f32>)| self.memory.upload(HostData::F32(values), name);
        let gradients = gradients.iter().map(upload).collect::<Result<_, Error>>()?;
        self.reference = Some(Reference { reduced, outputs, gradients });
        Ok(())
    }

    /// Runs a plan of this task once on poisoned outputs.
    ///
    /// # Errors
    /// What the plan or the device reports.
    pub fn run(&mut self, plan: &Plan) -> Result<Results, Error> {
        self.run_poisoned(plan, 0)?;
        let download = |(name, buffer): (String, &M::Buffer)| Ok((name, self.memory.download(buffer)?));
        Ok(Results {
            reduced: self.reduced()?,
            outputs: self.outputs.rows().map(download).collect::<Result<_, Error>>()?,
            gradients: self.outputs.gradients().map(download).collect::<Result<_, Error>>()?,
        })
    }

    fn run_poisoned(&mut self, plan: &Plan, seed: u64) -> Result<(), Error> {
        let buffers = &mut self.outputs;
        self.memory.poison(&mut buffers.reduced)?;
        let all = buffers.rows.iter_mut().chain(&mut buffers.inputs).map(|(_, buffer)| buffer);
        for buffer in all.chain(&mut buffers.hidden).chain(&mut buffers.classifier) {
            self.memory.poison(buffer)?;
        }
        self.call(plan, 0, seed)?;
        Ok(())
    }

    fn reduced(&self) -> Result<f32, Error> {
        Ok(self.memory.download(&self.outputs.reduced)?.first().copied().unwrap_or(f32::NAN))
    }

    /// One call on one copy of the inputs, to its end; its time in ms.
    fn call(&mut self, plan: &Plan, copy: usize, seed: u64) -> Result<f64, Error> {
        let needed = plan.workspace().peak;
        if self.workspace.as_ref().is_none_or(|(bytes, _)| *bytes < needed) {
            // Given back first: there may not be room for both.
            self.workspace = None;
            self.workspace = Some((needed, plan.allocate()?));
        }
        let Some((_, workspace)) = &mut self.workspace else { return Ok(0.0) };
        let (memory, buffers) = (&self.memory, &mut self.outputs);
        let copied = &self.copies[copy % self.copies.len()];
        let mut inputs = Inputs::new(memory.view(&copied.hidden), memory.view(&copied.classifier));
        if plan.program().has_target() {
            inputs = inputs.targets(memory.view(&copied.targets));
        }
        for (name, buffer) in &self.rows {
            inputs = inputs.row(name, memory.view(buffer));
        }
        for (name, buffer) in &self.cols {
            inputs = inputs.col(name, memory.view(buffer));
        }
        for (name, value) in &self.scalars {
            inputs = inputs.scalar(name, *value);
        }
        let loss = loss_name(plan);
        let mut outputs = Outputs::new().reduced(&loss, memory.view_mut(&mut buffers.reduced));
        for (name, buffer) in &mut buffers.rows {
            outputs = outputs.row(name, memory.view_mut(buffer));
        }
        let call = Call::new().seed(seed);
        if !plan.problem().wants_gradients() {
            return memory.time(|| {
                let _saved = plan.forward(&inputs, &call, workspace, outputs)?;
                Ok(())
            });
        }
        let mut gradients = GradientViews::new();
        if let Some(buffer) = &mut buffers.hidden {
            gradients = gradients.hidden(memory.view_mut(buffer));
        }
        if let Some(buffer) = &mut buffers.classifier {
            gradients = gradients.classifier(memory.view_mut(buffer));
        }
        for (name, buffer) in &mut buffers.inputs {
            gradients = gradients.input(name, memory.view_mut(buffer));
        }
        let upstream = Upstream::new().scalar(&loss, 1.0f32);
        memory.time(|| Ok(plan.step(&inputs, &upstream, &call, workspace, outputs, gradients)?))
    }
}

/// The output that is reduced: `loss`, or the first.
fn loss_name(plan: &Plan) -> String {
    let outputs = plan.program().outputs();
    let loss = outputs.iter().find(|output| output.name == "loss").or(outputs.first());
    loss.map(|output| output.name.to_string()).unwrap_or_default()
}

/// A plan, and what its kernels use (on a GPU).
#[derive(Debug)]
pub struct Built {
    plan: Plan,
    resources: Option<Resources>,
}

impl Built {
    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}

impl<M: Memory> Bench for PlanBench<M> {
    type Built = Built;

    fn build(&self, schedule: &Schedule) -> Result<Built, Failure> {
        // Compiled before it is loaded: what spills is dropped without a look at the device.
        let resources = match (schedule, &self.problem) {
            (Schedule::Gpu(gpu), Some(problem)) if self.device.kind() == DeviceKind::Cuda => {
                let info = self.device.properties().cuda.ok_or(Error::NoCandidate);
                let info = info.map_err(|error| failure(&error))?;
                Some(compiled(&info, &self.task.program, problem, gpu)?)
            }
            _ => None,
        };
        let plan = self.task.plan(&self.device, *schedule).map_err(|error| failure(&error))?;
        Ok(Built { plan, resources })
    }

    fn resources(&self, built: &Built) -> Option<Resources> {
        built.resources
    }

    fn check(&mut self, built: &mut Built) -> Result<f64, Failure> {
        self.judge(&built.plan)
    }

    fn time(&mut self, built: &mut Built, round: usize) -> Result<f64, Failure> {
        self.call(&built.plan, round, round as u64).map_err(|error| failure(&error))
    }

    fn clocks(&self) -> Option<Clocks> {
        self.memory.clocks()
    }

    fn phases(&self) -> Vec<Phase> {
        self.phases.clone()
    }

    fn compiler(&self) -> Option<Arc<dyn Compile>> {
        let info = self.device.properties().cuda?;
        let problem = self.problem.clone()?;
        Some(Arc::new(DeviceCompiler::new(info, self.task.program.clone(), problem)))
    }
}

/// How a trial ends that ran into this error.
pub fn failure(error: &Error) -> Failure {
    use cce_runtime::Error as Runtime;
    let Error::Runtime(runtime) = error else { return Failure::new(Status::Launch(error.to_string())) };
    let text = runtime.to_string();
    let status = match runtime {
        Runtime::WorkspaceTooSmall { .. } | Runtime::OutOfMemory { .. } | Runtime::OutOfHostMemory { .. } => {
            Status::Resources(text)
        }
        Runtime::Compile { .. } | Runtime::Nvrtc { .. } | Runtime::ArchNotSupported { .. } => {
            Status::Compile(text)
        }
        Runtime::InvalidProblem { .. } | Runtime::FilterNotAllowed { .. } => Status::Constraint(text),
        _ => Status::Launch(text),
    };
    Failure { fatal: runtime.is_sticky(), ..Failure::new(status) }
}
