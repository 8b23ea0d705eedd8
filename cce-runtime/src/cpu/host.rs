//! A call's data on the host: slices instead of pointers, tokens sorted into those that count, upstream
//! factors known.

use super::row::{HostInput, HostUpstream, RowInputs};
use super::tensor::{Rows, RowsMut, Targets, slice, slice_mut};
use crate::call::ArgSource;
use crate::error::{Error, Result};
use crate::executor::{
    ResolvedGradients, ResolvedInput, ResolvedInputs, ResolvedOutput, ResolvedReduction, ResolvedSettings,
    ResolvedUpstream,
};
use cce_codegen::problem::Problem;

/// What every pass reads.
pub(crate) struct HostCall<'c> {
    pub(crate) arch: pulp::Arch,
    pub(crate) tokens: usize,
    pub(crate) hidden: usize,
    pub(crate) vocab: usize,
    pub(crate) e: Rows<'c>,
    pub(crate) c: Rows<'c>,
    pub(crate) targets: Targets<'c>,
    ignore_index: Option<i64>,
    /// By input.
    pub(crate) inputs: Vec<HostInput<'c>>,
    /// By input; empty for inputs that are not Col.
    pub(crate) cols: Vec<&'c [f32]>,
    upstreams: Vec<HostUpstream<'c>>,
    /// The token reduction's factor.
    pub(crate) factor: f64,
    pub(crate) seed: u64,
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// It counts; its target's column, or 0 in a program without a target.
    Counts(u32),
    /// Its target is the ignored index.
    Ignored,
    /// Its target is no column. It counts, and its values are NaN.
    OutOfRange,
}

/// The value of a scalar that the validation has found to be the host's.
fn host<T: Copy>(source: ArgSource<T>, what: &str) -> Result<T> {
    match source {
        ArgSource::Host(value) => Ok(value),
        ArgSource::Device { place, .. } => Err(Error::DeviceMismatch {
            what: what.to_owned(),
            expected: "the host".to_owned(),
            found: place.to_string(),
        }),
    }
}

impl<'c> HostCall<'c> {
    /// # Safety
    /// All views are valid for reads during `'c`, and nothing writes to them.
    pub(crate) unsafe fn new(
        problem: &Problem,
        inputs: &ResolvedInputs,
        settings: &ResolvedSettings,
        upstreams: &[ResolvedUpstream],
    ) -> Result<HostCall<'c>> {
        // SAFETY: the caller's promise, passed on.
        let (e, c, targets) = unsafe {
            (
                Rows::new(inputs.hidden, problem.hidden, problem.hidden_layout),
                Rows::new(inputs.classifier, problem.hidden, problem.classifier_layout),
                Targets::new(inputs),
            )
        };
        let values = inputs.values.iter().map(|input| {
            Ok(match *input {
                ResolvedInput::Implied => HostInput::Implied,
                // SAFETY: the caller's promise, passed on.
                ResolvedInput::Row(view) => HostInput::Row(unsafe { slice(view) }),
                // SAFETY: as above.
                ResolvedInput::Col(view) => HostInput::Col(unsafe { slice(view) }),
                ResolvedInput::Scalar(source) => HostInput::Scalar(host(source, "a Scalar input")?),
            })
        });
        let values: Vec<HostInput<'c>> = values.collect::<Result<_>>()?;
        let cols = values.iter().map(|input| match *input {
            HostInput::Col(col) => col,
            _ => &[][..],
        });
        let mut call = HostCall {
            arch: pulp::Arch::new(),
            tokens: problem.tokens,
            hidden: problem.hidden,
            vocab: problem.vocab,
            e,
            c,
            targets,
            ignore_index: inputs.ignore_index,
            cols: cols.collect(),
            inputs: values,
            upstreams: Vec::new(),
            factor: 1.0,
            seed: host(settings.seed, "the seed")?,
        };
        if settings.check_targets {
            call.check_targets()?;
        }
        call.factor = call.reduction_factor(settings.reduction)?;
        for upstream in upstreams {
            let scalar = match upstream.scalar {
                Some(source) => f64::from(host(source, "an upstream gradient")?) * call.factor,
                None => 0.0,
            };
            // SAFETY: the caller's promise, passed on.
            let rows = upstream.rows.map(|view| unsafe { slice(view) });
            call.upstreams.push(HostUpstream { scalar, rows });
        }
        Ok(call)
    }

    /// What this token is.
    pub(crate) fn token(&self, token: usize) -> Token {
        match self.targets.get(token) {
            None => Token::Counts(0),
            Some(target) if Some(target) == self.ignore_index => Token::Ignored,
            Some(target) if target < 0 || target >= self.vocab as i64 => Token::OutOfRange,
            Some(target) => Token::Counts(target as u32),
        }
    }

    /// Lists the tokens that count, with their targets' columns (an empty list if the program has none).
    pub(crate) fn active<'w>(&self, tokens: &'w mut [u32], targets: &'w mut [u32]) -> (&'w [u32], &'w [u32]) {
        let mut count = 0;
        for token in 0..self.tokens {
            if let Token::Counts(target) = self.token(token) {
                (tokens[count], targets[count]) = (token as u32, target);
                count += 1;
            }
        }
        let with_target = if matches!(self.targets, Targets::None) { 0 } else { count };
        (&tokens[..count], &targets[..with_target])
    }

    /// What this token's Row values depend on; `stats` is empty for values that are read before there are
    /// statistics.
    pub(crate) fn row_inputs<'a>(&'a self, token: u32, stats: &'a [f64]) -> RowInputs<'a> {
        RowInputs { inputs: &self.inputs, token: token as usize, stats, upstreams: &self.upstreams }
    }

    fn check_targets(&self) -> Result<()> {
        match (0..self.tokens).find(|&token| self.token(token) == Token::OutOfRange) {
            Some(row) => Err(Error::TargetOutOfRange {
                row,
                target: self.targets.get(row).unwrap_or_default(),
                vocab: self.vocab,
            }),
            None => Ok(()),
        }
    }

    fn reduction_factor(&self, reduction: ResolvedReduction) -> Result<f64> {
        let tokens = || (0..self.tokens).map(|token| self.token(token));
        Ok(match reduction {
            ResolvedReduction::Sum => 1.0,
            ResolvedReduction::Mean => {
                let count = tokens().filter(|&token| token != Token::Ignored).count();
                1.0 / count.max(1) as f64
            }
            ResolvedReduction::DividedBy(divisor) => {
                1.0 / f64::from(host(divisor, "the reduction's divisor")?)
            }
            ResolvedReduction::MeanByTarget(input) => {
                let HostInput::Col(weights) = self.inputs[input.index()] else { return Ok(1.0) };
                let mut sum = 0.0;
                for token in tokens() {
                    if let Token::Counts(target) = token {
                        sum += f64::from(weights[target as usize]);
                    }
                }
                if sum == 0.0 { 0.0 } else { 1.0 / sum }
            }
        })
    }
}

/// Where outputs go.
pub(crate) struct HostOutputs<'c> {
    pub(crate) rows: Vec<Option<&'c mut [f32]>>,
    pub(crate) reduced: Vec<Option<&'c mut [f32]>>,
}

impl<'c> HostOutputs<'c> {
    /// # Safety
    /// All views are valid for writes during `'c`, and nothing else touches them.
    pub(crate) unsafe fn new(outputs: &[ResolvedOutput]) -> HostOutputs<'c> {
        HostOutputs {
            // SAFETY: the caller's promise, passed on.
            rows: outputs.iter().map(|output| output.rows.map(|view| unsafe { slice_mut(view) })).collect(),
            reduced: outputs
                .iter()
                // SAFETY: as above.
                .map(|output| output.reduced.map(|view| unsafe { slice_mut(view) }))
                .collect(),
        }
    }
}

/// Where gradients go.
pub(crate) struct HostGradients<'c> {
    pub(crate) hidden: Option<RowsMut<'c>>,
    pub(crate) classifier: Option<RowsMut<'c>>,
    /// In the order of the problem's `input_gradients`.
    pub(crate) inputs: Vec<&'c mut [f32]>,
}

impl<'c> HostGradients<'c> {
    /// # Safety
    /// All views are valid for reads and writes during `'c`, and nothing else touches them.
    pub(crate) unsafe fn new(gradients: &ResolvedGradients) -> HostGradients<'c> {
        HostGradients {
            // SAFETY: the caller's promise, passed on.
            hidden: gradients.hidden.map(|view| unsafe { RowsMut::new(view) }),
            // SAFETY: as above.
            classifier: gradients.classifier.map(|view| unsafe { RowsMut::new(view) }),
            // SAFETY: as above.
            inputs: gradients.inputs.iter().map(|&view| unsafe { slice_mut(view) }).collect(),
        }
    }
}
