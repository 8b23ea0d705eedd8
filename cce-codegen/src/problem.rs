//! What a plan is specialised on besides the program: shapes, types, filter, wanted gradients.

use crate::ir::InputId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The type of hidden states and classifier, or of a gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE single precision; products are true fp32, never tf32.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

impl DType {
    /// Size of an element in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }

    /// `f32`, `f16`, `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
        }
    }
}

/// The type of targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexType {
    /// 32-bit.
    I32,
    /// 64-bit.
    I64,
}

/// How the softmax part of the gradient is thinned.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// Not at all.
    Exact,
    /// Tiles of the gradient are skipped in which no target falls and no probability reaches `eps`:
    ///
    /// `dL/dx_ij = 0` for all i, j of a tile in which every `p_ij < eps` and no `j = y_i`,
    ///
    /// where it would be `p_ij A_ij`, in magnitude below `eps |A_ij|`; everywhere else it is exact. It is the
    /// gradient filtering of Cut Cross-Entropy (Wijmans et al., "Cut Your Losses in Large-Vocabulary Language
    /// Models", 2024), here for parity with that method and for comparisons. It is **biased**: of cross entropy
    /// it leaves out what always has the same sign, and on a flat softmax, where no probability reaches `eps`,
    /// all but the targets' tiles. [`Filter::Sampled`] is the better filter: it has no bias.
    ///
    /// The tile is the schedule's: the smallest into which the tiles of all its kernels divide. The loss has a
    /// softmax and no mean over the vocabulary.
    Blocks {
        /// The threshold, from 2^-64 to 1.
        eps: f32,
    },
    /// Systematic sampling with the step `eps` times the normaliser: unbiased.
    Sampled {
        /// The step, relative to a token's normaliser.
        eps: f32,
        /// The most entries kept, as a mean over each group of 16 tokens.
        max_entries: u32,
    },
}

impl Filter {
    /// The sampled filter's default: 2^-10, 384 entries a token.
    pub const SAMPLED: Filter = Filter::Sampled { eps: 1.0 / 1024.0, max_entries: 384 };

    /// The filter that skips tiles, at the threshold of Cut Cross-Entropy: 2^-12.
    pub const BLOCKS: Filter = Filter::Blocks { eps: 1.0 / 4096.0 };

    /// The quota of what a sampled walk emits, in multiples of what thinning may keep of it: a walk spends its
    /// quota unevenly, and thinning evens that out if it has something to choose from.
    pub const EMITTED_PER_KEPT: f64 = 1.3;

    /// What is wrong with the filter's numbers, on any device; `None` if nothing is.
    pub fn mistake(&self) -> Option<&'static str> {
        match *self {
            // A smaller step, times a normaliser, could leave fp32's normal numbers.
            Filter::Sampled { eps, max_entries }
                if !(SMALLEST_STEP..=1.0).contains(&eps) || max_entries < 2 =>
            {
                Some("eps must be from 2^-64 to 1, and max_entries at least 2")
            }
            Filter::Blocks { eps } if !(SMALLEST_STEP..=1.0).contains(&eps) => {
                Some("eps must be from 2^-64 to 1")
            }
            _ => None,
        }
    }
}

/// The smallest step of the sampled filter, 2^-64: a smaller one, times a normaliser, could leave fp32's normal
/// numbers. And the smallest threshold of skipped tiles, whose probabilities are fp32 numbers.
const SMALLEST_STEP: f32 = 1.0 / (1u64 << 63) as f32 / 2.0;

/// As on the command line: `exact`, `sampled:2^-10,384`, `blocks:2^-12`.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let power = |eps: f32| match eps.log2() {
            log if log.fract() == 0.0 => format!("2^{log}"),
            _ => eps.to_string(),
        };
        match *self {
            Filter::Exact => f.write_str("exact"),
            Filter::Blocks { eps } => write!(f, "blocks:{}", power(eps)),
            Filter::Sampled { eps, max_entries } => write!(f, "sampled:{},{max_entries}", power(eps)),
        }
    }
}

/// The filters that a device offers: `exact`, `sampled`, `sampled:2^-10`, `sampled:2^-10,384`, `blocks`,
/// `blocks:2^-12`.
impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Filter, String> {
        let expected = || {
            format!(
                "expected exact, sampled, sampled:EPS, sampled:EPS,MAX_ENTRIES, blocks or blocks:EPS with an EPS \
                 from 2^-64 to 1, such as 2^-10, found {text}"
            )
        };
        match text.split_once(':') {
            None if text == "exact" => Ok(Filter::Exact),
            None if text == "sampled" => Ok(Filter::SAMPLED),
            None if text == "blocks" => Ok(Filter::BLOCKS),
            Some(("blocks", eps)) => Ok(Filter::Blocks { eps: threshold(eps).ok_or_else(expected)? }),
            Some(("sampled", rest)) => {
                let Filter::Sampled { max_entries: default, .. } = Filter::SAMPLED else {
                    return Err(expected());
                };
                let (eps, max_entries) = match rest.split_once(',') {
                    Some((eps, max)) => (eps, max.parse().map_err(|_| expected())?),
                    None => (rest, default),
                };
                let filter = Filter::Sampled { eps: threshold(eps).ok_or_else(expected)?, max_entries };
                filter.mistake().map_or(Ok(filter), |rule| Err(format!("{rule}, found {text}")))
            }
            _ => Err(expected()),
        }
    }
}

/// A step of the sampled filter, or a threshold of skipped tiles, perhaps as a power of two.
fn threshold(text: &str) -> Option<f32> {
    let value = match text.strip_prefix("2^") {
        Some(exponent) => f32::from(i16::from_str(exponent).ok()?).exp2(),
        None => text.parse().ok()?,
    };
    (SMALLEST_STEP..=1.0).contains(&value).then_some(value)
}

/// How a gradient of hidden states or classifier is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GradientOutput {
    /// The inputs' own type, or F32.
    pub dtype: DType,
    /// Added to what the buffer holds, instead of overwriting it.
    pub accumulate: bool,
}

impl GradientOutput {
    /// Whether the upper half of an unfinished fp32 sum can wait in the buffer: the type has 16 bits, and what
    /// the buffer held is of no interest.
    pub(crate) fn holds_half_a_sum(self) -> bool {
        self.dtype != DType::F32 && !self.accumulate
    }
}

/// Whether tokens may be ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ignored {
    /// Every token counts; a target equal to the ignored index is out of range.
    None,
    /// Tokens whose target is the ignored index count for nothing and cost next to nothing.
    Possible,
}

/// A matrix's layout in memory: row-major, inner stride 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Layout {
    /// Distance between rows, in elements.
    pub row_stride: usize,
    /// Alignment of the first element that every call keeps, in bytes.
    pub align: usize,
}

/// What a plan is made for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// N, the number of tokens.
    pub tokens: usize,
    /// D, the hidden size.
    pub hidden: usize,
    /// V, the vocabulary's size.
    pub vocab: usize,
    /// Type of hidden states and classifier.
    pub dtype: DType,
    /// Type of the targets.
    pub index: IndexType,
    /// The filter.
    pub filter: Filter,
    /// Whether tokens may be ignored.
    pub ignored: Ignored,
    /// dE, if wanted. Its rows are contiguous.
    pub hidden_gradient: Option<GradientOutput>,
    /// dC, if wanted. Its rows are contiguous.
    pub classifier_gradient: Option<GradientOutput>,
    /// Row, Col and Scalar inputs whose gradients (f32, overwritten) are wanted.
    pub input_gradients: Vec<InputId>,
    /// Layout of the hidden states, [N, D].
    pub hidden_layout: Layout,
    /// Layout of the classifier, [V, D].
    pub classifier_layout: Layout,
    /// The most bytes of workspace (peak) that the plan may ask for.
    pub workspace_limit: Option<u64>,
}

impl Problem {
    /// Contiguous inputs of this shape, targets i32, `Exact`, tokens possibly ignored, both gradients
    /// overwritten in the inputs' type.
    pub fn new(tokens: usize, hidden: usize, vocab: usize, dtype: DType) -> Problem {
        let gradient = Some(GradientOutput { dtype, accumulate: false });
        let layout = Layout { row_stride: hidden, align: 16 };
        Problem {
            tokens,
            hidden,
            vocab,
            dtype,
            index: IndexType::I32,
            filter: Filter::Exact,
            ignored: Ignored::Possible,
            hidden_gradient: gradient,
            classifier_gradient: gradient,
            input_gradients: Vec::new(),
            hidden_layout: layout,
            classifier_layout: layout,
            workspace_limit: None,
        }
    }

    /// Whether any gradient is wanted.
    pub fn wants_gradients(&self) -> bool {
        self.hidden_gradient.is_some()
            || self.classifier_gradient.is_some()
            || !self.input_gradients.is_empty()
    }
}
