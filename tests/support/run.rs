//! Builds the plan of a case and runs it on its data, through the public interface and nothing else.

use super::case::{Budget, Case, Reduction};
use super::data::{Data, IGNORED};
use super::device::{Bench, Choice};
use super::room::{Room, bytes_of, decode, encode, handle, strided};
use cce::{
    Call, DType, Element, Error, Filter, GradientViews, Inputs, Layout, Outputs, Plan, PlanBuilder,
    ScalarArg, TokenReduction, Upstream,
};
use cce_codegen::ir::InputKind;
use cce_codegen::plan::PlanError;
use cce_codegen::problem::{Ignored, Problem};
use cce_runtime::driver::Stream;

/// Forward and backward at once, or one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Step,
    Apart,
}

/// What a call gave.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// By output, if asked for token by token.
    pub outputs: Vec<Option<Vec<f64>>>,
    /// By output, if asked for.
    pub reduced: Vec<Option<f64>>,
    pub hidden: Option<Vec<f64>>,
    pub classifier: Option<Vec<f64>>,
    pub inputs: Vec<(String, Vec<f64>)>,
    /// All of it, bit by bit.
    pub bits: Vec<u8>,
}

impl Case {
    fn layouts(&self) -> [Layout; 2] {
        let [hidden, classifier] = self.strides();
        [
            Layout { row_stride: hidden, align: self.align[0] },
            Layout { row_stride: classifier, align: self.align[1] },
        ]
    }

    /// The problem as a schedule is chosen by it.
    pub fn problem(&self) -> Problem {
        let mut problem = Problem::new(self.tokens, self.hidden, self.vocab, self.dtype);
        problem.index = self.index;
        problem.filter = self.filter;
        problem.ignored = match self.ignored {
            Some(_) if self.has_target() => Ignored::Possible,
            _ => Ignored::None,
        };
        problem.hidden_gradient = self.hidden_gradient;
        problem.classifier_gradient = self.classifier_gradient;
        let inputs = self.program.inputs().iter().zip(0..);
        problem.input_gradients = inputs
            .filter(|(input, _)| self.input_gradients.iter().any(|name| *name == input.name))
            .map(|(_, at)| cce_codegen::ir::InputId(at))
            .collect();
        [problem.hidden_layout, problem.classifier_layout] = self.layouts();
        problem
    }

    /// The reduction as a call states it.
    pub fn token_reduction<'d>(&self, divisor: ScalarArg<'d>) -> TokenReduction<'d> {
        match self.reduction {
            Reduction::None => TokenReduction::None,
            Reduction::Sum => TokenReduction::Sum,
            Reduction::Mean => TokenReduction::Mean,
            Reduction::DividedBy => TokenReduction::DividedBy(divisor),
            Reduction::MeanByTarget => TokenReduction::MeanByTarget("weight".to_owned()),
        }
    }

    /// Everything but the workspace's limit.
    pub fn builder(&self, bench: &Bench, choice: Choice) -> PlanBuilder {
        let [hidden, classifier] = self.layouts();
        let mut builder = Plan::builder(&self.program, self.tokens, self.hidden, self.vocab)
            .dtype(self.dtype)
            .filter(self.filter)
            .index(self.index)
            .ignore_index(self.ignored.map(|_| IGNORED))
            .hidden_gradient(self.hidden_gradient)
            .classifier_gradient(self.classifier_gradient)
            .hidden_layout(hidden)
            .classifier_layout(classifier);
        for name in &self.input_gradients {
            builder = builder.input_gradient(name);
        }
        match choice.schedule(bench, &self.program, &self.problem()) {
            Some(schedule) => builder.schedule(schedule),
            None => builder,
        }
    }

    /// The plan.
    pub fn plan(&self, bench: &Bench, choice: Choice) -> Result<Plan, String> {
        let build = |limit: Option<u64>| {
            let builder = self.builder(bench, choice);
            match limit {
                Some(limit) => builder.workspace_limit(limit).build(bench.device()),
                None => builder.build(bench.device()),
            }
        };
        let words = |error: Error| format!("building the plan: {error}");
        let within = |limit: u64| {
            let plan = build(Some(limit)).map_err(words)?;
            let peak = plan.workspace().peak;
            match peak <= limit {
                true => Ok(plan),
                false => Err(format!("the plan needs {peak} bytes of workspace under a limit of {limit}")),
            }
        };
        let smallest = || match build(Some(0)) {
            Ok(_) => Ok(0),
            Err(error) => smallest_of(&error).ok_or_else(|| format!("a limit of 0 bytes: {error}")),
        };
        match self.budget {
            Budget::Free => build(None).map_err(words),
            Budget::Smallest => {
                let smallest = smallest()?;
                if smallest > 0 && build(Some(smallest - 1)).is_ok() {
                    return Err(format!(
                        "{smallest} bytes are said to be the smallest, and one less does too"
                    ));
                }
                within(smallest)
            }
            Budget::Half => {
                let free = build(None).map_err(words)?.workspace().peak;
                within(u64::midpoint(smallest()?, free))
            }
        }
    }
}

/// The smallest workspace that a refusal names.
pub fn smallest_of(error: &Error) -> Option<u64> {
    match error {
        Error::WorkspaceTooSmall { smallest, .. } | Error::Plan(PlanError::Workspace { smallest, .. }) => {
            Some(*smallest)
        }
        _ => None,
    }
}

/// A buffer that a call reads, and what stands there.
struct Given {
    room: Room,
    content: Vec<u8>,
}

impl Given {
    fn new(bench: &Bench, what: &str, content: Vec<u8>, align: usize) -> Result<Given, String> {
        Ok(Given { room: Room::of(bench, what, &content, align)?, content })
    }

    fn replace(&mut self, content: Vec<u8>) {
        assert_eq!(self.content.len(), content.len(), "the same shape");
        self.room.content_mut().copy_from_slice(&content);
        self.content = content;
    }
}

/// An argument that may lie on the device.
struct Number {
    value: f32,
    given: Given,
}

impl Number {
    fn new(bench: &Bench, what: &str, value: f32) -> Result<Number, String> {
        Ok(Number { value, given: Given::new(bench, what, bytes_of(&[value]), 16)? })
    }

    fn argument(&self, on_device: bool) -> ScalarArg<'_> {
        if on_device { self.given.room.scalar() } else { self.value.into() }
    }

    fn replace(&mut self, value: f32) {
        self.value = value;
        self.given.replace(bytes_of(&[value]));
    }
}

/// Every buffer of one caller of a plan.
pub struct Buffers {
    hidden: Given,
    classifier: Given,
    targets: Option<Given>,
    /// Row and Col inputs.
    vectors: Vec<(String, InputKind, Given)>,
    scalars: Vec<(String, Number)>,
    upstream_scalars: Vec<Option<Number>>,
    upstream_rows: Vec<Option<Given>>,
    divisor: Number,
    outputs: Vec<Option<Room>>,
    reduced: Vec<Option<Room>>,
    hidden_gradient: Option<(Room, DType, Vec<u8>)>,
    classifier_gradient: Option<(Room, DType, Vec<u8>)>,
    input_gradients: Vec<(String, Room)>,
    workspace: Room,
}

fn target_bytes(targets: &[i64], element: Element) -> Vec<u8> {
    match element {
        Element::I64 => targets.iter().flat_map(|y| y.to_ne_bytes()).collect(),
        _ => targets.iter().flat_map(|&y| (y as i32).to_ne_bytes()).collect(),
    }
}

impl Buffers {
    /// Buffers for the case's data, staged.
    pub fn new(bench: &Bench, case: &Case, data: &Data, plan: &Plan) -> Result<Buffers, String> {
        Self::with_gradients_aligned_to(bench, case, data, plan, 16)
    }

    /// The same with another alignment of dE and dC.
    pub fn with_gradients_aligned_to(
        bench: &Bench,
        case: &Case,
        data: &Data,
        plan: &Plan,
        align: usize,
    ) -> Result<Buffers, String> {
        let given = |what: &str, content: Vec<u8>, align: usize| Given::new(bench, what, content, align);
        let (n, v) = (case.tokens, case.vocab);
        let [hidden_stride, classifier_stride] = case.strides();
        let matrix = |values: &[f64], stride: usize| strided(values, case.hidden, stride, case.dtype);
        let mut vectors = Vec::new();
        let mut scalars = Vec::new();
        for input in case.program.inputs() {
            let name = input.name.to_string();
            match input.kind {
                InputKind::Row | InputKind::Col => {
                    let content = bytes_of(&data.inputs[&name]);
                    vectors.push((name.clone(), input.kind, given(&name, content, 4)?));
                }
                InputKind::Scalar => {
                    scalars.push((name.clone(), Number::new(bench, &name, data.inputs[&name][0])?))
                }
                InputKind::Logit | InputKind::Target => {}
            }
        }
        let mut upstream_scalars = Vec::new();
        let mut upstream_rows = Vec::new();
        let (mut outputs, mut reduced) = (Vec::new(), Vec::new());
        for ((output, scalar), rows) in case.program.outputs().iter().zip(&data.scalars).zip(&data.rows) {
            let what = format!("the upstream gradient of {}", output.name);
            upstream_scalars.push(scalar.map(|scalar| Number::new(bench, &what, scalar)).transpose()?);
            let rows = rows.as_ref().map(|rows| given(&what, bytes_of(rows), 4));
            upstream_rows.push(rows.transpose()?);
            let room = |wanted: bool, what: &str, length: usize| {
                wanted.then(|| Room::new(bench, what, 4 * length, 4)).transpose()
            };
            outputs.push(room(case.rows, &format!("the output {}", output.name), n)?);
            let wanted = case.reduction != Reduction::None;
            reduced.push(room(wanted, &format!("the reduced output {}", output.name), 1)?);
        }
        let gradient = |what: &str, output: Option<cce::GradientOutput>, initial: &[f64], length: usize| {
            let Some(output) = output else { return Ok(None) };
            let before = encode(initial, output.dtype);
            let room = Room::new(bench, what, length * output.dtype.bytes(), align)?;
            Ok::<_, String>(Some((room, output.dtype, before)))
        };
        let input_gradients = case.input_gradients.iter().map(|name| {
            let what = format!("the gradient of {name}");
            Ok::<_, String>((name.clone(), Room::new(bench, &what, 4 * data.inputs[name].len(), 4)?))
        });
        Ok(Buffers {
            hidden: given("the hidden states", matrix(&data.hidden, hidden_stride), case.align[0])?,
            classifier: given("the classifier", matrix(&data.classifier, classifier_stride), case.align[1])?,
            targets: match case.has_target() {
                true => {
                    let element = Element::from(case.index);
                    Some(given("the targets", target_bytes(&data.targets, element), element.bytes())?)
                }
                false => None,
            },
            vectors,
            scalars,
            upstream_scalars,
            upstream_rows,
            divisor: Number::new(bench, "the divisor", data.divisor)?,
            outputs,
            reduced,
            hidden_gradient: gradient("dE", case.hidden_gradient, &data.initial[0], n * case.hidden)?,
            classifier_gradient: gradient("dC", case.classifier_gradient, &data.initial[1], v * case.hidden)?,
            input_gradients: input_gradients.collect::<Result<_, _>>()?,
            workspace: Room::new(bench, "the workspace", plan.workspace().peak as usize, 256)?,
        })
    }

    /// Stages other data of the same shape.
    pub fn replace(&mut self, case: &Case, data: &Data) {
        let [hidden, classifier] = case.strides();
        let matrix = |values: &[f64], stride: usize| strided(values, case.hidden, stride, case.dtype);
        self.hidden.replace(matrix(&data.hidden, hidden));
        self.classifier.replace(matrix(&data.classifier, classifier));
        if let Some(targets) = &mut self.targets {
            targets.replace(target_bytes(&data.targets, case.index.into()));
        }
        for (name, _, given) in &mut self.vectors {
            given.replace(bytes_of(&data.inputs[name]));
        }
        for (name, number) in &mut self.scalars {
            number.replace(data.inputs[name][0]);
        }
        for (number, scalar) in self.upstream_scalars.iter_mut().zip(&data.scalars) {
            if let (Some(number), Some(scalar)) = (number, scalar) {
                number.replace(*scalar);
            }
        }
        for (given, rows) in self.upstream_rows.iter_mut().zip(&data.rows) {
            if let (Some(given), Some(rows)) = (given, rows) {
                given.replace(bytes_of(rows));
            }
        }
        self.divisor.replace(data.divisor);
        for (gradient, initial) in
            [(&mut self.hidden_gradient, &data.initial[0]), (&mut self.classifier_gradient, &data.initial[1])]
        {
            if let Some((_, dtype, before)) = gradient {
                *before = encode(initial, *dtype);
            }
        }
    }

    fn given(&mut self) -> impl Iterator<Item = &mut Given> {
        let numbers = self.scalars.iter_mut().map(|(_, number)| number);
        let numbers = numbers.chain(self.upstream_scalars.iter_mut().flatten()).chain([&mut self.divisor]);
        [&mut self.hidden, &mut self.classifier]
            .into_iter()
            .chain(&mut self.targets)
            .chain(self.vectors.iter_mut().map(|(_, _, given)| given))
            .chain(self.upstream_rows.iter_mut().flatten())
            .chain(numbers.map(|number| &mut number.given))
    }

    /// Puts the inputs where the device reads them, and poison (or what is to be added to) in everything
    /// else.
    pub fn put(&mut self, stream: Option<&Stream>) -> Result<(), String> {
        for given in self.given() {
            given.room.put(stream)?;
        }
        for (room, _, before) in self.hidden_gradient.iter_mut().chain(&mut self.classifier_gradient) {
            room.poison();
            if !before.is_empty() {
                room.content_mut().copy_from_slice(before);
            }
            room.put(stream)?;
        }
        let inputs = self.input_gradients.iter_mut().map(|(_, room)| room);
        let outputs = self.outputs.iter_mut().chain(&mut self.reduced).flatten();
        for room in inputs.chain(outputs).chain([&mut self.workspace]) {
            room.poison();
            room.put(stream)?;
        }
        Ok(())
    }

    /// Calls the plan; on a GPU, does not wait.
    pub fn call(
        &mut self,
        bench: &Bench,
        case: &Case,
        plan: &Plan,
        mode: Mode,
        stream: Option<&Stream>,
        change: impl for<'c> Fn(Call<'c>) -> Call<'c>,
    ) -> Result<(), Error> {
        let mut inputs = Inputs::new(
            self.hidden.room.view(case.dtype.into()),
            self.classifier.room.view(case.dtype.into()),
        );
        if let Some(targets) = &self.targets {
            inputs = inputs.targets(targets.room.view(case.index.into()));
        }
        for (name, kind, given) in &self.vectors {
            let view = given.room.view(Element::F32);
            inputs = if *kind == InputKind::Row { inputs.row(name, view) } else { inputs.col(name, view) };
        }
        for (name, number) in &self.scalars {
            inputs = inputs.scalar(name, number.argument(case.device_scalars));
        }
        let divisor = self.divisor.argument(case.device_scalars);
        let mut call = Call::new().reduction(case.token_reduction(divisor));
        if let Some(stream) = stream {
            call = call.stream(handle(stream));
        }
        let call = change(call);
        let mut upstream = Upstream::new();
        let mut outputs = Outputs::new();
        let held = plan.workspace().held;
        let behind = self.workspace.on_device();
        let places = self.outputs.iter_mut().zip(&mut self.reduced);
        let given = self.upstream_scalars.iter().zip(&self.upstream_rows);
        for ((output, (rows, reduced)), (scalar, by_row)) in
            case.program.outputs().iter().zip(places).zip(given)
        {
            if let Some(rows) = rows {
                outputs = outputs.row(&output.name, rows.view_mut(Element::F32));
            }
            if let Some(reduced) = reduced {
                outputs = outputs.reduced(&output.name, reduced.view_mut(Element::F32));
            }
            if let Some(scalar) = scalar {
                upstream = upstream.scalar(&output.name, scalar.argument(case.device_scalars));
            }
            if let Some(by_row) = by_row {
                upstream = upstream.rows(&output.name, by_row.room.view(Element::F32));
            }
        }
        let mut gradients = GradientViews::new();
        if let Some((room, dtype, _)) = &mut self.hidden_gradient {
            gradients = gradients.hidden(room.view_mut((*dtype).into()));
        }
        if let Some((room, dtype, _)) = &mut self.classifier_gradient {
            gradients = gradients.classifier(room.view_mut((*dtype).into()));
        }
        for (name, room) in &mut self.input_gradients {
            gradients = gradients.input(name, room.view_mut(Element::F32));
        }
        let mut workspace = self.workspace.workspace(bench)?;
        match (case.wants_gradients(), mode) {
            (false, _) => {
                let _ = plan.forward(&inputs, &call, &mut workspace, outputs)?;
                Ok(())
            }
            (true, Mode::Step) => plan.step(&inputs, &upstream, &call, &mut workspace, outputs, gradients),
            (true, Mode::Apart) => {
                let saved = plan.forward(&inputs, &call, &mut workspace, outputs)?;
                if let Some(stream) = stream {
                    // All but what is held is free for other use meanwhile.
                    Room::poison_behind(behind, held, stream)?;
                }
                plan.backward(saved, &inputs, &upstream, &call, &mut workspace, gradients)
            }
        }
    }

    /// Waits, reads what came out, and looks at all guard zones and inputs.
    pub fn found(&mut self, stream: Option<&Stream>) -> Result<Found, String> {
        if let Some(stream) = stream {
            stream.synchronize().map_err(|error| format!("the stream: {error}"))?;
        }
        for given in self.given() {
            given.room.unchanged(stream, &given.content)?;
        }
        self.workspace.get(stream)?;
        let mut found = Found::default();
        let mut take = |room: &mut Room, dtype: DType| {
            let bytes = room.get(stream)?;
            found.bits.extend_from_slice(bytes);
            Ok::<_, String>(decode(bytes, dtype))
        };
        for room in &mut self.outputs {
            found.outputs.push(room.as_mut().map(|room| take(room, DType::F32)).transpose()?);
        }
        for room in &mut self.reduced {
            let values = room.as_mut().map(|room| take(room, DType::F32)).transpose()?;
            found.reduced.push(values.map(|values| values[0]));
        }
        let mut gradient = |gradient: &mut Option<(Room, DType, Vec<u8>)>| {
            gradient.as_mut().map(|(room, dtype, _)| take(room, *dtype)).transpose()
        };
        found.hidden = gradient(&mut self.hidden_gradient)?;
        found.classifier = gradient(&mut self.classifier_gradient)?;
        for (name, room) in &mut self.input_gradients {
            found.inputs.push((name.clone(), take(room, DType::F32)?));
        }
        Ok(found)
    }
}

impl Found {
    /// An error that names the first difference between two results that must be the same, bit by bit.
    pub fn same_bits(&self, other: &Found) -> Result<(), String> {
        if self.bits == other.bits {
            return Ok(());
        }
        let differ = |a: &[f64], b: &[f64]| {
            let different = a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            (different > 0).then(|| format!("{different} of {} values", a.len()))
        };
        let pairs = [("dE", &self.hidden, &other.hidden), ("dC", &self.classifier, &other.classifier)];
        let large = pairs.into_iter().map(|(what, a, b)| (what.to_owned(), a.as_ref(), b.as_ref()));
        let outputs = self.outputs.iter().zip(&other.outputs).enumerate();
        let outputs = outputs.map(|(at, (a, b))| (format!("output {at}"), a.as_ref(), b.as_ref()));
        let inputs = self.inputs.iter().zip(&other.inputs);
        let inputs = inputs.map(|((name, a), (_, b))| (format!("d{name}"), Some(a), Some(b)));
        for (what, a, b) in outputs.chain(large).chain(inputs) {
            if let (Some(a), Some(b)) = (a, b)
                && let Some(difference) = differ(a, b)
            {
                return Err(format!("{difference} of {what} differ"));
            }
        }
        Err("reduced outputs differ".to_owned())
    }
}

/// A stream for a case on a GPU.
pub fn stream(bench: &Bench) -> Result<Option<Stream>, String> {
    let new = |gpu: &super::Gpu| gpu.context.new_stream().map_err(|error| error.to_string());
    bench.gpu().map(new).transpose()
}

/// Runs a plan on a case's data in buffers of its own.
pub fn run(bench: &Bench, case: &Case, data: &Data, plan: &Plan, mode: Mode) -> Result<Found, String> {
    let stream = stream(bench)?;
    let mut buffers = Buffers::new(bench, case, data, plan)?;
    buffers.put(stream.as_ref())?;
    buffers
        .call(bench, case, plan, mode, stream.as_ref(), |call| call)
        .map_err(|error| format!("the call: {error}"))?;
    buffers.found(stream.as_ref())
}
