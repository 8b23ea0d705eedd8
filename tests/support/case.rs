//! A case: a program, a shape, and everything that a caller may choose.

use super::data::Data;
use super::expected::Expected;
use super::numbers::run_seed;
use cce::{DType, Filter, GradientOutput, IndexType, Program};
use cce_codegen::ir::InputKind;
use std::fmt;

/// What is computed, and how the caller asks for it. The default: random targets, none ignored, both
/// gradients in the own type, all input gradients, mean reduction, an upstream gradient for the reduced value
/// of every output.
#[derive(Clone, Debug)]
pub struct Case {
    pub program: Program,
    /// N.
    pub tokens: usize,
    /// D.
    pub hidden: usize,
    /// V.
    pub vocab: usize,
    pub dtype: DType,
    pub filter: Filter,
    pub index: IndexType,
    /// The share of tokens that are ignored; `None`: the plan is built without an ignored index.
    pub ignored: Option<f64>,
    pub hidden_gradient: Option<GradientOutput>,
    pub classifier_gradient: Option<GradientOutput>,
    pub input_gradients: Vec<String>,
    pub reduction: Reduction,
    pub upstreams: Upstreams,
    /// Whether the outputs are asked for token by token, too.
    pub rows: bool,
    /// Elements between one row's last and the next one's first element, of hidden states and classifier.
    pub padding: [usize; 2],
    /// Alignment of the first elements, in bytes; buffers have it and not twice as much.
    pub align: [usize; 2],
    pub budget: Budget,
    /// Whether Scalar inputs, upstream scalars and divisors lie in device memory (on a GPU).
    pub device_scalars: bool,
    /// Standard deviation of the logits.
    pub spread: f64,
    pub seed: u64,
}

/// The token reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    None,
    Sum,
    Mean,
    DividedBy,
    /// By the Col input `weight`.
    MeanByTarget,
}

/// How upstream gradients are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstreams {
    /// One number for each output's reduced value.
    Scalars,
    /// N numbers for each output.
    Rows,
    /// Both: they add up.
    Both,
    /// One number for the first output alone.
    First,
}

/// The limit on the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    Free,
    /// The smallest that the plan's refusal names.
    Smallest,
    /// Halfway between that and what a free plan takes.
    Half,
}

impl Case {
    pub fn new(program: &Program, [tokens, hidden, vocab]: [usize; 3], dtype: DType) -> Case {
        let own = Some(GradientOutput { dtype, accumulate: false });
        let mut case = Case {
            program: program.clone(),
            tokens,
            hidden,
            vocab,
            dtype,
            filter: Filter::Exact,
            index: IndexType::I32,
            ignored: Some(0.0),
            hidden_gradient: own,
            classifier_gradient: own,
            input_gradients: Vec::new(),
            reduction: Reduction::Mean,
            upstreams: Upstreams::Scalars,
            rows: true,
            padding: [0; 2],
            align: [16; 2],
            budget: Budget::Free,
            device_scalars: false,
            spread: 2.5,
            seed: run_seed(),
        };
        case.input_gradients = case.input_names();
        case
    }

    /// Names of all inputs that have gradients.
    pub fn input_names(&self) -> Vec<String> {
        let settable = |kind| matches!(kind, InputKind::Row | InputKind::Col | InputKind::Scalar);
        let inputs = self.program.inputs().iter().filter(|input| settable(input.kind));
        inputs.map(|input| input.name.to_string()).collect()
    }

    /// The case with something changed.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Case)) -> Case {
        change(&mut self);
        self
    }

    /// Both large gradients in this form.
    #[must_use]
    pub fn gradients(self, dtype: DType, accumulate: bool) -> Case {
        let output = Some(GradientOutput { dtype, accumulate });
        self.with(|case| (case.hidden_gradient, case.classifier_gradient) = (output, output))
    }

    pub fn has_target(&self) -> bool {
        self.program.has_target()
    }

    /// Row strides of hidden states and classifier, in elements.
    pub fn strides(&self) -> [usize; 2] {
        self.padding.map(|padding| self.hidden + padding)
    }

    pub fn wants_gradients(&self) -> bool {
        self.hidden_gradient.is_some()
            || self.classifier_gradient.is_some()
            || !self.input_gradients.is_empty()
    }

    /// Fresh data.
    pub fn data(&self) -> Data {
        Data::new(self)
    }

    /// Fresh data, and what comes of them.
    pub fn prepare(&self) -> (Data, Expected) {
        let data = self.data();
        let expected = Expected::of(self, &data);
        (data, expected)
    }
}

impl fmt::Display for Case {
    /// Only what differs from the default.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = Case::new(&self.program, [self.tokens, self.hidden, self.vocab], self.dtype);
        write!(f, "{} {}", self.program.name(), self.dtype.name())?;
        write!(f, " N {} D {} V {}", self.tokens, self.hidden, self.vocab)?;
        if self.filter != base.filter {
            write!(f, ", {:?}", self.filter)?;
        }
        if self.index != base.index {
            f.write_str(", i64 targets")?;
        }
        match self.ignored {
            None => f.write_str(", no ignored index")?,
            Some(0.0) => {}
            Some(share) => write!(f, ", {share} ignored")?,
        }
        for (name, output, usual) in [
            ("dE", self.hidden_gradient, base.hidden_gradient),
            ("dC", self.classifier_gradient, base.classifier_gradient),
        ] {
            match output {
                output if output == usual => {}
                None => write!(f, ", no {name}")?,
                Some(GradientOutput { dtype, accumulate }) => {
                    let how = if accumulate { "accumulated" } else { "overwritten" };
                    write!(f, ", {name} {how} in {}", dtype.name())?;
                }
            }
        }
        if self.input_gradients != base.input_gradients {
            write!(f, ", input gradients [{}]", self.input_gradients.join(" "))?;
        }
        if self.reduction != base.reduction {
            write!(f, ", reduction {:?}", self.reduction)?;
        }
        if self.upstreams != base.upstreams {
            write!(f, ", upstream {:?}", self.upstreams)?;
        }
        if !self.rows {
            f.write_str(", reduced only")?;
        }
        if self.padding != base.padding {
            write!(f, ", row padding {:?}", self.padding)?;
        }
        if self.align != base.align {
            write!(f, ", aligned to {:?}", self.align)?;
        }
        if self.budget != base.budget {
            write!(f, ", workspace {:?}", self.budget)?;
        }
        if self.device_scalars {
            f.write_str(", device scalars")?;
        }
        if self.spread != base.spread {
            write!(f, ", logits spread {}", self.spread)?;
        }
        Ok(())
    }
}
