//! What any device must do with a call that is not an ordinary one: targets out of range, values that are not
//! finite, sure targets, callers at the same time.

use super::case::{Case, Reduction, Upstreams};
use super::compare::{Report, compare, distance};
use super::data::{Data, IGNORED};
use super::device::{Bench, Choice};
use super::expected::Expected;
use super::run::{Buffers, Found, Mode, run, stream};
use cce::{Error, IndexType, InputKind, Plan};
use std::sync::Barrier;

fn labelled(choice: Choice, case: &Case, what: &str) -> String {
    format!("{} {case}, {what}", choice.name())
}

/// Runs `test` on the plan of a case; what it returns as an error is a failure.
fn with_plan(
    bench: &Bench,
    case: &Case,
    choice: Choice,
    what: &str,
    test: impl FnOnce(&mut Report, &str, &Plan) -> Result<(), String>,
) -> Report {
    let mut report = Report { cases: 1, ..Report::default() };
    let label = labelled(choice, case, what);
    let done = case.plan(bench, choice).and_then(|plan| test(&mut report, &label, &plan));
    if let Err(error) = done {
        report.fail(&label, error);
    }
    report
}

/// Targets out of range: the outputs of their tokens are NaN; everything else is as if these tokens were
/// ignored, but for their own rows of dE and of Row inputs' gradients. A checked call names the first of them
/// and touches nothing.
pub fn out_of_range_targets(bench: &Bench, case: &Case, choice: Choice) -> Report {
    // The sum: a mean's divisor would count these tokens, which the reference does not.
    let case = case.clone().with(|case| {
        case.reduction = Reduction::Sum;
        case.upstreams = Upstreams::Both;
        case.ignored = Some(0.2);
    });
    with_plan(bench, &case, choice, "targets out of range", |report, label, plan| {
        let mut data = case.data();
        let vocab = case.vocab as i64;
        let wrong: &[i64] = match case.index {
            IndexType::I32 => &[-1, vocab, i32::MAX as i64, i32::MIN as i64, IGNORED - 1],
            // The last ones' lower halves would be in range.
            IndexType::I64 => &[-1, vocab, i64::MAX, i64::MIN, 1 << 32, (1 << 40) + 1, -(1 << 32)],
        };
        let bad: Vec<usize> = (0..wrong.len()).map(|k| 3 + k * (case.tokens - 4) / wrong.len()).collect();
        let mut as_ignored = data.clone();
        for (&token, &target) in bad.iter().zip(wrong) {
            data.targets[token] = target;
            as_ignored.targets[token] = IGNORED;
        }
        let mut expected = Expected::of(&case, &as_ignored);

        let mut found = run(bench, &case, &data, plan, Mode::Step)?;
        let is_bad = |token: usize| bad.contains(&token);
        for values in found.outputs.iter_mut().flatten() {
            for (token, value) in values.iter_mut().enumerate() {
                if is_bad(token) != value.is_nan() {
                    return Err(format!("token {token} with target {} gives {value}", data.targets[token]));
                }
                *value = if is_bad(token) { 0.0 } else { *value };
            }
        }
        if let Some(value) = found.reduced.iter().flatten().find(|value| !value.is_nan()) {
            return Err(format!("the sum of outputs of which some are NaN is {value}"));
        }
        found.reduced.fill(None);
        for token in bad.iter().copied() {
            let row = token * case.hidden..(token + 1) * case.hidden;
            if let Some(gradient) = &mut found.hidden {
                if let Some(value) = gradient[row.clone()].iter().find(|value| !value.is_nan()) {
                    return Err(format!("dE of token {token}, whose target is out of range, holds {value}"));
                }
                gradient[row.clone()].fill(0.0);
            }
            expected.hidden[row].fill(0.0);
        }
        for ((_, found), (name, expected)) in found.inputs.iter_mut().zip(&mut expected.inputs) {
            if case.program.inputs().iter().any(|input| input.name == *name && input.kind == InputKind::Row) {
                bad.iter().for_each(|&token| (found[token], expected[token]) = (0.0, 0.0));
            }
        }
        compare(report, label, &case, bench.gpu().is_some(), &expected, &found);

        let stream = stream(bench)?;
        let mut buffers = Buffers::new(bench, &case, &data, plan)?;
        buffers.put(stream.as_ref())?;
        let checked = |buffers: &mut Buffers| {
            buffers.call(bench, &case, plan, Mode::Step, stream.as_ref(), |call| call.check_targets(true))
        };
        match checked(&mut buffers) {
            Err(Error::TargetOutOfRange { row, target, .. }) if (row, target) == (bad[0], wrong[0]) => {}
            other => return Err(format!("a checked call, first bad row {}: {other:?}", bad[0])),
        }
        if buffers.found(stream.as_ref())?.bits.iter().any(|&byte| byte != 0xff) {
            return Err("a checked call with a bad target wrote to its outputs".to_owned());
        }
        buffers.replace(&case, &as_ignored);
        buffers.put(stream.as_ref())?;
        checked(&mut buffers).map_err(|error| format!("a checked call with good targets: {error}"))?;
        compare(
            report,
            label,
            &case,
            bench.gpu().is_some(),
            &Expected::of(&case, &as_ignored),
            &buffers.found(stream.as_ref())?,
        );
        Ok(())
    })
}

/// NaN and infinity in the inputs: nothing hangs; they reach the outputs of their tokens, and of no other.
pub fn values_that_are_not_finite(bench: &Bench, case: &Case, choice: Choice) -> Report {
    with_plan(bench, case, choice, "NaN and infinity", |_, _, plan| {
        let clean = case.data();
        let before = run(bench, case, &clean, plan, Mode::Step)?;
        for (what, value) in [("NaN", f64::NAN), ("inf", f64::INFINITY), ("-inf", f64::NEG_INFINITY)] {
            let mut data = clean.clone();
            let tokens = [0, case.tokens / 2, case.tokens - 1];
            for token in tokens {
                data.hidden[token * case.hidden + token % case.hidden] = value;
            }
            let found = run(bench, case, &data, plan, Mode::Step)?;
            let (Some(found), Some(before)) = (&found.outputs[0], &before.outputs[0]) else {
                return Err("the case has no rows".to_owned());
            };
            for (token, (found, before)) in found.iter().zip(before).enumerate() {
                let reached = tokens.contains(&token) && clean.counts(token);
                if reached == found.is_finite() {
                    return Err(format!("{what} in the hidden states: token {token} gives {found}"));
                }
                if !reached && found.to_bits() != before.to_bits() {
                    return Err(format!("{what} in the hidden states changed token {token}"));
                }
            }
            let mut data = clean.clone();
            data.classifier[(case.vocab / 2) * case.hidden] = value;
            let found = run(bench, case, &data, plan, Mode::Step)?;
            let losses = found.outputs[0].as_deref().unwrap_or_default();
            let counted = losses.iter().enumerate().filter(|(token, _)| clean.counts(*token));
            // An infinite logit that is not the largest is an ordinary probability of zero.
            let wrong = |loss: f64| if value.is_nan() { !loss.is_nan() } else { false };
            if let Some((token, loss)) =
                counted.map(|(token, &loss)| (token, loss)).find(|&(_, loss)| wrong(loss))
            {
                return Err(format!("{what} in the classifier: token {token} gives {loss}"));
            }
        }
        Ok(())
    })
}

/// Losses of targets that are almost certain keep their digits, token by token, and so do their rows of dE:
/// `lse - z_y` and `1 - p_y` as differences of rounded numbers would lose all of them.
pub fn sure_targets(bench: &Bench, case: &Case, choice: Choice) -> Report {
    // In fp32: such gradients are too small for f16.
    let case = case.clone().gradients(cce::DType::F32, false).with(|case| {
        case.reduction = Reduction::Sum;
        case.spread = 1.0;
    });
    // The targets' logits: from 12, a loss near 1e-2, to 30, a loss near 1e-10. Tokens share the scale of
    // dL/dx in f16, whose range ends before that.
    let surest = if case.dtype == cce::DType::F16 { 20.0 } else { 30.0 };
    with_plan(bench, &case, choice, "sure targets", |report, label, plan| {
        let mut data = case.data();
        let d = case.hidden;
        for (token, &target) in data.targets.iter().enumerate() {
            let row = &data.classifier[target as usize * d..][..d];
            let square: f64 = row.iter().map(|c| c * c).sum();
            let logit = 12.0 + (surest - 12.0) * token as f64 / case.tokens as f64;
            for (e, c) in data.hidden[token * d..][..d].iter_mut().zip(row) {
                *e = super::data::rounded(logit * c / square, case.dtype);
            }
        }
        let expected = Expected::of(&case, &data);
        let found = run(bench, &case, &data, plan, Mode::Step)?;
        let worst = |found: &[f64], expected: &[f64], width: usize| {
            let rows = found.chunks(width).zip(expected.chunks(width));
            rows.map(|(found, expected)| distance(found, expected, 0.0)).fold(0.0, f64::max)
        };
        for (found, expected) in found.outputs.iter().zip(&expected.outputs) {
            if let Some(found) = found {
                report.check("losses of sure targets, worst token", worst(found, expected, 1), 1e-4, label);
            }
        }
        if let Some(found) = &found.hidden {
            let tolerance = if case.dtype == cce::DType::F32 { 2e-4 } else { 2e-2 };
            let error = worst(found, &expected.hidden, d);
            report.check("dE of sure targets, worst row", error, tolerance, label);
        }
        Ok(())
    })
}

/// Several threads call one plan at the same time, each with its own buffers and data, and each gets the bits
/// that it gets alone.
pub fn callers_at_once(bench: &Bench, case: &Case, choice: Choice, threads: usize, calls: usize) -> Report {
    with_plan(bench, case, choice, &format!("{threads} threads"), |_, _, plan| {
        let data: Vec<Data> = (0..threads)
            .map(|thread| case.clone().with(|case| case.seed = case.seed.wrapping_add(thread as u64)).data())
            .collect();
        let alone: Vec<Found> =
            data.iter().map(|data| run(bench, case, data, plan, Mode::Step)).collect::<Result<_, _>>()?;
        let start = Barrier::new(threads);
        let call = |data: &Data, alone: &Found| -> Result<(), String> {
            // Nobody may be left waiting at the barrier: what can fail before it is looked at behind it.
            let made = stream(bench).and_then(|stream| Ok((stream, Buffers::new(bench, case, data, plan)?)));
            start.wait();
            let (stream, mut buffers) = made?;
            for at in 0..calls {
                let mode = if at % 2 == 0 { Mode::Step } else { Mode::Apart };
                buffers.put(stream.as_ref())?;
                buffers
                    .call(bench, case, plan, mode, stream.as_ref(), |call| call)
                    .map_err(|error| error.to_string())?;
                let found = buffers.found(stream.as_ref())?;
                // On the CPU, forward and backward apart compute the same in another order.
                if mode == Mode::Step || bench.gpu().is_some() {
                    alone.same_bits(&found).map_err(|difference| format!("call {at}: {difference}"))?;
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let running: Vec<_> =
                data.iter().zip(&alone).map(|(data, alone)| scope.spawn(|| call(data, alone))).collect();
            running.into_iter().try_for_each(|thread| match thread.join() {
                Ok(done) => done,
                Err(_) => Err("a thread panicked".to_owned()),
            })
        })
    })
}

/// `Plan::run`: host data in and out.
pub fn run_on_host_data(bench: &Bench, case: &Case, choice: Choice) -> Report {
    with_plan(bench, case, choice, "Plan::run", |report, label, plan| {
        let (mut data, _) = case.prepare();
        // The upstream gradient of `run` is 1 for the loss.
        for (at, scalar) in data.scalars.iter_mut().enumerate() {
            *scalar = (at == 0).then_some(1.0);
        }
        data.rows.fill(None);
        let expected = Expected::of(case, &data);
        let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let (hidden, classifier) = (narrow(&data.hidden), narrow(&data.classifier));
        let targets: Vec<i32> = data.targets.iter().map(|&y| y as i32).collect();
        let mut inputs = cce::Inputs::new(cce::View::host(&hidden), cce::View::host(&classifier));
        if case.has_target() {
            inputs = inputs.targets(cce::View::host(&targets));
        }
        for input in case.program.inputs() {
            let Some(values) = data.inputs.get(input.name.as_ref()) else { continue };
            inputs = match input.kind {
                InputKind::Row => inputs.row(&input.name, cce::View::host(values)),
                InputKind::Col => inputs.col(&input.name, cce::View::host(values)),
                _ => inputs.scalar(&input.name, values[0]),
            };
        }
        let call = cce::Call::new().reduction(case.token_reduction(data.divisor.into()));
        let result = plan.run(&inputs, &call).map_err(|error| error.to_string())?;
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
        let outputs = case.program.outputs().iter();
        let found = Found {
            outputs: outputs.map(|output| Some(wide(&result.outputs[output.name.as_ref()]))).collect(),
            reduced: vec![Some(result.loss)],
            hidden: Some(wide(&result.hidden_gradient)),
            classifier: Some(wide(&result.classifier_gradient)),
            inputs: case
                .input_gradients
                .iter()
                .map(|name| (name.clone(), wide(&result.input_gradients[name])))
                .collect(),
            bits: Vec::new(),
        };
        compare(report, label, case, bench.gpu().is_some(), &expected, &found);
        Ok(())
    })
}
