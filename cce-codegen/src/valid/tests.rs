//! One mistake a test: what the user reads.

use super::*;
use crate::ir::{BinaryOp, Cmp, InputKind, Kind, Node, Program, UnaryOp};

const HERE: Site = Site(0);

/// A program over x: Logit, y: Target, w: Row, b: Col, s: Scalar; built by `body`, whose value is
/// the output `loss`.
fn build(body: impl FnOnce(&mut ProgramBuilder, [Value; 5]) -> Value) -> Result<Program, Vec<Diagnostic>> {
    let mut builder = ProgramBuilder::new(HERE, "test");
    let x = builder.input(Site(1), "x", InputKind::Logit);
    let y = builder.input(Site(2), "y", InputKind::Target);
    let w = builder.input(Site(3), "w", InputKind::Row);
    let b = builder.input(Site(4), "b", InputKind::Col);
    let s = builder.input(Site(5), "s", InputKind::Scalar);
    let loss = body(&mut builder, [x, y, w, b, s]);
    // Every input is read, so that a test's one mistake is its only one.
    let all = [(x, y), (b, y)].map(|(f, y)| builder.at(HERE, f, y));
    let all = builder.add(HERE, all[0], all[1]);
    let all = builder.mul(HERE, all, w);
    let all = builder.mul(HERE, all, s);
    builder.output(HERE, "loss", loss);
    builder.output(HERE, "rest", all);
    builder.finish()
}

/// The only message and help of a body with one mistake.
#[track_caller]
fn mistake(body: impl FnOnce(&mut ProgramBuilder, [Value; 5]) -> Value) -> (String, String) {
    let errors = build(body).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    (errors[0].message.clone(), errors[0].help.clone().unwrap_or_default())
}

#[test]
fn a_shared_subexpression_is_one_node() {
    let program = build(|b, [x, y, ..]| {
        let (l, again) = (b.lse(HERE, x), b.lse(HERE, x));
        let square = b.mul(HERE, l, again);
        let at = b.at(HERE, x, y);
        b.sub(HERE, square, at)
    });
    let program = program.unwrap();
    assert_eq!(program.nodes().iter().filter(|node| matches!(node, Node::Lse(_))).count(), 1);
    assert!(program.outputs().iter().all(|output| output.differentiable));
}

#[test]
fn operands_stand_before_their_users_and_nothing_unused_is_kept() {
    let program = build(|b, [x, _, w, ..]| {
        let unused = b.lse(HERE, x);
        b.add(HERE, unused, w);
        b.lse(HERE, x)
    });
    let program = program.unwrap();
    for (at, node) in program.nodes().iter().enumerate() {
        assert!(node.operands().all(|operand| operand.index() < at));
    }
    let graph = program.graph();
    let outputs: Vec<_> = program.outputs().iter().map(|output| output.expr).collect();
    assert_eq!(graph.reachable(&outputs).len(), program.nodes().len());
}

#[test]
fn the_order_of_writing_does_not_change_the_program() {
    let forwards = build(|b, [x, y, ..]| {
        let l = b.lse(HERE, x);
        let at = b.at(HERE, x, y);
        b.sub(HERE, l, at)
    });
    let backwards = build(|b, [x, y, ..]| {
        let at = b.at(HERE, x, y);
        let l = b.lse(HERE, x);
        b.sub(HERE, l, at)
    });
    assert_eq!(forwards, backwards);
}

#[test]
fn a_logit_is_no_output_and_the_hint_lists_the_reductions() {
    let (message, help) = mistake(|b, [x, _, w, ..]| b.mul(HERE, x, w));
    assert_eq!(
        message,
        "the output `loss` needs a Row, one value a token, and `x * w` is a Logit, \
         one value for every token and vocabulary entry (x: Logit, w: Row)"
    );
    assert!(help.contains("`at(x * w, y)`") && help.contains("`mean(x * w)`"), "{help}");
}

#[test]
fn a_loss_that_forgets_at_is_shown_where_it_goes() {
    let (_, help) = mistake(|b, [x, ..]| {
        let l = b.lse(HERE, x);
        b.sub(HERE, l, x)
    });
    assert_eq!(help, "read the logits at the target: `lse(x) - at(x, y)`");
}

#[test]
fn a_row_cannot_be_reduced() {
    let (message, help) = mistake(|b, [_, _, w, ..]| b.mean(HERE, w));
    assert_eq!(message, "`w` is a Row, one value a token: there is no vocabulary to take the mean over");
    assert_eq!(help, "write `w` alone, or reduce a Logit or Col");
}

#[test]
fn a_reduction_inside_a_mean_is_expanded() {
    let (message, help) = mistake(|b, [x, ..]| {
        let l = b.lse(HERE, x);
        let shifted = b.sub(HERE, x, l);
        b.mean(HERE, shifted)
    });
    assert_eq!(message, "`lse(x)` is a reduction inside the argument of `mean`");
    assert_eq!(help, "write `mean(x) - lse(x)`, which is the same");
}

#[test]
fn a_square_around_a_reduction_is_multiplied_out() {
    let (_, help) = mistake(|b, [x, ..]| {
        let l = b.lse(HERE, x);
        let shifted = b.sub(HERE, x, l);
        let square = b.mul(HERE, shifted, shifted);
        b.expect(HERE, x, square)
    });
    assert_eq!(
        help,
        "write `expect(x, x * x) - expect(x, x) * lse(x) - lse(x) * (expect(x, x) - lse(x))`, \
         which is the same"
    );
}

#[test]
fn a_probability_written_out_is_an_expectation() {
    let (_, help) = mistake(|b, [x, ..]| {
        let l = b.lse(HERE, x);
        let log_p = b.sub(HERE, x, l);
        let p = b.unary(HERE, UnaryOp::Exp, log_p);
        let term = b.mul(HERE, p, log_p);
        b.mean(HERE, term)
    });
    assert!(help.contains("`expect(x, f)`"), "{help}");
}

#[test]
fn two_softmaxes_are_refused_and_both_places_named() {
    let errors = build(|b, [x, _, _, bias, _]| {
        let z = b.add(HERE, x, bias);
        let (first, second) = (b.lse(Site(10), x), b.lse(Site(11), z));
        b.sub(HERE, first, second)
    });
    let errors = errors.unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!((errors[0].site, errors[0].related), (Site(11), Some(Site(10))));
    assert_eq!(errors[0].message, "two softmaxes in one loss: over `x + b` here, over `x` before");
}

#[test]
fn a_softmax_needs_the_logit() {
    let (message, help) = mistake(|b, [_, _, _, bias, _]| b.lse(HERE, bias));
    assert_eq!(message, "`b` does not depend on the logit `x`, so it has no softmax");
    assert_eq!(help, "take the lse of a value made from `x`");
    let (_, help) = mistake(|b, [x, _, _, bias, _]| b.expect(HERE, bias, x));
    assert_eq!(help, "the softmax's logits come first: `expect(x, ...)`");
}

#[test]
fn a_target_is_not_a_number() {
    let (message, help) = mistake(|b, [_, y, w, ..]| b.add(HERE, y, w));
    assert_eq!(message, "`y` is a Target, an index into the vocabulary, not a number");
    assert_eq!(help, "read a value at it: `at(..., y)`");
}

#[test]
fn at_says_that_its_arguments_are_swapped() {
    let (_, help) = mistake(|b, [x, y, ..]| b.at(HERE, y, x));
    assert_eq!(help, "write `at(x, y)`");
}

#[test]
fn at_reads_at_nothing_but_a_target() {
    let (message, help) = mistake(|b, [x, _, w, ..]| b.at(HERE, x, w));
    assert_eq!(message, "`at` reads at a Target, and `w` is a Row");
    assert_eq!(help, "the loss's Target is `y`");
}

#[test]
fn an_unknown_function_is_guessed_at() {
    let (message, help) = mistake(|b, [x, ..]| b.call(HERE, HERE, "expm", &[x]));
    assert_eq!(message, "there is no function `expm` in a loss");
    assert_eq!(help, "did you mean `exp(a)`?");
    let (_, help) = mistake(|b, [x, ..]| b.call(HERE, HERE, "logsumexp", &[x]));
    assert_eq!(help, "write `lse(z)`");
}

#[test]
fn a_wrong_number_of_arguments_is_counted() {
    let (message, help) = mistake(|b, [x, ..]| b.call(HERE, HERE, "at", &[x]));
    assert_eq!(message, "`at` takes two arguments, and 1 is given");
    assert_eq!(help, "write `at(x, y)`");
    let (message, _) = mistake(|b, [x, y, w, ..]| b.call(HERE, HERE, "max", &[x, y, w]));
    assert_eq!(message, "`max` takes one argument or two, and 3 are given");
}

#[test]
fn every_function_can_be_called_as_its_usage_says() {
    for function in FUNCTIONS {
        let arguments = function.usage.matches(',').count() + 1;
        let program = build(|b, [x, y, ..]| {
            let arguments = match function.name {
                "at" => vec![x, y],
                _ => vec![x; arguments],
            };
            let value = b.call(HERE, HERE, function.name, &arguments);
            let row = match b.kind(value) {
                Some(Kind::Logit) => b.mean(HERE, value),
                _ => value,
            };
            let lse = b.lse(HERE, x);
            b.add(HERE, row, lse)
        });
        assert!(program.is_ok(), "{}: {program:?}", function.name);
    }
}

#[test]
fn all_mistakes_are_reported_and_none_twice() {
    let errors = build(|b, [x, y, w, ..]| {
        let wrong = b.add(HERE, y, w);
        let follows = b.lse(HERE, wrong);
        let unknown = b.lookup(Site(7), "q");
        let sum = b.add(HERE, follows, unknown);
        let mean = b.mean(Site(8), w);
        let max = b.max(HERE, x);
        let sum = b.add(HERE, sum, mean);
        b.add(HERE, sum, max)
    });
    let sites: Vec<_> = errors.unwrap_err().into_iter().map(|error| error.site.0).collect();
    assert_eq!(sites, [2, 7, 3]);
}

#[test]
fn a_loss_without_gradient_is_refused_and_another_output_is_not() {
    let (message, _) = mistake(|b, [x, ..]| b.argmax(HERE, x));
    assert!(message.starts_with("`loss` is not differentiable"), "{message}");
    let program = build(|b, [x, ..]| {
        let argmax = b.argmax(HERE, x);
        b.output(HERE, "guess", argmax);
        b.lse(HERE, x)
    });
    let program = program.unwrap();
    let guess = program.outputs().iter().find(|output| output.name == "guess").unwrap();
    assert!(!guess.differentiable);
}

#[test]
fn a_comparison_alone_carries_no_gradient() {
    let (message, _) = mistake(|b, [x, y, w, ..]| {
        let (at, one, zero) = (b.at(HERE, x, y), b.constant(HERE, 1.0), b.constant(HERE, 0.0));
        b.select(HERE, (Cmp::Lt, at, w), one, zero)
    });
    assert!(message.contains("a comparison"), "{message}");
}

#[test]
fn a_constant_is_no_loss() {
    let (message, _) = mistake(|b, _| b.constant(HERE, 1.0));
    assert_eq!(message, "`loss` is a constant: no gradient can be taken");
}

#[test]
fn an_input_that_only_an_unused_value_reads_is_unused() {
    let mut b = ProgramBuilder::new(HERE, "test");
    let x = b.input(Site(1), "x", InputKind::Logit);
    let w = b.input(Site(2), "w", InputKind::Row);
    let y = b.input(Site(3), "y", InputKind::Target);
    b.at(HERE, x, y);
    let l = b.lse(HERE, x);
    b.mul(HERE, l, w);
    b.output(HERE, "loss", l);
    let errors = b.finish().unwrap_err();
    let messages: Vec<_> = errors.iter().map(|error| (error.site.0, error.message.as_str())).collect();
    assert_eq!(
        messages,
        [(2, "no output depends on the input `w`"), (3, "no output depends on the input `y`")]
    );
}

#[test]
fn a_program_without_inputs_and_outputs_says_both() {
    let errors = ProgramBuilder::new(HERE, "empty").finish().unwrap_err();
    let messages: Vec<_> = errors.into_iter().map(|error| error.message).collect();
    assert_eq!(messages, ["`empty` has no Logit among its inputs", "`empty` has no output"]);
}

#[test]
fn names_are_unique_and_ascii() {
    let mut b = ProgramBuilder::new(HERE, "test");
    let x = b.input(Site(1), "x", InputKind::Logit);
    b.input(Site(2), "x", InputKind::Row);
    b.input(Site(3), "x2", InputKind::Logit);
    b.input(Site(4), "größe", InputKind::Scalar);
    let l = b.lse(HERE, x);
    b.output(Site(5), "loss", l);
    b.output(Site(6), "loss", l);
    let errors = b.finish().unwrap_err();
    let messages: Vec<_> = errors.iter().map(|error| (error.site.0, error.message.as_str())).collect();
    assert_eq!(
        messages,
        [
            (2, "two inputs are named `x`"),
            (3, "`x2` is a second Logit; `x` is the first"),
            (4, "`größe` cannot be the name of an input"),
            (6, "two outputs are named `loss`"),
        ]
    );
}

#[test]
fn a_shadowed_name_is_written_out_in_messages() {
    let (message, _) = mistake(|b, [x, _, w, ..]| {
        let z = b.mul(HERE, x, w);
        b.bind("z", z);
        let z = b.lookup(HERE, "z");
        let two = b.constant(HERE, 2.0);
        let doubled = b.mul(HERE, z, two);
        b.bind("z", doubled);
        let product = b.lookup(HERE, "z");
        b.add(HERE, product, z)
    });
    assert!(message.contains("`z + x * w` is a Logit"), "{message}");
}

#[test]
fn names_of_a_closed_scope_are_gone() {
    let (message, help) = mistake(|b, [x, ..]| {
        b.enter();
        let l = b.lse(HERE, x);
        b.bind("inner", l);
        b.leave();
        b.lookup(HERE, "inner")
    });
    assert_eq!(message, "there is no value named `inner`");
    assert_eq!(help, "bind it with `let inner = ...;`, or make it an input: `inner: Scalar`");
}

#[test]
fn a_stated_kind_is_checked() {
    let (message, _) = mistake(|b, [x, ..]| {
        let l = b.lse(HERE, x);
        b.ascribe(HERE, x, Kind::Row);
        b.ascribe(HERE, l, Kind::Logit)
    });
    assert_eq!(message, "`x` is a Logit, not a Row");
}

#[test]
fn a_missing_target_is_asked_for() {
    let mut b = ProgramBuilder::new(HERE, "test");
    let x = b.input(HERE, "x", InputKind::Logit);
    let y = b.lookup_target(HERE, "y");
    let at = b.at(HERE, x, y);
    b.output(HERE, "loss", at);
    let errors = b.finish().unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].help.as_deref(), Some("add `y: Target` to the inputs"));
}

#[test]
fn an_unknown_target_is_answered_with_the_target_of_the_loss() {
    let (message, help) = mistake(|b, [x, ..]| {
        let q = b.lookup_target(HERE, "q");
        b.at(HERE, x, q)
    });
    assert_eq!(message, "there is no value named `q`");
    assert_eq!(help, "the loss's Target is `y`");
}

#[test]
fn an_input_that_a_mistake_may_stand_for_is_not_called_unused() {
    type Mistake = fn(&mut ProgramBuilder, Value) -> Value;
    let mistakes: [Mistake; 4] = [
        |b, _| b.lookup(HERE, "weigth"),
        |b, x| b.call(HERE, HERE, "nll", &[x]),
        |b, x| {
            let three = b.constant(HERE, 3.0);
            b.at(HERE, x, three)
        },
        |_, x| x,
    ];
    for (at, mistake) in mistakes.into_iter().enumerate() {
        let mut b = ProgramBuilder::new(HERE, "test");
        let x = b.input(HERE, "x", InputKind::Logit);
        b.input(HERE, "y", InputKind::Target);
        b.input(HERE, "weight", InputKind::Row);
        let loss = mistake(&mut b, x);
        b.output(HERE, "loss", loss);
        let errors = b.finish().unwrap_err();
        assert_eq!(errors.len(), 1, "mistake {at}: {errors:#?}");
    }
}

#[test]
fn a_logit_of_a_wrong_kind_is_not_called_missing() {
    let mut b = ProgramBuilder::new(HERE, "test");
    b.error(HERE, "`Logits` is not a kind of input", None);
    b.mistaken_input("x");
    let x = b.lookup(HERE, "x");
    let l = b.lse(HERE, x);
    b.output(HERE, "loss", l);
    assert_eq!(b.finish().unwrap_err().len(), 1);
}

#[test]
fn that_there_is_no_logit_is_said_once_and_beside_other_mistakes() {
    let mut b = ProgramBuilder::new(HERE, "test");
    let x = b.input(HERE, "x", InputKind::Col);
    let (l, unknown) = (b.lse(HERE, x), b.lookup(HERE, "unknown"));
    let loss = b.sub(HERE, l, unknown);
    b.output(HERE, "loss", loss);
    let messages: Vec<_> = b.finish().unwrap_err().into_iter().map(|error| error.message).collect();
    assert_eq!(messages, ["there is no value named `unknown`", "`test` has no Logit among its inputs"]);
}

#[test]
fn literals_are_finite() {
    let (message, _) = mistake(|b, _| b.constant(HERE, f64::INFINITY));
    assert_eq!(message, "the literal inf is not a finite number");
}

#[test]
fn a_value_of_another_program_is_an_error_not_a_mix_up() {
    let mut other = ProgramBuilder::new(HERE, "other");
    let foreign = other.input(HERE, "x", InputKind::Logit);
    let (message, _) = mistake(|b, _| b.lse(HERE, foreign));
    assert_eq!(message, "a value of another program is used here");
}

#[test]
fn a_deep_program_is_refused_without_overflowing_the_stack() {
    let errors = build(|b, [x, ..]| {
        let mut z = x;
        for _ in 0..100_000 {
            z = b.binary(HERE, BinaryOp::Add, z, x);
        }
        b.mean(HERE, z)
    });
    assert_eq!(errors.unwrap_err()[0].message, "`test` is too large");
}
