//! The whole computation in f64 with the logits in memory: what whole-system tests compare with.

use super::eval::{Bound, Token};
use super::lowered::LoweredInterp;
use crate::diff::{Wanted, lower};
use crate::ir::{InputId, InputKind, Program};

/// What does not fit in a [`Reference`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// A matrix's or an input's length.
    #[error("{what}: found {found} values, expected {expected}")]
    Length {
        /// Which.
        what: String,
        /// How many there are.
        found: usize,
        /// How many there must be.
        expected: usize,
    },
    /// An input of the program without a value.
    #[error("the input `{0}` has no value; give it with `input`")]
    Missing(String),
    /// A name that the program does not have, or that is no Row, Col or Scalar input.
    #[error("the program has no Row, Col or Scalar input `{0}`")]
    Unknown(String),
    /// A target beyond the vocabulary.
    #[error("token {token} has the target {target}, expected one below {vocab}")]
    Target {
        /// The token.
        token: usize,
        /// Its target.
        target: usize,
        /// The vocabulary's size.
        vocab: usize,
    },
}

/// How logits are divided into tiles: of so many tokens that count, in their order, by so many columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiles {
    /// Tokens of a tile.
    pub rows: usize,
    /// Columns of a tile.
    pub columns: usize,
}

/// Hidden states, classifier, targets and inputs of a program.
#[derive(Clone, Debug)]
pub struct Reference<'a> {
    program: &'a Program,
    hidden: usize,
    e: &'a [f64],
    c: &'a [f64],
    targets: &'a [Option<usize>],
    inputs: Vec<Option<&'a [f64]>>,
    skipped: Option<(Tiles, f64)>,
}

/// Outputs and gradients, each with respect to the sum over outputs and tokens of upstream times output.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceResult {
    /// By output: N values; 0 for an ignored token.
    pub outputs: Vec<Vec<f64>>,
    /// dE, [N, D].
    pub hidden_gradient: Vec<f64>,
    /// dC, [V, D].
    pub classifier_gradient: Vec<f64>,
    /// Of each wanted input, in the order asked for: N values (Row), V values (Col) or one (Scalar).
    pub input_gradients: Vec<(String, Vec<f64>)>,
}

impl<'a> Reference<'a> {
    /// Hidden states `e` [N, `hidden`] and classifier `c` [V, `hidden`], row-major.
    pub fn new(
        program: &'a Program,
        hidden: usize,
        e: &'a [f64],
        c: &'a [f64],
    ) -> Result<Reference<'a>, ReferenceError> {
        for (what, matrix) in [("the hidden states", e), ("the classifier", c)] {
            let rows = matrix.len().checked_div(hidden).unwrap_or(0);
            expect_length(what, matrix.len(), rows * hidden)?;
        }
        Ok(Reference {
            program,
            hidden,
            e,
            c,
            targets: &[],
            inputs: vec![None; program.inputs().len()],
            skipped: None,
        })
    }

    /// N targets; `None` is an ignored token, which has outputs and gradients 0. A program without a target
    /// counts every token unless targets are given.
    pub fn targets(mut self, targets: &'a [Option<usize>]) -> Result<Reference<'a>, ReferenceError> {
        expect_length("the target", targets.len(), self.tokens())?;
        for (token, target) in targets.iter().enumerate() {
            if let Some(target) = *target
                && target >= self.vocab()
            {
                return Err(ReferenceError::Target { token, target, vocab: self.vocab() });
            }
        }
        self.targets = targets;
        Ok(self)
    }

    /// Leaves out of the gradients the tiles in which no target falls and no probability reaches `eps`: what the
    /// filter `Blocks` does.
    pub fn skipping(mut self, tiles: Tiles, eps: f64) -> Reference<'a> {
        self.skipped = Some((tiles, eps));
        self
    }

    /// The largest probability of each tile, by its rows' place and its columns'; infinite where a target falls, and
    /// everywhere if the program has no softmax.
    pub fn largest_by_tile(&self, tiles: Tiles) -> Result<Vec<Vec<f64>>, ReferenceError> {
        self.check()?;
        let interp = LoweredInterp::new(lower(self.program, &Wanted { logit: true, inputs: Vec::new() }));
        let columns = self.vocab().div_ceil(tiles.columns);
        let mut largest = vec![vec![0.0; columns]; self.counted().div_ceil(tiles.rows)];
        for (at, token) in (0..self.tokens()).filter(|&token| self.counts(token)).enumerate() {
            let (logits, inputs) = (self.logits(token), self.bound(token));
            let target = self.targets.get(token).copied().flatten();
            let of_tiles = &mut largest[at / tiles.rows];
            match interp.probabilities(&Token { logits: &logits, target, inputs: &inputs }) {
                None => of_tiles.fill(f64::INFINITY),
                Some(probabilities) => {
                    for (j, p) in probabilities.into_iter().enumerate() {
                        of_tiles[j / tiles.columns] = p.max(of_tiles[j / tiles.columns]);
                    }
                }
            }
            if let Some(y) = target {
                of_tiles[y / tiles.columns] = f64::INFINITY;
            }
        }
        Ok(largest)
    }

    /// A Row input (N values), a Col input (V values) or a Scalar input (one).
    pub fn input(mut self, name: &str, values: &'a [f64]) -> Result<Reference<'a>, ReferenceError> {
        let id = self.find(name)?;
        let expected = match self.program.inputs()[id.index()].kind {
            InputKind::Row => self.tokens(),
            InputKind::Col => self.vocab(),
            _ => 1,
        };
        expect_length(&format!("the input `{name}`"), values.len(), expected)?;
        self.inputs[id.index()] = Some(values);
        Ok(self)
    }

    fn find(&self, name: &str) -> Result<InputId, ReferenceError> {
        let settable = |kind| matches!(kind, InputKind::Row | InputKind::Col | InputKind::Scalar);
        let position =
            self.program.inputs().iter().position(|input| input.name == name && settable(input.kind));
        position.map(|at| InputId(at as u16)).ok_or_else(|| ReferenceError::Unknown(name.to_owned()))
    }

    /// N.
    pub fn tokens(&self) -> usize {
        self.e.len().checked_div(self.hidden).unwrap_or(0)
    }

    /// V.
    pub fn vocab(&self) -> usize {
        self.c.len().checked_div(self.hidden).unwrap_or(0)
    }

    /// How many tokens are not ignored.
    pub fn counted(&self) -> usize {
        (0..self.tokens()).filter(|&token| self.counts(token)).count()
    }

    fn counts(&self, token: usize) -> bool {
        self.targets.get(token).is_none_or(Option::is_some)
    }

    fn check(&self) -> Result<(), ReferenceError> {
        for (input, values) in self.program.inputs().iter().zip(&self.inputs) {
            let given = match input.kind {
                InputKind::Logit => true,
                InputKind::Target => self.tokens() == 0 || !self.targets.is_empty(),
                _ => values.is_some(),
            };
            if !given {
                return Err(ReferenceError::Missing(input.name.to_string()));
            }
        }
        Ok(())
    }

    fn bound(&self, token: usize) -> Vec<Bound<'a>> {
        let inputs = self.program.inputs().iter().zip(&self.inputs);
        inputs
            .map(|(input, values)| match (input.kind, values) {
                (InputKind::Row, Some(values)) => Bound::One(values[token]),
                (InputKind::Col, Some(values)) => Bound::Col(values),
                (InputKind::Scalar, Some(values)) => Bound::One(values[0]),
                _ => Bound::Token,
            })
            .collect()
    }

    fn row(matrix: &[f64], hidden: usize, row: usize) -> &[f64] {
        &matrix[row * hidden..(row + 1) * hidden]
    }

    fn logits(&self, token: usize) -> Vec<f64> {
        let e = Self::row(self.e, self.hidden, token);
        let mut logits = vec![0.0; self.vocab()];
        each_row(&mut logits, 1, self.hidden, |j, logit| {
            logit.fill(dot(e, Self::row(self.c, self.hidden, j)));
        });
        logits
    }

    /// The outputs: by output, N values. Of the lowered program, in which `lse(z) - at(z, y)` is no difference: with
    /// log-odds beyond 36 even f64 has nothing left of it.
    pub fn outputs(&self) -> Result<Vec<Vec<f64>>, ReferenceError> {
        self.check()?;
        let interp = LoweredInterp::new(lower(self.program, &Wanted { logit: false, inputs: Vec::new() }));
        let mut outputs = vec![vec![0.0; self.tokens()]; self.program.outputs().len()];
        for token in (0..self.tokens()).filter(|&token| self.counts(token)) {
            let (logits, inputs) = (self.logits(token), self.bound(token));
            let target = self.targets.get(token).copied().flatten();
            let values = interp.outputs(&Token { logits: &logits, target, inputs: &inputs });
            for (output, value) in outputs.iter_mut().zip(values) {
                output[token] = value;
            }
        }
        Ok(outputs)
    }

    /// Outputs and gradients. `upstream`: by output, N values (what is given for an output that is not
    /// differentiable is not read). `wanted`: the names of inputs whose gradients are wanted.
    pub fn run(&self, upstream: &[Vec<f64>], wanted: &[&str]) -> Result<ReferenceResult, ReferenceError> {
        self.check()?;
        expect_length("the upstream gradients' list", upstream.len(), self.program.outputs().len())?;
        for of_output in upstream {
            expect_length("an upstream gradient", of_output.len(), self.tokens())?;
        }
        let ids = wanted.iter().map(|name| self.find(name)).collect::<Result<Vec<_>, _>>()?;
        let lowered = lower(self.program, &Wanted { logit: true, inputs: ids.clone() });
        let interp = LoweredInterp::new(lowered);
        let (tokens, vocab, hidden) = (self.tokens(), self.vocab(), self.hidden);
        let mut result = ReferenceResult {
            outputs: self.outputs()?,
            hidden_gradient: vec![0.0; tokens * hidden],
            classifier_gradient: vec![0.0; vocab * hidden],
            input_gradients: ids.iter().map(|&id| self.zero_gradient(id)).collect(),
        };
        let largest = self.skipped.map(|(tiles, _)| self.largest_by_tile(tiles)).transpose()?;
        // Of a few tokens at a time, so that a row of dC is read once for all of them.
        let mut few: Vec<(usize, Vec<f64>)> = Vec::with_capacity(TOGETHER);
        for (at, token) in (0..tokens).filter(|&token| self.counts(token)).enumerate() {
            let (logits, inputs) = (self.logits(token), self.bound(token));
            let target = self.targets.get(token).copied().flatten();
            let at_token: Vec<f64> = upstream.iter().map(|of_output| of_output[token]).collect();
            let mut gradient =
                interp.gradient(&Token { logits: &logits, target, inputs: &inputs }, &at_token);
            if let (Some((tiles, eps)), Some(largest)) = (self.skipped, &largest) {
                let of_tiles = &largest[at / tiles.rows];
                let columns = gradient.cols.iter_mut().map(|(_, of_col)| of_col);
                for values in columns.chain([&mut gradient.logit]) {
                    for (j, value) in values.iter_mut().enumerate() {
                        *value = if of_tiles[j / tiles.columns] < eps { 0.0 } else { *value };
                    }
                }
            }
            for (&id, (_, sum)) in ids.iter().zip(&mut result.input_gradients) {
                if let Some((_, of_col)) = gradient.cols.iter().find(|entry| entry.0 == id) {
                    add_scaled(sum, 1.0, of_col);
                }
                if let Some((_, of_row)) = gradient.rows.iter().find(|entry| entry.0 == id) {
                    sum[token] = *of_row;
                }
                if let Some((_, of_scalar)) = gradient.scalars.iter().find(|entry| entry.0 == id) {
                    sum[0] += of_scalar;
                }
            }
            few.push((token, gradient.logit));
            if few.len() == TOGETHER {
                self.add_products(&mut few, &mut result);
            }
        }
        self.add_products(&mut few, &mut result);
        Ok(result)
    }

    /// Adds what these tokens' gradients of the logits contribute to dE and dC: every element's additions in the
    /// order of tokens and columns, on however many threads.
    fn add_products(&self, tokens: &mut Vec<(usize, Vec<f64>)>, result: &mut ReferenceResult) {
        let hidden = self.hidden;
        each_row(&mut result.classifier_gradient, hidden, hidden * tokens.len(), |j, row| {
            for (token, of_logits) in tokens.iter() {
                add_scaled(row, of_logits[j], Self::row(self.e, hidden, *token));
            }
        });
        let mut of_tokens = vec![0.0; tokens.len() * hidden];
        each_row(&mut of_tokens, hidden, hidden * self.vocab(), |at, row| {
            for (j, &g) in tokens[at].1.iter().enumerate() {
                add_scaled(row, g, Self::row(self.c, hidden, j));
            }
        });
        for (at, (token, _)) in tokens.drain(..).enumerate() {
            let row = &of_tokens[at * hidden..(at + 1) * hidden];
            result.hidden_gradient[token * hidden..(token + 1) * hidden].copy_from_slice(row);
        }
    }

    fn zero_gradient(&self, id: InputId) -> (String, Vec<f64>) {
        let input = &self.program.inputs()[id.index()];
        let length = match input.kind {
            InputKind::Row => self.tokens(),
            InputKind::Col => self.vocab(),
            _ => 1,
        };
        (input.name.to_string(), vec![0.0; length])
    }
}

/// Tokens whose contributions to dC are added in one pass.
const TOGETHER: usize = 16;

/// Multiplications that are worth a thread.
const WORTH_A_THREAD: usize = 1 << 20;

/// Fills the rows of a matrix, `width` elements each, which take so many multiplications each, on all cores.
fn each_row(matrix: &mut [f64], width: usize, work: usize, fill: impl Fn(usize, &mut [f64]) + Sync) {
    let rows = matrix.len().checked_div(width).unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = (rows * work / WORTH_A_THREAD).clamp(1, cores);
    let each = rows.div_ceil(threads).max(1);
    let fill = &fill;
    let part = |(number, part): (usize, &mut [f64])| {
        for (at, row) in part.chunks_exact_mut(width).enumerate() {
            fill(number * each + at, row);
        }
    };
    if threads == 1 {
        matrix.chunks_mut((each * width).max(1)).enumerate().for_each(part);
        return;
    }
    std::thread::scope(|scope| {
        for numbered in matrix.chunks_mut(each * width).enumerate() {
            scope.spawn(move || part(numbered));
        }
    });
}

fn expect_length(what: &str, found: usize, expected: usize) -> Result<(), ReferenceError> {
    if found == expected {
        return Ok(());
    }
    Err(ReferenceError::Length { what: what.to_owned(), found, expected })
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    // Four sums, so that the additions do not wait for each other.
    let mut sums = [0.0; 4];
    let (quads_a, quads_b) = (a.chunks_exact(4), b.chunks_exact(4));
    let tail: f64 = quads_a.remainder().iter().zip(quads_b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in quads_a.zip(quads_b) {
        for lane in 0..4 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + tail
}

fn add_scaled(sum: &mut [f64], factor: f64, values: &[f64]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += factor * value;
    }
}
