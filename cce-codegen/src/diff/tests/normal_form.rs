//! The normal form of losses like those that ship.

use super::super::sketch::{Sketch, gemma2, losses, program};
use super::{Case, both_gradients, wants_all};
use crate::diff::{NotRankOne, Parts, RankOne, Wanted, hoist, lower, uniform_factors};
use crate::interp::{Interp, LoweredInterp};
use crate::ir::{InputId, Kind, Node, Program};

fn loss(name: &str) -> Program {
    losses().into_iter().find(|program| program.name() == name).unwrap()
}

#[test]
fn gradients_of_all_losses_are_central_differences() {
    for program in losses() {
        for seed in 0..4 {
            let case = Case::new(&program, 7, 2.0, seed);
            for pair in both_gradients(&program, &case) {
                let error = (pair.derived - pair.numeric[0]).abs();
                assert!(error <= 1e-8 * (1.0 + pair.derived.abs()), "{}: {pair}", program.name());
            }
        }
    }
}

#[test]
fn outputs_are_those_of_the_program_as_written() {
    for program in losses() {
        let interp = Interp::new(&program);
        let lowered = LoweredInterp::new(lower(&program, &Wanted::default()));
        for seed in 0..4 {
            let case = Case::new(&program, 9, 8.0, seed);
            let (direct, lowered) =
                case.token(&program, |token| (interp.outputs(token), lowered.outputs(token)));
            for (a, b) in direct.iter().zip(&lowered) {
                assert!((a - b).abs() <= 1e-12 * (1.0 + a.abs()), "{}: {a} {b}", program.name());
            }
        }
    }
}

#[test]
fn functions_of_the_nll_leave_nothing_at_the_target() {
    for program in losses() {
        let lowered = lower(&program, &wants_all(&program));
        let of_nll = ["cross_entropy", "weighted", "class_weighted", "softcapped", "focal", "unlikelihood"];
        let also = ["with_bias_and_temperature", "temperature_a_token", "class_weighted_smoothing"];
        if of_nll.contains(&program.name()) || also.contains(&program.name()) {
            assert_eq!(lowered.logit.target_rest, None, "{}", program.name());
            assert!(lowered.logit.target.is_some(), "{}", program.name());
        }
    }
}

#[test]
fn a_vocabulary_loop_reads_few_values_a_token() {
    let expected = [
        ("cross_entropy", 1),
        ("weighted", 1),
        ("softcapped", 1),
        ("z_loss", 1),
        ("focal", 1),
        ("unlikelihood", 1),
        ("plain_entropy", 2),
        ("entropy", 2),
        ("gemma2", 2),
    ];
    for (name, coefs) in expected {
        let program = loss(name);
        let mut lowered = lower(&program, &wants_all(&program));
        let softmax = lowered.logit.softmax.unwrap();
        let hoisted = hoist(&mut lowered.graph, &[softmax]);
        assert_eq!(hoisted.coefs.len(), coefs, "{name}");
        assert!(hoisted.coefs.iter().all(|&coef| lowered.graph.kind(coef) == Kind::Row));
    }
}

#[test]
fn the_uniform_part_of_plain_and_class_weighted_smoothing_is_a_rank_one_update() {
    for name in ["smoothed", "class_weighted_smoothing"] {
        let program = loss(name);
        let mut lowered = lower(&program, &wants_all(&program));
        let uniform = lowered.logit.uniform.unwrap();
        let RankOne { row, col } = uniform_factors(&mut lowered.graph, uniform).unwrap();
        assert!(matches!(lowered.graph.kind(row), Kind::Scalar | Kind::Row), "{name}");
        assert!(matches!(lowered.graph.kind(col), Kind::Scalar | Kind::Col), "{name}");
        let expected = if name == "smoothed" { Kind::Scalar } else { Kind::Col };
        assert_eq!(lowered.graph.kind(col), expected);
    }
}

#[test]
fn the_factors_of_a_rank_one_update_multiply_to_it() {
    let program = program("two_means", |s| {
        let (x, weight, r) = (s.x(), s.col("weight"), s.row("r"));
        let weighted = s.mul(x, weight);
        let weighted = s.mul(weighted, r);
        let (a, b) = (s.mean(x), s.mean(weighted));
        let a = s.mul(r, a);
        s.add(a, b)
    });
    let mut lowered = lower(&program, &wants_all(&program));
    let uniform = lowered.logit.uniform.unwrap();
    let RankOne { row, col } = uniform_factors(&mut lowered.graph, uniform).unwrap();
    let product = lowered.graph.binary(crate::ir::BinaryOp::Mul, row, col);
    let case = Case::new(&program, 5, 1.0, 1);
    let values = case.token(&program, |token| {
        let leaves = crate::interp::Leaves { upstream: &case.upstream, coefs: &[] };
        crate::interp::evaluate(&lowered.graph, &[uniform, product], token, &leaves)
    });
    for j in 0..5 {
        assert!((values[0].at(j) - values[1].at(j)).abs() < 1e-14);
    }
}

#[test]
fn a_uniform_part_that_varies_by_logit_says_so() {
    for name in ["smoothed_under_a_softcap", "squared_logits"] {
        let program = loss(name);
        let mut lowered = lower(&program, &wants_all(&program));
        let uniform = lowered.logit.uniform.unwrap();
        let refused = uniform_factors(&mut lowered.graph, uniform).unwrap_err();
        assert!(matches!(refused, NotRankOne::VariesByLogit { .. }), "{name}: {refused:?}");
    }
}

#[test]
fn a_uniform_part_of_two_products_says_so() {
    let program = program("two_weights", |s| {
        let (x, a, b, r, t) = (s.x(), s.col("a"), s.col("b"), s.row("r"), s.row("t"));
        let (ax, bx) = (s.mul(a, x), s.mul(b, x));
        let (ax, bx) = (s.mean(ax), s.mean(bx));
        let (ax, bx) = (s.mul(r, ax), s.mul(t, bx));
        s.add(ax, bx)
    });
    let mut lowered = lower(&program, &wants_all(&program));
    let uniform = lowered.logit.uniform.unwrap();
    let refused = uniform_factors(&mut lowered.graph, uniform);
    assert_eq!(refused, Err(NotRankOne::SeveralProducts { terms: 2 }));
}

#[test]
fn hoisted_expressions_are_the_same_with_the_coefs_in_place() {
    for program in losses() {
        let mut lowered = lower(&program, &wants_all(&program));
        let exprs: Vec<_> =
            [lowered.softmax, lowered.logit.softmax, lowered.logit.uniform].into_iter().flatten().collect();
        let hoisted = hoist(&mut lowered.graph, &exprs);
        let case = Case::new(&program, 6, 1.0, 3);
        case.token(&program, |token| {
            let upstream = &case.upstream;
            let leaves = crate::interp::Leaves { upstream, coefs: &[] };
            let coefs: Vec<f64> = crate::interp::evaluate(&lowered.graph, &hoisted.coefs, token, &leaves)
                .iter()
                .map(|value| value.at(0))
                .collect();
            let direct = crate::interp::evaluate(&lowered.graph, &exprs, token, &leaves);
            let leaves = crate::interp::Leaves { upstream: &[], coefs: &coefs };
            let through = crate::interp::evaluate(&lowered.graph, &hoisted.exprs, token, &leaves);
            for j in 0..6 {
                for (a, b) in direct.iter().zip(&through) {
                    assert_eq!(a.at(j), b.at(j), "{}", program.name());
                }
            }
        });
        for id in lowered.graph.reachable(&hoisted.exprs) {
            let is_row = lowered.graph.kind(id) == Kind::Row;
            assert!(!is_row || matches!(lowered.graph.get(id), Node::Coef(_)), "{}", program.name());
        }
    }
}

#[test]
fn nothing_is_differentiated_when_nothing_is_wanted() {
    let lowered = lower(&gemma2(), &Wanted::default());
    assert_eq!(lowered.logit, Parts::default());
    assert!(lowered.cols.is_empty() && lowered.rows.is_empty() && lowered.scalars.is_empty());
    let upstream = lowered.graph.nodes().iter().any(|node| matches!(node, Node::Upstream(_)));
    assert!(!upstream);
    // lse, nll and the expectation; the target's logit is wanted by the gradient only.
    assert_eq!(lowered.stats.len(), 3);
}

#[test]
fn the_logit_and_the_target_are_ignored_among_wanted_inputs() {
    let program = loss("cross_entropy");
    let all = Wanted { logit: false, inputs: (0..3).map(InputId).collect() };
    let lowered = lower(&program, &all);
    assert!(lowered.cols.is_empty() && lowered.rows.is_empty() && lowered.scalars.is_empty());
}

#[test]
fn an_input_without_influence_has_the_gradient_zero() {
    let mut s = Sketch::new();
    let (x, w) = (s.x(), s.row("w"));
    let nll = s.nll(x);
    s.output("loss", nll);
    s.metric("w", w);
    let program = s.finish("unused");
    let lowered = lower(&program, &wants_all(&program));
    assert_eq!(lowered.graph.as_const(lowered.rows[0].1), Some(0.0));
}

#[test]
fn metrics_take_no_upstream_gradient_and_carry_none() {
    let mut s = Sketch::new();
    let x = s.x();
    let nll = s.nll(x);
    let (max, argmax) = (s.graph.node(Node::Max(x)), s.graph.node(Node::Argmax(x)));
    let square = s.mul(max, nll);
    s.output("loss", square);
    s.metric("best", argmax);
    let program = s.finish("with_metrics");
    let lowered = lower(&program, &wants_all(&program));
    assert!(!lowered.graph.nodes().contains(&Node::Upstream(1)));
    assert_eq!(lowered.outputs.len(), 2);
    let case = Case::new(&program, 5, 2.0, 2);
    let gradient = case.token(&program, |token| LoweredInterp::new(lowered).gradient(token, &case.upstream));
    // The maximum is held fixed: the gradient is max times that of the nll, which sums to 0.
    assert!(gradient.logit.iter().sum::<f64>().abs() < 1e-14);
}

#[test]
fn lowering_is_deterministic() {
    for program in losses() {
        let (a, b) = (lower(&program, &wants_all(&program)), lower(&program, &wants_all(&program)));
        assert_eq!(a.graph.nodes(), b.graph.nodes());
        assert_eq!((a.stats, a.outputs, a.logit), (b.stats, b.outputs, b.logit));
    }
}

#[test]
fn a_large_program_is_lowered_quickly() {
    let program = program("large", |s| {
        let (x, w) = (s.x(), s.row("w"));
        let mut loss = s.nll(x);
        for _ in 0..1000 {
            let square = s.mul(loss, loss);
            let sum = s.add(square, w);
            loss = s.un(crate::ir::UnaryOp::Tanh, sum);
            loss = s.add(loss, w);
        }
        loss
    });
    let start = std::time::Instant::now();
    let lowered = lower(&program, &wants_all(&program));
    assert!(!lowered.dump(&program).is_empty());
    assert!(start.elapsed().as_secs_f64() < 5.0, "took {:?}", start.elapsed());
}

#[test]
fn the_gradient_reads_like_mathematics() {
    let dump = |name: &str| {
        let program = loss(name);
        let logit = Wanted { logit: true, inputs: Vec::new() };
        lower(&program, &logit).dump(&program)
    };
    assert_eq!(
        dump("weighted"),
        "gradient of weighted
  let t1: Row = weight * g.loss
  p = softmax(x)
  loss = weight * nll(x)
  dL/dx = p * A + [j = y] * T
    A: Row = t1
    T: Row = -t1
    A[y]: Row = t1
    A[y] + T = 0
"
    );
    assert_eq!(
        dump("softcapped"),
        "gradient of softcapped
  let t1: Logit = tanh(x * (1 / cap))
  let z: Logit = cap * t1
  let t2: Row = tanh(x[y] / cap)
  let t3: Row = g.loss * (1 - t2 * t2)
  p = softmax(z)
  loss = nll(z)
  dL/dx = p * A + [j = y] * T
    A: Logit = g.loss * (1 - t1 * t1)
    T: Row = -t3
    A[y]: Row = t3
    A[y] + T = 0
"
    );
    assert_eq!(dump("smoothed_under_a_softcap").lines().last(), Some("    A[y] + T = 0"),);
}

#[test]
fn names_of_a_dump_do_not_collide_with_inputs() {
    let program = program("named_like_the_dump", |s| {
        let (x, t1, z) = (s.x(), s.row("t1"), s.col("z"));
        let biased = s.add(x, z);
        let nll = s.nll(biased);
        let square = s.mul(nll, nll);
        s.mul(t1, square)
    });
    let dump = lower(&program, &wants_all(&program)).dump(&program);
    assert!(dump.contains("let z_: Logit = x + z"), "{dump}");
    assert!(dump.contains("let t1_: Row = nll(z_)"), "{dump}");
}
