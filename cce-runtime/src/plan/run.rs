//! The short way: host data in, host data out.

use super::Plan;
use super::staging::Staging;
use crate::call::{Call, TokenReduction};
use crate::error::{Error, Result};
use crate::inputs::Inputs;
use crate::outputs::{GradientViews, Outputs, Upstream};
use crate::views::ViewMut;
use cce_codegen::ir::InputKind;
use cce_codegen::problem::DType;
use std::collections::BTreeMap;

/// What [`Plan::run`] returns. Gradients that the plan does not want are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunResult {
    /// The reduced value of the output `loss`, or of the first output if none has that name.
    pub loss: f64,
    /// Every output, token by token.
    pub outputs: BTreeMap<String, Vec<f32>>,
    /// dE, [N, D], as f32.
    pub hidden_gradient: Vec<f32>,
    /// dC, [V, D], as f32.
    pub classifier_gradient: Vec<f32>,
    /// The gradients of Row, Col and Scalar inputs that the plan was built for.
    pub input_gradients: BTreeMap<String, Vec<f32>>,
}

/// A gradient in its own type on the host.
enum Buffer {
    F32(Vec<f32>),
    F16(Vec<half::f16>),
    Bf16(Vec<half::bf16>),
}

impl Buffer {
    fn zeros(dtype: DType, len: usize) -> Buffer {
        match dtype {
            DType::F32 => Buffer::F32(vec![0.0; len]),
            DType::F16 => Buffer::F16(vec![half::f16::ZERO; len]),
            DType::Bf16 => Buffer::Bf16(vec![half::bf16::ZERO; len]),
        }
    }

    fn view(&mut self) -> ViewMut<'_> {
        match self {
            Buffer::F32(values) => ViewMut::host(values),
            Buffer::F16(values) => ViewMut::host(values),
            Buffer::Bf16(values) => ViewMut::host(values),
        }
    }

    fn into_f32(self) -> Vec<f32> {
        match self {
            Buffer::F32(values) => values,
            Buffer::F16(values) => values.into_iter().map(half::f16::to_f32).collect(),
            Buffer::Bf16(values) => values.into_iter().map(half::bf16::to_f32).collect(),
        }
    }
}

impl Plan {
    /// Computes every output and every gradient that the plan was built for, from host data into host data;
    /// the upstream gradient is 1 for the reduced loss. Allocates what it needs; on a GPU it copies and
    /// waits.
    ///
    /// The loss is the output of that name, or the first one. Under [`TokenReduction::None`] its value is the
    /// sum.
    ///
    /// # Errors
    /// As [`Plan::step`].
    pub fn run(&self, inputs: &Inputs<'_>, call: &Call<'_>) -> Result<RunResult> {
        let outputs = self.program.outputs();
        let at = outputs.iter().position(|output| output.name == "loss").unwrap_or(0);
        let Some(loss) = outputs.get(at) else {
            return Err(Error::InvalidCall { reason: "the program has no output".to_owned() });
        };
        let problem = self.problem();
        // The sum has factor 1 too, so that asking for the sum under `None` changes no gradient.
        let mut call = call.clone();
        if call.reduction == TokenReduction::None {
            call.reduction = TokenReduction::Sum;
        }
        let mut staging = Staging::new(&self.device)?;
        if call.stream.is_none() {
            call.stream = staging.stream();
        }
        let mut reduced = [0.0f32];
        let mut rows: Vec<Vec<f32>> = outputs.iter().map(|_| vec![0.0; problem.tokens]).collect();
        let mut wanted = Outputs::new().reduced(&loss.name, ViewMut::host(&mut reduced));
        for (output, values) in outputs.iter().zip(&mut rows) {
            wanted = wanted.row(&output.name, ViewMut::host(values));
        }
        let buffer = |dtype, rows: usize| Buffer::zeros(dtype, rows * problem.hidden);
        let mut hidden = problem.hidden_gradient.map(|output| buffer(output.dtype, problem.tokens));
        let mut classifier = problem.classifier_gradient.map(|output| buffer(output.dtype, problem.vocab));
        let mut by_input: Vec<(&str, Vec<f32>)> = problem
            .input_gradients
            .iter()
            .map(|id| {
                let input = &self.program.inputs()[id.index()];
                let len = match input.kind {
                    InputKind::Row => problem.tokens,
                    InputKind::Col => problem.vocab,
                    _ => 1,
                };
                (input.name.as_ref(), vec![0.0; len])
            })
            .collect();
        let mut workspace = self.allocate()?;
        let inputs = &staging.inputs(inputs)?;
        let wanted = staging.outputs(wanted)?;
        if problem.wants_gradients() {
            let mut gradients = GradientViews::new();
            if let Some(buffer) = &mut hidden {
                gradients = gradients.hidden(buffer.view());
            }
            if let Some(buffer) = &mut classifier {
                gradients = gradients.classifier(buffer.view());
            }
            for (name, values) in &mut by_input {
                gradients = gradients.input(name, ViewMut::host(values));
            }
            let gradients = staging.gradients(gradients)?;
            let upstream = Upstream::new().scalar(&loss.name, 1.0f32);
            self.step(inputs, &upstream, &call, &mut workspace, wanted, gradients)?;
        } else {
            let _ = self.forward(inputs, &call, &mut workspace, wanted)?;
        }
        staging.finish()?;
        Ok(RunResult {
            loss: f64::from(reduced[0]),
            outputs: outputs.iter().map(|output| output.name.to_string()).zip(rows).collect(),
            hidden_gradient: hidden.map(Buffer::into_f32).unwrap_or_default(),
            classifier_gradient: classifier.map(Buffer::into_f32).unwrap_or_default(),
            input_gradients: by_input.into_iter().map(|(name, values)| (name.to_owned(), values)).collect(),
        })
    }
}
