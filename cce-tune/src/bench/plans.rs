//! Plans, run on copies of one head.

use super::compile::compiled;
use super::sampled::{Bias, LARGE, Verdict};
use super::{Comparison, DeviceCompiler, HostData, Memory, Tolerance};
use crate::Error;
use crate::arguments::Arguments;
use crate::data::{Head, Targets};
use crate::phases::Phase;
use crate::search::{Bench, Compile, Failure};
use crate::task::Task;
use cce_codegen::ir::{InputKind, Program};
use cce_codegen::problem::{Filter, Problem};
use cce_codegen::schedule::Schedule;
use cce_runtime::{
    Call, Device, DeviceKind, Element, GradientViews, Inputs, Outputs, Plan, Upstream, Workspace,
};
use cce_tuning_db::{Clocks, Resources, Status};
use std::sync::Arc;

/// Copies of the inputs that timed runs rotate through, at most.
const MOST_COPIES: usize = 4;

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

/// One copy of hidden states, classifier and targets.
struct Copied<B> {
    hidden: B,
    classifier: B,
    targets: B,
}

struct OutputBuffers<B> {
    reduced: B,
    rows: Vec<(String, B)>,
    hidden: Option<B>,
    classifier: Option<B>,
    inputs: Vec<(String, B)>,
}

/// What candidates are compared with: gradients, which are large, in the device's memory.
struct Reference<B> {
    reduced: f32,
    outputs: Vec<(String, Vec<f32>)>,
    gradients: Vec<B>,
}

/// Everything that one run computed, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Results {
    /// The mean of the loss (of the first output, where none has that name).
    pub reduced: f32,
    /// Every output, token by token.
    pub outputs: Vec<(String, Vec<f32>)>,
    /// dE, dC and gradients of inputs, those that the task asks for.
    pub gradients: Vec<(String, Vec<f32>)>,
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

    /// What a run left, beside the reference.
    fn compared(&self, reference: &Reference<M::Buffer>) -> Result<Compared, Error> {
        let mut rest =
            vec![("the mean loss".to_owned(), Comparison::of(&[self.reduced()?], &[reference.reduced]))];
        for ((name, buffer), (_, expected)) in self.outputs.rows().zip(&reference.outputs) {
            let found = self.memory.download(buffer)?;
            rest.push((format!("output {name}"), Comparison::of(&found, expected)));
        }
        let gradients = self.outputs.gradients().zip(&reference.gradients);
        let gradients = gradients
            .map(|((name, buffer), expected)| Ok((name, self.memory.compare(buffer, expected)?)))
            .collect::<Result<_, Error>>()?;
        Ok(Compared { rest, gradients })
    }

    /// Runs a plan of this task on poisoned outputs and compares all of it with the reference, if there is one. Returns
    /// the worst relative error of a gradient.
    ///
    /// # Errors
    /// [`Status::Wrong`] where it is off by more than rounding and noise; what kept it from running.
    pub fn judge(&mut self, plan: &Plan) -> Result<f64, Failure> {
        let of = |error: Error| failure(&error);
        self.run_poisoned(plan, 0).map_err(of)?;
        let Some(reference) = self.reference.take() else { return Ok(0.0) };
        let judged = self.compared(&reference).map_err(of).and_then(|found| {
            let is_sampled = matches!(plan.problem().filter, Filter::Sampled { .. });
            match is_sampled && found.is_noisy(&self.tolerance) {
                true => self.judge_sampled(plan, &reference, found),
                false => found.judge(&self.tolerance),
            }
        });
        self.reference = Some(reference);
        judged
    }

    /// Whether what a run with seed 0 left, and was compared, is an estimate without bias, by runs with other seeds.
    fn judge_sampled(
        &mut self,
        plan: &Plan,
        reference: &Reference<M::Buffer>,
        found: Compared,
    ) -> Result<f64, Failure> {
        let of = |error: Error| failure(&error);
        let worst = found.worst();
        found.judge_but_noise(&self.tolerance)?;
        let mut biases = vec![Bias::default(); found.gradients.len()];
        let mut first = found;
        let mut pair = 0;
        loop {
            if pair > 0 {
                self.run_poisoned(plan, 2 * pair).map_err(of)?;
                first = self.compared(reference).map_err(of)?;
                first.judge_but_noise(&self.tolerance)?;
            }
            let between = self.run_beside(plan, 2 * pair + 1)?;
            let second = self.compared(reference).map_err(of)?;
            second.judge_but_noise(&self.tolerance)?;
            let pairs = first.gradients.iter().zip(&second.gradients).zip(&between);
            for (bias, (((_, a), (_, b)), between)) in biases.iter_mut().zip(pairs) {
                bias.add(*a, *b, *between);
            }
            if pair == 0 && worst > LARGE {
                self.judge_again(plan, &first, worst)?;
            }
            let (mut reasons, mut open) = (Vec::new(), false);
            for (bias, (name, _)) in biases.iter().zip(&first.gradients) {
                match bias.judge(name, self.tolerance.gradients) {
                    Verdict::Right => {}
                    Verdict::Open => open = true,
                    Verdict::Wrong(reason) => reasons.push(reason),
                }
            }
            match (reasons.is_empty(), open) {
                (false, _) => return Err(wrong(worst, reasons.join("; "))),
                (true, false) => return Ok(worst),
                (true, true) => pair += 1,
            }
        }
    }

    /// Whether another run with seed 1, which the last one had, computes the same gradients.
    fn judge_again(&mut self, plan: &Plan, found: &Compared, worst: f64) -> Result<(), Failure> {
        let again = self.run_beside(plan, 1)?;
        // What is not written the second time is no difference, but an error.
        let moved = found.gradients.iter().zip(&again).find(|(_, again)| again.error > 0.0);
        let Some(((name, _), again)) = moved else { return Ok(()) };
        let reason = match again.judge_written(name) {
            Ok(()) => format!("{name} differs by {:.1e} between two runs with one seed", again.error),
            Err(reason) => format!("{reason} in the second of two runs with one seed"),
        };
        Err(wrong(worst, reason))
    }

    /// Runs a plan beside what the last run left, and compares the gradients of both.
    fn run_beside(&mut self, plan: &Plan, seed: u64) -> Result<Vec<Comparison>, Failure> {
        let of = |error: Error| failure(&error);
        let others = match self.others.take() {
            Some(others) => others,
            // For want of room for what the check needs, no candidate is to blame.
            None => OutputBuffers::new(&self.memory, &self.task)
                .map_err(|error| Failure { blameless: true, ..failure(&error) })?,
        };
        let before = std::mem::replace(&mut self.outputs, others);
        let ran = self.run_poisoned(plan, seed);
        let pairs = self.outputs.gradients().zip(before.gradients());
        let compared: Result<Vec<Comparison>, Error> =
            pairs.map(|((_, now), (_, before))| self.memory.compare(now, before)).collect();
        self.others = Some(before);
        ran.and(compared).map_err(of)
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

impl<B> OutputBuffers<B> {
    fn new<M: Memory<Buffer = B>>(memory: &M, task: &Task) -> Result<OutputBuffers<B>, Error> {
        let own = Element::from(task.dtype);
        let program = &task.program;
        let wanted = |name: &str, wanted: bool, rows: usize| -> Result<Option<B>, Error> {
            wanted.then(|| memory.poisoned(own, rows * task.width, name)).transpose()
        };
        Ok(OutputBuffers {
            reduced: memory.poisoned(Element::F32, 1, "the reduced loss")?,
            rows: named(program.outputs().iter().map(|o| o.name.as_ref()), |name| {
                memory.poisoned(Element::F32, task.tokens, name)
            })?,
            hidden: wanted("dE", task.gradients.hidden, task.tokens)?,
            classifier: wanted("dC", task.gradients.classifier, task.vocab)?,
            inputs: named(task.input_gradients.iter().map(String::as_str), |name| {
                let kind = program.inputs().iter().find(|input| input.name == name).map(|input| input.kind);
                let len = match kind {
                    Some(InputKind::Row) => task.tokens,
                    Some(InputKind::Col) => task.vocab,
                    _ => 1,
                };
                memory.poisoned(Element::F32, len, name)
            })?,
        })
    }

    fn rows(&self) -> impl Iterator<Item = (String, &B)> {
        self.rows.iter().map(|(name, buffer)| (name.clone(), buffer))
    }

    fn gradients(&self) -> impl Iterator<Item = (String, &B)> {
        let matrices = [("dE", &self.hidden), ("dC", &self.classifier)];
        let matrices =
            matrices.into_iter().filter_map(|(name, buffer)| Some((name.to_owned(), buffer.as_ref()?)));
        matrices.chain(self.inputs.iter().map(|(name, buffer)| (format!("the gradient of {name}"), buffer)))
    }
}

/// How close the vectors of a run are to the reference's.
struct Compared {
    rest: Vec<(String, Comparison)>,
    gradients: Vec<(String, Comparison)>,
}

impl Compared {
    /// The worst relative error of a gradient.
    ///
    /// # Errors
    /// [`Status::Wrong`], with every vector that is beyond its tolerance.
    fn judge(&self, tolerance: &Tolerance) -> Result<f64, Failure> {
        let rest = self.rest.iter().map(|found| (found, tolerance.outputs));
        let gradients = self.gradients.iter().map(|found| (found, tolerance.gradients));
        let reasons: Vec<String> = rest
            .chain(gradients)
            .filter_map(|((name, comparison), limit)| comparison.judge(name, limit).err())
            .collect();
        match reasons.is_empty() {
            true => Ok(self.worst()),
            false => Err(wrong(self.worst(), reasons.join("; "))),
        }
    }

    /// The worst relative error of a gradient.
    fn worst(&self) -> f64 {
        self.gradients.iter().fold(0.0f64, |worst, (_, comparison)| worst.max(comparison.error))
    }

    /// Whether a gradient is off by more than rounding.
    fn is_noisy(&self, tolerance: &Tolerance) -> bool {
        self.worst() > tolerance.gradients
    }

    /// As [`Compared::judge`], of all but how far gradients are off.
    fn judge_but_noise(&self, tolerance: &Tolerance) -> Result<(), Failure> {
        let rest = self.rest.iter().filter_map(|(name, found)| found.judge(name, tolerance.outputs).err());
        let gradients = self.gradients.iter().filter_map(|(name, found)| found.judge_written(name).err());
        let reasons: Vec<String> = rest.chain(gradients).collect();
        match reasons.is_empty() {
            true => Ok(()),
            false => Err(wrong(self.worst(), reasons.join("; "))),
        }
    }
}

/// A wrong result, with its worst relative error.
fn wrong(error: f64, reason: String) -> Failure {
    Failure { error: Some(error), ..Failure::new(Status::Wrong(reason)) }
}

/// The output that is reduced: `loss`, or the first.
fn loss_name(plan: &Plan) -> String {
    let outputs = plan.program().outputs();
    let loss = outputs.iter().find(|output| output.name == "loss").or(outputs.first());
    loss.map(|output| output.name.to_string()).unwrap_or_default()
}

fn named<'a, B>(
    names: impl Iterator<Item = &'a str>,
    make: impl Fn(&str) -> Result<B, Error>,
) -> Result<Vec<(String, B)>, Error> {
    names.map(|name| Ok((name.to_owned(), make(name)?))).collect()
}

fn named_values<B>(
    values: &[(String, Vec<f32>)],
    make: impl Fn(&str, &[f32]) -> Result<B, Error>,
) -> Result<Vec<(String, B)>, Error> {
    values.iter().map(|(name, values)| Ok((name.clone(), make(name, values)?))).collect()
}

/// Copy number `turn` of the inputs, with the tokens rotated by a part of their number; the classifier is copied on the
/// device from the first one's.
fn copied<M: Memory>(
    memory: &M,
    head: &Head,
    first: Option<&Copied<M::Buffer>>,
    turn: usize,
) -> Result<Copied<M::Buffer>, Error> {
    let (hidden, targets) = head.rotated_tokens(turn * head.tokens / MOST_COPIES);
    let targets = match &targets {
        Targets::I32(values) => HostData::I32(values),
        Targets::I64(values) => HostData::I64(values),
    };
    Ok(Copied {
        hidden: memory.upload((&hidden).into(), "the hidden states")?,
        classifier: match first {
            Some(first) => memory.duplicate(&first.classifier, "the classifier")?,
            None => memory.upload((&head.classifier).into(), "the classifier")?,
        },
        targets: memory.upload(targets, "the targets")?,
    })
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

impl Results {
    /// What anything is compared with has to be finite everywhere: where it is not, nothing could be told
    /// from a mistake.
    ///
    /// # Errors
    /// [`Error::NotFinite`], with what is not, and the scalars in use.
    pub fn check_finite(&self, program: &Program, arguments: &Arguments) -> Result<(), Error> {
        let outputs = self.outputs.iter().map(|(name, values)| not_finite(&format!("output {name}"), values));
        let reduced = std::iter::once(not_finite("the mean loss", &[self.reduced]));
        let gradients = self.gradients.iter().map(|(name, values)| not_finite(name, values));
        refuse(outputs.chain(reduced).chain(gradients).flatten().collect(), program, arguments)
    }
}

/// What is not finite of a vector, in words.
fn not_finite(what: &str, values: &[f32]) -> Option<String> {
    match values.iter().filter(|x| !x.is_finite()).count() {
        0 => None,
        _ if values.len() == 1 => Some(format!("{what} is {}", values[0])),
        count => Some(format!("{count} of {} elements of {what}", values.len())),
    }
}

fn refuse(not_finite: Vec<String>, program: &Program, arguments: &Arguments) -> Result<(), Error> {
    if not_finite.is_empty() {
        return Ok(());
    }
    let scalars = arguments.scalars.iter().map(|(name, value)| format!("{name} = {value}"));
    let scalars: Vec<String> = scalars.collect();
    Err(Error::NotFinite {
        program: program.name().to_owned(),
        what: not_finite.join(", "),
        scalars: if scalars.is_empty() { "none".to_owned() } else { scalars.join(", ") },
    })
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
