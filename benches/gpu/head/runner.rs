//! A plan with everything that it reads and writes, ready to be called.

use super::Bench;
use super::arguments::What;
use super::input::TokenTargets;
use cce::{
    Call, DType, Element, Filter, GradientOutput, GradientViews, Inputs, Outputs, Plan, Schedule, Upstream,
    View, ViewMut,
};
use cce_codegen::problem::{Ignored, Problem};
use cce_codegen::schedule::{Family, Gpu, GpuSchedule};
use cce_runtime::driver::Buffer;

/// What a plan is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// To be measured.
    Measured,
    /// The same where no token is ignored and none may be.
    Full,
    /// The reference of its gradients: family `simt`, gradients in fp32.
    Reference,
}

/// One plan with everything it writes to.
pub struct Runner {
    pub plan: Plan,
    tokens: usize,
    role: Role,
    workspace: cce::Workspace<'static>,
    loss: Buffer,
    pub gradients: Option<[Buffer; 2]>,
}

impl Bench<'_> {
    pub fn runner(&self, tokens: usize, what: What, role: Role, targets: &TokenTargets) -> Runner {
        let (gradients, filter) = match what {
            What::Loss => (false, Filter::Exact),
            What::Gradients(filter) => (true, filter),
        };
        let (width, vocab, dtype) = (self.input.width, self.input.vocab, self.input.dtype);
        let reference = role == Role::Reference;
        let ignores = role != Role::Full && self.ignores(tokens, targets);
        let out = GradientOutput { dtype: if reference { DType::F32 } else { dtype }, accumulate: false };
        let wanted = gradients.then_some(out);
        let program = cce::losses::cross_entropy::program();
        let mut builder = Plan::builder(&program, tokens, width, vocab)
            .dtype(dtype)
            .filter(filter)
            .ignore_index(ignores.then_some(cce_tune::data::IGNORED))
            .hidden_gradient(wanted)
            .classifier_gradient(wanted);
        if let Some(limit) = self.arguments.workspace.filter(|_| !reference) {
            builder = builder.workspace_limit(limit << 20);
        }
        let family = if reference { Some(Family::Simt) } else { self.arguments.family };
        let varied = !reference && self.arguments.varies_schedule();
        if family.is_some() || varied {
            let mut problem = Problem::new(tokens, width, vocab, dtype);
            problem.filter = filter;
            problem.ignored = if ignores { Ignored::Possible } else { Ignored::None };
            problem.hidden_gradient = wanted;
            problem.classifier_gradient = wanted;
            let gpu = Gpu::from(self.context.info());
            let mut schedule = match family {
                Some(family) => GpuSchedule::of_family(family, &program, &problem, &gpu),
                None => GpuSchedule::default_for(&program, &problem, &gpu),
            };
            if varied {
                schedule.hot = self.arguments.hot.unwrap_or(schedule.hot);
                schedule.group = self.arguments.group.unwrap_or(schedule.group);
            }
            builder = builder.schedule(Schedule::Gpu(schedule));
        }
        let plan = builder.build(self.device).unwrap();
        let workspace = plan.allocate().unwrap();
        let room = |elements: usize| {
            let buffer = self.context.alloc(elements * out.dtype.bytes(), "a gradient").unwrap();
            self.stream.poison(&buffer, u32::MAX).unwrap();
            buffer
        };
        let gradients = gradients.then(|| [room(tokens * width), room(vocab * width)]);
        let loss = self.context.alloc(4, "the loss").unwrap();
        Runner { plan, tokens, role, workspace, loss, gradients }
    }

    /// Whether the plan must know an ignored index. The full plan's time has to be that of a plan without.
    fn ignores(&self, tokens: usize, targets: &TokenTargets) -> bool {
        self.arguments.ignored.is_some() || targets.counted.iter().any(|&counted| counted < tokens)
    }

    fn view(&self, buffer: &Buffer, elements: usize, element: Element) -> View<'static> {
        // SAFETY: the buffers live as long as the benchmark and hold at least as many elements.
        unsafe { View::device(buffer.ptr().0, elements, element, self.arguments.gpu) }
    }

    fn view_mut(&self, buffer: &Buffer, elements: usize, element: Element) -> ViewMut<'static> {
        // SAFETY: as above; one call at a time writes to them.
        unsafe { ViewMut::device(buffer.ptr().0, elements, element, self.arguments.gpu) }
    }

    fn inputs(&self, runner: &Runner, targets: &TokenTargets, set: usize) -> Inputs<'static> {
        let (tokens, width, vocab) = (runner.tokens, self.input.width, self.input.vocab);
        let element = self.input.dtype.into();
        let targets = match (runner.role, &targets.full) {
            (Role::Full, Some(full)) => &full[set],
            _ => &targets.measured[set],
        };
        Inputs::new(
            self.view(&self.input.hidden[set], tokens * width, element),
            self.view(&self.input.classifier, vocab * width, element),
        )
        .targets(self.view(targets, tokens, Element::I32))
    }

    fn call(&self) -> Call<'static> {
        Call::new().stream(self.stream.raw().0 as u64)
    }

    fn outputs(&self, runner: &Runner) -> Outputs<'static> {
        Outputs::new().reduced("loss", self.view_mut(&runner.loss, 1, Element::F32))
    }

    /// Puts the call on the stream.
    pub fn run(&self, runner: &mut Runner, targets: &TokenTargets, set: usize) {
        let (width, vocab) = (self.input.width, self.input.vocab);
        let (inputs, outputs) = (self.inputs(runner, targets, set), self.outputs(runner));
        match &runner.gradients {
            None => {
                let workspace = &mut runner.workspace;
                let _ = runner.plan.forward(&inputs, &self.call(), workspace, outputs).unwrap();
            }
            Some([hidden, classifier]) => {
                let element = runner.plan.problem().hidden_gradient.unwrap().dtype.into();
                let gradients = GradientViews::new()
                    .hidden(self.view_mut(hidden, runner.tokens * width, element))
                    .classifier(self.view_mut(classifier, vocab * width, element));
                let upstream = Upstream::new().scalar("loss", 1.0f32);
                runner
                    .plan
                    .step(&inputs, &upstream, &self.call(), &mut runner.workspace, outputs, gradients)
                    .unwrap();
            }
        }
    }

    /// Entries that a forward keeps, the mean over the tokens that count; `None` if the filter keeps none.
    pub fn kept(&self, runner: &mut Runner, targets: &TokenTargets) -> Option<f64> {
        let (inputs, outputs) = (self.inputs(runner, targets, 0), self.outputs(runner));
        let workspace = &mut runner.workspace;
        let saved = runner.plan.forward(&inputs, &self.call(), workspace, outputs).unwrap();
        let kept = runner.plan.kept_entries(&saved, &self.call(), workspace).unwrap()?;
        Some(kept as f64 / targets.counted[0].max(1) as f64)
    }
}
