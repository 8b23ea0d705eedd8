//! A call's buffers and scalars as kernel arguments: the structs of the kernels, byte by byte.

use crate::call::ArgSource;
use crate::driver::{Context, DevicePtr, LaunchArgs, MatrixShape};
use crate::error::Result;
use crate::executor::{
    ResolvedGradients, ResolvedInput, ResolvedInputs, ResolvedOutput, ResolvedReduction, ResolvedSettings,
    ResolvedUpstream,
};
use crate::views::RawView;
use crate::workspace::RawWorkspace;
use cce_codegen::ir::InputId;
use cce_codegen::plan::{Arg, Buffer, GpuPlan, Matrix, MatrixForm, TensorMap};

/// Everything that a launch of one call may refer to. What a pass does not have is empty.
pub(super) struct Arguments<'a> {
    pub(super) context: &'a Context,
    pub(super) plan: &'a GpuPlan,
    pub(super) inputs: &'a ResolvedInputs,
    pub(super) settings: &'a ResolvedSettings,
    pub(super) workspace: RawWorkspace,
    pub(super) outputs: &'a [ResolvedOutput],
    pub(super) upstreams: &'a [ResolvedUpstream],
    pub(super) gradients: Option<&'a ResolvedGradients>,
}

/// Bytes of a C struct of 8-byte aligned members.
#[derive(Default)]
struct Struct(Vec<u8>);

impl Struct {
    fn pointer(&mut self, address: u64) {
        self.0.extend(address.to_ne_bytes());
    }

    fn int(&mut self, value: i32) {
        self.0.extend(value.to_ne_bytes());
        self.0.extend([0; 4]);
    }

    /// `ScalarArg`.
    fn scalar(&mut self, source: ArgSource<f32>) {
        let (pointer, value) = match source {
            ArgSource::Host(value) => (0, value),
            ArgSource::Device { address, .. } => (address, 0.0),
        };
        self.pointer(pointer);
        self.0.extend(value.to_ne_bytes());
        self.0.extend([0; 4]);
    }
}

fn address(view: Option<RawView>) -> u64 {
    view.map_or(0, |view| view.address as u64)
}

/// Every number of a call that its launches are made from, one after the other.
struct Key(Vec<u64>);

impl Key {
    fn view(&mut self, view: Option<RawView>) {
        self.0.push(address(view));
    }

    fn source<T: Copy>(&mut self, source: ArgSource<T>, bits: impl Fn(T) -> u64) {
        self.0.extend(match source {
            ArgSource::Host(value) => [0, bits(value)],
            ArgSource::Device { address, .. } => [1, address],
        });
    }

    fn scalar(&mut self, source: ArgSource<f32>) {
        self.source(source, |value| value.to_bits().into());
    }
}

impl Arguments<'_> {
    /// Every address and scalar that the arguments of the plan's launches are made from: calls of one pass of one plan with the
    /// same key launch the same. What follows from the plan, which inputs there are and which gradients, is not in it.
    pub(super) fn key(&self) -> Vec<u64> {
        // Everything by its fields, so that none is forgotten when one is added.
        let &Arguments { context: _, plan: _, inputs, settings, workspace, outputs, upstreams, gradients } =
            self;
        let ResolvedInputs { hidden, classifier, targets, ignore_index: _, values } = inputs;
        let mut key = Key(Vec::with_capacity(32));
        key.view(Some(*hidden));
        key.view(Some(*classifier));
        key.view(*targets);
        for value in values {
            match *value {
                ResolvedInput::Implied => {}
                ResolvedInput::Row(view) | ResolvedInput::Col(view) => key.view(Some(view)),
                ResolvedInput::Scalar(source) => key.scalar(source),
            }
        }
        // The stream is no argument, and targets are checked by a launch of its own.
        let &ResolvedSettings { reduction, seed, stream: _, check_targets: _ } = settings;
        match reduction {
            ResolvedReduction::Sum => key.0.push(0),
            ResolvedReduction::Mean => key.0.push(1),
            ResolvedReduction::DividedBy(divisor) => {
                key.0.push(2);
                key.scalar(divisor);
            }
            ResolvedReduction::MeanByTarget(input) => key.0.extend([3, u64::from(input.0)]),
        }
        key.source(seed, |value| value);
        key.0.extend(workspace.addresses());
        for &ResolvedOutput { rows, reduced } in outputs {
            key.view(rows);
            key.view(reduced);
        }
        for &ResolvedUpstream { scalar, rows } in upstreams {
            key.view(rows);
            match scalar {
                None => key.0.push(2),
                Some(source) => key.scalar(source),
            }
        }
        if let Some(ResolvedGradients { hidden, classifier, inputs }) = gradients {
            key.view(*hidden);
            key.view(*classifier);
            inputs.iter().for_each(|view| key.view(Some(*view)));
        }
        key.0
    }

    /// The arguments of one launch.
    ///
    /// # Errors
    /// A matrix that TMA cannot copy.
    pub(super) fn launch(&self, args: &[Arg]) -> Result<LaunchArgs> {
        let mut launch = LaunchArgs::new();
        for &arg in args {
            match arg {
                Arg::Int(value) => launch.push(value),
                Arg::Ignore => launch.push(self.inputs.ignore_index.unwrap_or(i64::MIN)),
                Arg::Values => launch.push_bytes(&self.values()),
                Arg::Upstreams => launch.push_bytes(&self.upstreams()),
                Arg::Reduction => launch.push_bytes(&self.reduction()),
                Arg::Seed => launch.push_bytes(&self.seed()),
                Arg::OutputRows => launch.push_bytes(&self.output_rows()),
                Arg::Reduced => launch.push_bytes(&self.reduced()),
                Arg::InputRows => launch.push_bytes(&self.input_rows()),
                Arg::TensorMap(map) => launch.push_bytes(&self.tensor_map(map)?),
                Arg::Hidden
                | Arg::Classifier
                | Arg::Targets
                | Arg::HiddenGradient
                | Arg::ClassifierGradient
                | Arg::ClassifierTail { .. }
                | Arg::InputGradient(_)
                | Arg::Workspace(_)
                | Arg::Null => launch.push(self.pointer(arg)),
            };
        }
        Ok(launch)
    }

    fn tensor_map(&self, map: TensorMap) -> Result<[u8; 128]> {
        let base = match map.matrix {
            Matrix::Hidden => self.pointer(Arg::Hidden),
            Matrix::Classifier => self.pointer(Arg::Classifier),
            Matrix::Workspace(buffer) => self.place(buffer),
            Matrix::ClassifierTail { back } => self.classifier_tail(back),
        };
        let rows = map.rows;
        let shape = match map.form {
            MatrixForm::Rows { columns, stride } => {
                MatrixShape::Rows { rows, columns, row_bytes: stride * 2 }
            }
            MatrixForm::Blocks { blocks } => MatrixShape::Blocks { rows, blocks },
        };
        self.context.tensor_map(DevicePtr(base), &shape, map.box_rows)
    }

    fn pointer(&self, arg: Arg) -> u64 {
        match arg {
            Arg::Hidden => self.inputs.hidden.address as u64,
            Arg::Classifier => self.inputs.classifier.address as u64,
            Arg::Targets => address(self.inputs.targets),
            Arg::HiddenGradient => address(self.gradients.and_then(|gradients| gradients.hidden)),
            Arg::ClassifierGradient => address(self.gradients.and_then(|gradients| gradients.classifier)),
            Arg::ClassifierTail { back } => self.classifier_tail(back),
            Arg::InputGradient(input) => self.input_gradient(input),
            Arg::Workspace(buffer) => self.place(buffer),
            _ => 0,
        }
    }

    /// The device address `back` bytes before the last multiple of 1024 in dC, whatever dC's own alignment.
    fn classifier_tail(&self, back: u64) -> u64 {
        let problem = &self.plan.problem;
        let bytes =
            problem.classifier_gradient.map_or(0, |out| out.dtype.bytes()) * problem.vocab * problem.hidden;
        let end = self.pointer(Arg::ClassifierGradient) + bytes as u64;
        (end & !1023).saturating_sub(back)
    }

    /// The device address of a part of the workspace.
    pub(super) fn place(&self, buffer: Buffer) -> u64 {
        self.workspace.at(self.plan.workspace.offset(buffer)) as u64
    }

    fn input_gradient(&self, input: InputId) -> u64 {
        let at = self.plan.problem.input_gradients.iter().position(|&wanted| wanted == input);
        let view = at.and_then(|at| self.gradients.and_then(|gradients| gradients.inputs.get(at).copied()));
        address(view)
    }

    fn values(&self) -> Vec<u8> {
        let mut bytes = Struct::default();
        for value in &self.inputs.values {
            match value {
                ResolvedInput::Implied => {}
                ResolvedInput::Row(view) | ResolvedInput::Col(view) => bytes.pointer(view.address as u64),
                ResolvedInput::Scalar(source) => bytes.scalar(*source),
            }
        }
        if bytes.0.is_empty() { 0i32.to_ne_bytes().to_vec() } else { bytes.0 }
    }

    fn upstreams(&self) -> Vec<u8> {
        let mut bytes = Struct::default();
        for upstream in self.upstreams {
            bytes.pointer(address(upstream.rows));
            bytes.scalar(upstream.scalar.unwrap_or(ArgSource::Host(0.0)));
            bytes.int(i32::from(upstream.scalar.is_some()));
        }
        bytes.0
    }

    fn seed(&self) -> Vec<u8> {
        let (pointer, value) = match self.settings.seed {
            ArgSource::Host(value) => (0, value),
            ArgSource::Device { address, .. } => (address, 0),
        };
        let mut bytes = Struct::default();
        bytes.pointer(pointer);
        bytes.pointer(value);
        bytes.0
    }

    fn reduction(&self) -> Vec<u8> {
        let none = ArgSource::Host(1.0);
        let (mode, divisor, weights) = match self.settings.reduction {
            ResolvedReduction::Sum => (0, none, 0),
            ResolvedReduction::Mean => (1, none, 0),
            ResolvedReduction::DividedBy(divisor) => (2, divisor, 0),
            ResolvedReduction::MeanByTarget(input) => {
                let weights = match self.inputs.values.get(input.index()) {
                    Some(ResolvedInput::Col(view)) => view.address as u64,
                    _ => 0,
                };
                (3, none, weights)
            }
        };
        let mut bytes = Struct::default();
        bytes.int(mode);
        bytes.scalar(divisor);
        bytes.pointer(weights);
        bytes.0
    }

    /// Where every output's rows are: the caller's, or scratch where the reduction needs them.
    fn output_rows(&self) -> Vec<u8> {
        let scratch = self.place(self.plan.output_rows);
        let row = self.plan.problem.tokens as u64 * 4;
        let mut bytes = Struct::default();
        for (at, output) in self.outputs.iter().enumerate() {
            bytes.pointer(match (output.rows, output.reduced) {
                (Some(view), _) => view.address as u64,
                (None, Some(_)) => scratch + at as u64 * row,
                (None, None) => 0,
            });
        }
        bytes.0
    }

    fn reduced(&self) -> Vec<u8> {
        let mut bytes = Struct::default();
        for output in self.outputs {
            bytes.pointer(address(output.reduced));
        }
        bytes.0
    }

    fn input_rows(&self) -> Vec<u8> {
        let mut bytes = Struct::default();
        for &input in &self.plan.row_gradients {
            bytes.pointer(self.input_gradient(input));
        }
        for &(_, rows) in &self.plan.scalar_gradients {
            bytes.pointer(self.place(rows));
        }
        if bytes.0.is_empty() {
            bytes.pointer(0);
        }
        bytes.0
    }
}
