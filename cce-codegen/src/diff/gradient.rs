//! The gradient normal form, put together from the derivatives of the outputs by their reductions.
//!
//! Every output is a function of Row inputs, Scalars and *stats* (reductions, and inputs read at the
//! target). With `g_s` the sum over the outputs of upstream times the derivative by the stat `s`, and `d`
//! the derivative by the raw logit or a Col input:
//!
//! | stat | A (times p) | T (at the target) | B (divided by V) |
//! |---|---|---|---|
//! | `lse(z)` | `g dz` | | |
//! | `nll(z)` | `g dz` | `-g dz_y` | |
//! | `expect(z, f)` | `g ((f - E) dz + df)` | | |
//! | `mean(f)` | | | `g df` |
//! | the variable at the target | | `g` | |
//!
//! `A_y + T` is put together from the same list without `nll`, whose contributions to it are equal and
//! opposite: it is absent for every function of the negative log-likelihood, by construction and not by
//! cancellation.

use super::Parts;
use super::canonical::at_target;
use super::derivative::{Derivative, elementwise_order};
use super::simplify::Algebra;
use super::terms::Term;
use crate::ir::{ExprId, InputId, Node};

/// A stat of the outputs, and the gradient that arrives there.
struct Arrival {
    stat: Node,
    id: ExprId,
    gradient: ExprId,
}

/// Which of the outputs take an upstream gradient, and by which stats they reach the inputs.
pub(super) struct Gradients {
    outputs: Vec<(ExprId, ExprId)>,
    arrivals: Vec<Arrival>,
}

impl Gradients {
    /// `outputs`: expression and upstream leaf of each differentiable output.
    pub fn new(algebra: &mut Algebra<'_>, outputs: Vec<(ExprId, ExprId)>) -> Gradients {
        let mut stats: Vec<ExprId> = outputs
            .iter()
            .flat_map(|&(output, _)| elementwise_order(algebra.graph, output))
            .filter(|&id| is_stat(&algebra.graph.get(id)))
            .collect();
        stats.sort();
        stats.dedup();
        let mut gradients = Gradients { outputs, arrivals: Vec::new() };
        for id in stats {
            let stat = algebra.graph.get(id);
            if matches!(stat, Node::Max(_) | Node::Argmax(_)) {
                continue;
            }
            if let Some(gradient) = gradients.of_outputs(algebra, id) {
                gradients.arrivals.push(Arrival { stat, id, gradient });
            }
        }
        gradients
    }

    /// The sum over the outputs of upstream times the derivative by a leaf, the other leaves held fixed.
    fn of_outputs(&self, algebra: &mut Algebra<'_>, leaf: ExprId) -> Option<ExprId> {
        let mut derivative = Derivative::with_respect_to(leaf);
        let mut sum = None;
        for &(output, upstream) in &self.outputs {
            if let Some(slope) = derivative.of(algebra, output) {
                let product = algebra.mul(upstream, slope);
                sum = algebra.sum_of(sum, Some(product));
            }
        }
        sum
    }

    /// The normal form for the raw logit or a Col input.
    pub fn parts(&self, algebra: &mut Algebra<'_>, variable: InputId, has_target: bool) -> Parts {
        let leaf = algebra.graph.node(Node::Input(variable));
        let mut by = Derivative::with_respect_to(leaf);
        let mut softmax = VocabularySum::default();
        let mut without_nll = VocabularySum::default();
        let mut uniform = VocabularySum::default();
        let mut target: Option<ExprId> = None;
        let mut read_at_target: Option<ExprId> = None;
        for &Arrival { stat, id, gradient } in &self.arrivals {
            match stat {
                Node::Lse(z) => {
                    if let Some(dz) = by.of(algebra, z) {
                        softmax.push(algebra, gradient, dz);
                        without_nll.push(algebra, gradient, dz);
                    }
                }
                Node::Nll(z) => {
                    if let Some(dz) = by.of(algebra, z) {
                        softmax.push(algebra, gradient, dz);
                        let dz = at_target(algebra, dz);
                        let product = algebra.mul(gradient, dz);
                        let minus = algebra.neg(product);
                        target = algebra.sum_of(target, Some(minus));
                    }
                }
                Node::Expect { z, f } => {
                    let (dz, df) = (by.of(algebra, z), by.of(algebra, f));
                    for sum in [&mut softmax, &mut without_nll] {
                        if let Some(dz) = dz {
                            let mean = algebra.mul(gradient, id);
                            let minus = algebra.neg(mean);
                            sum.push(algebra, minus, dz);
                            let product = algebra.mul(f, dz);
                            sum.push(algebra, gradient, product);
                        }
                        if let Some(df) = df {
                            sum.push(algebra, gradient, df);
                        }
                    }
                }
                Node::Mean(f) => {
                    if let Some(df) = by.of(algebra, f) {
                        uniform.push(algebra, gradient, df);
                    }
                }
                Node::TargetValue(input) if input == variable => {
                    read_at_target = algebra.sum_of(read_at_target, Some(gradient));
                }
                _ => {}
            }
        }
        let softmax = softmax.finish(algebra);
        let rest = without_nll.finish(algebra).map(|rest| at_target(algebra, rest));
        let rest = algebra.sum_of(rest, read_at_target);
        Parts {
            softmax,
            target: algebra.sum_of(target, read_at_target),
            uniform: uniform.finish(algebra),
            softmax_at_target: softmax.filter(|_| has_target).map(|softmax| at_target(algebra, softmax)),
            target_rest: rest.filter(|_| has_target),
        }
    }

    /// The derivative by a Row or Scalar input: a Row value.
    pub fn of_row_value(&self, algebra: &mut Algebra<'_>, variable: InputId) -> ExprId {
        let leaf = algebra.graph.node(Node::Input(variable));
        let mut by = Derivative::with_respect_to(leaf);
        let mut sum = self.of_outputs(algebra, leaf);
        for &Arrival { stat, id, gradient } in &self.arrivals {
            let slope = match stat {
                Node::Lse(z) => {
                    by.of(algebra, z).and_then(|dz| reduced(algebra, dz, |f| Node::Expect { z, f }))
                }
                Node::Nll(z) => by.of(algebra, z).and_then(|dz| {
                    let mean = reduced(algebra, dz, |f| Node::Expect { z, f });
                    let at_y = at_target(algebra, dz);
                    let minus = algebra.neg(at_y);
                    algebra.sum_of(mean, Some(minus))
                }),
                Node::Mean(f) => by.of(algebra, f).and_then(|df| reduced(algebra, df, Node::Mean)),
                Node::Expect { z, f } => {
                    let direct =
                        by.of(algebra, f).and_then(|df| reduced(algebra, df, |f| Node::Expect { z, f }));
                    let covariance = by.of(algebra, z).and_then(|dz| {
                        let product = algebra.mul(f, dz);
                        let of_product = reduced(algebra, product, |f| Node::Expect { z, f });
                        let of_dz = reduced(algebra, dz, |f| Node::Expect { z, f })?;
                        let product_of = algebra.mul(id, of_dz);
                        let minus = algebra.neg(product_of);
                        algebra.sum_of(of_product, Some(minus))
                    });
                    algebra.sum_of(direct, covariance)
                }
                _ => None,
            };
            if let Some(slope) = slope {
                let product = algebra.mul(gradient, slope);
                sum = algebra.sum_of(sum, Some(product));
            }
        }
        match sum {
            Some(sum) => sum,
            None => algebra.constant(0.0),
        }
    }
}

/// A linear reduction of `f`, what is known a token pulled out of it: `E[c f] = c E[f]`, and `E[c] = c`.
fn reduced(algebra: &mut Algebra<'_>, f: ExprId, reduction: impl Fn(ExprId) -> Node) -> Option<ExprId> {
    let product = product_of(algebra, f);
    let (outside, inside) = split(algebra, &product);
    let outside = algebra.product_of_factors(&outside);
    if inside.factors.is_empty() {
        return algebra.nonzero(outside);
    }
    let inside = algebra.product_of_factors(&inside);
    let inside = algebra.graph.node(reduction(inside));
    let product = algebra.mul(outside, inside);
    algebra.nonzero(product)
}

fn product_of(algebra: &mut Algebra<'_>, expr: ExprId) -> Term {
    algebra.reader.product(algebra.graph, expr)
}

/// A product's part that is known a token, its number included, and the part that varies over the vocabulary.
pub(super) fn split(algebra: &Algebra<'_>, term: &Term) -> (Term, Term) {
    let (inside, outside) =
        term.factors.iter().partition(|factor| algebra.graph.kind(factor.0).varies_over_vocab());
    (Term { coef: term.coef, factors: outside }, Term { coef: 1.0, factors: inside })
}

/// Whether the node is a leaf of the outputs that the forward delivers.
pub(super) fn is_stat(node: &Node) -> bool {
    node.is_reduction() || matches!(node, Node::TargetValue(_))
}

/// `sum of (Row value) * (product of values that vary over the vocabulary)`, each such product once: what
/// is read a token in the vocabulary loop is one value a product.
#[derive(Default)]
struct VocabularySum {
    terms: Vec<(Term, Option<ExprId>)>,
}

impl VocabularySum {
    /// Adds `coef * value`.
    fn push(&mut self, algebra: &mut Algebra<'_>, coef: ExprId, value: ExprId) {
        let product = product_of(algebra, value);
        let (outside, inside) = split(algebra, &product);
        let outside = algebra.product_of_factors(&outside);
        let coef = algebra.mul(coef, outside);
        match self.terms.iter_mut().find(|(term, _)| *term == inside) {
            Some((_, sum)) => *sum = algebra.sum_of(*sum, Some(coef)),
            None => self.terms.push((inside, algebra.nonzero(coef))),
        }
    }

    /// The sum as an expression, with what all products share in front; `None` if it is zero.
    fn finish(self, algebra: &mut Algebra<'_>) -> Option<ExprId> {
        let terms: Vec<(Term, ExprId)> =
            self.terms.into_iter().filter_map(|(term, coef)| Some((term, coef?))).collect();
        let shared = terms.iter().map(|(term, _)| term.clone()).reduce(|a, b| a.shared_with(&b))?;
        let first = terms.first()?.1;
        let one_coef = terms.iter().all(|&(_, coef)| coef == first);
        let mut sum = None;
        for (term, coef) in &terms {
            let mut product = algebra.product_of_factors(&term.over(&shared));
            if !one_coef {
                product = algebra.mul(*coef, product);
            }
            sum = algebra.sum_of(sum, Some(product));
        }
        if one_coef {
            sum = sum.map(|sum| algebra.mul(first, sum));
        }
        let shared = algebra.product_of_factors(&shared);
        sum.map(|sum| algebra.mul(sum, shared))
    }
}
