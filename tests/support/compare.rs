//! Errors, tolerances, and a report of the worst.
//!
//! The error of a result is `||found - expected|| / (||expected|| + floor)`, in f64. Tolerances:
//!
//! | | f32 | f16 | bf16 | why |
//! |---|---|---|---|---|
//! | outputs | 4e-6 | 4e-6 | 4e-6 | fp32 sums over exact products of the rounded inputs |
//! | dE, dC | 1e-5 | 1e-3 | 4e-3 | dL/dx is rounded once to the type, the result once |
//! | one row of them, or few tokens | 1e-4 | 4e-3 | 3e-2 | few terms, which may cancel |
//! | inputs' gradients | 3e-5 | 3e-5 | 3e-5 | fp32 sums of fp32 terms, never rounded to the type |
//!
//! The floor lets through what fp32 cannot resolve where the terms of a result cancel: 2^-22 of the terms'
//! size ([`Sizes`]), and half a step of f16's subnormal numbers.

use super::case::Case;
use super::device::{Bench, Choice};
use super::expected::{Expected, Sizes};
use super::run::{Buffers, Found, Mode, stream};
use super::{Data, numbers};
use cce::{DType, Plan};
use std::collections::BTreeMap;

/// The part of a result's terms that fp32 does not resolve.
const UNRESOLVED: f64 = 1.0 / (1 << 22) as f64;

/// One number that must be small.
#[derive(Clone, Debug)]
pub struct Measure {
    pub metric: &'static str,
    pub error: f64,
    pub tolerance: f64,
    pub case: String,
}

/// What was measured, and what went wrong altogether.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub measures: Vec<Measure>,
    pub failures: Vec<String>,
    /// Cases that ran.
    pub cases: usize,
}

impl Report {
    pub fn add(&mut self, other: Report) {
        self.measures.extend(other.measures);
        self.failures.extend(other.failures);
        self.cases += other.cases;
    }

    pub fn fail(&mut self, case: &str, what: impl std::fmt::Display) {
        self.failures.push(format!("{case}: {what}"));
    }

    /// Records an error, and a failure if it is too large.
    pub fn check(&mut self, metric: &'static str, error: f64, tolerance: f64, case: &str) {
        if error.is_nan() || error > tolerance {
            self.fail(case, format!("{metric}: error {error:.2e}, tolerance {tolerance:.0e}"));
        }
        self.measures.push(Measure { metric, error, tolerance, case: case.to_owned() });
    }

    /// The ten worst cases of each metric, one a line.
    pub fn worst(&self) -> String {
        let mut by_metric: BTreeMap<&str, Vec<&Measure>> = BTreeMap::new();
        for measure in &self.measures {
            by_metric.entry(measure.metric).or_default().push(measure);
        }
        let mut text = String::new();
        for (metric, mut measures) in by_metric {
            let part = |measure: &Measure| measure.error / measure.tolerance;
            measures.sort_by(|a, b| part(b).total_cmp(&part(a)));
            text += &format!("{metric} ({} measured)\n", measures.len());
            for Measure { error, tolerance, case, .. } in measures.into_iter().take(10) {
                text += &format!("  {error:9.2e} of {tolerance:.0e}  {case}\n");
            }
        }
        text
    }

    /// The failures, the first of them in full, with the seed that repeats them; `None` if there is none.
    pub fn complaint(&self) -> Option<String> {
        const SHOWN: usize = 40;
        if self.failures.is_empty() {
            return None;
        }
        let shown: Vec<&str> = self.failures.iter().take(SHOWN).map(String::as_str).collect();
        let rest = self.failures.len().saturating_sub(SHOWN);
        let more = if rest > 0 { format!("\n... and {rest} more") } else { String::new() };
        Some(format!(
            "{} failures (repeat with CCE_TEST_SEED={}):\n{}{more}",
            self.failures.len(),
            numbers::run_seed(),
            shown.join("\n")
        ))
    }

    /// Panics with the complaint, if there is one.
    #[track_caller]
    pub fn assert(&self) {
        if let Some(complaint) = self.complaint() {
            panic!("{complaint}");
        }
        assert!(self.cases > 0, "no case ran");
    }
}

/// The tolerance of an output.
const OUTPUTS: f64 = 4e-6;

/// The tolerance of the gradient of a Row, Col or Scalar input.
const INPUTS: f64 = 3e-5;

/// The tolerances of dE or dC: of the whole, and of its worst row.
struct Tolerances {
    gradients: f64,
    row: f64,
}

impl Tolerances {
    /// Of a gradient delivered in `output`, from operands of `dtype`, over the tokens that count. The CPU
    /// device keeps dL/dx in fp32, a GPU rounds it to the type. In fp32 what remains is the rounding of the
    /// logits' own sums, D roundings of the size of the largest logits (four standard deviations), which is a
    /// probability's relative error.
    fn of(case: &Case, output: DType, on_gpu: bool, counted: usize) -> Tolerances {
        let dtype = case.dtype;
        let logits = (case.hidden as f64).sqrt() * 2f64.powi(-24) * 4.0 * case.spread;
        let (many, row) = match if on_gpu { dtype } else { output } {
            DType::F32 => (logits.max(1e-5), 10.0 * logits.max(1e-5)),
            DType::F16 => (1e-3, 4e-3),
            DType::Bf16 => (4e-3, 3e-2),
        };
        let few = dtype != DType::F32 && counted < 50;
        Tolerances { gradients: if few { row } else { many }, row }
    }
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

/// The error of one vector. What is not finite in the reference (an infinite loss) must be exactly that;
/// anything else that is not finite is an infinite error.
pub fn distance(found: &[f64], expected: &[f64], floor: f64) -> f64 {
    assert_eq!(found.len(), expected.len(), "as many values as the reference has");
    let (mut difference, mut size) = (0.0, 0.0);
    for (&found, &expected) in found.iter().zip(expected) {
        if !expected.is_finite() {
            let same = found == expected || (found.is_nan() && expected.is_nan());
            difference += if same { 0.0 } else { f64::INFINITY };
        } else if !found.is_finite() {
            difference = f64::INFINITY;
        } else {
            difference += (found - expected) * (found - expected);
            size += expected * expected;
        }
    }
    if difference == 0.0 { 0.0 } else { difference.sqrt() / (size.sqrt() + floor) }
}

/// The part of an element that a type cannot resolve however large its relative precision: half a step of
/// f16's subnormals.
fn step(dtype: DType) -> f64 {
    if dtype == DType::F16 { 2.0f64.powi(-25) } else { 0.0 }
}

/// Compares a result with the reference.
pub fn compare(
    report: &mut Report,
    label: &str,
    case: &Case,
    on_gpu: bool,
    expected: &Expected,
    found: &Found,
) {
    let Sizes { logit, .. } = expected.sizes;
    let root = |n: usize| (n as f64).sqrt();
    for (found, expected) in found.outputs.iter().zip(&expected.outputs) {
        if let Some(found) = found {
            let floor = UNRESOLVED / OUTPUTS * logit * root(case.tokens);
            report.check("outputs", distance(found, expected, floor), OUTPUTS, label);
        }
    }
    let reduced = found.reduced.iter().zip(&expected.reduced).zip(&expected.sizes.reduced);
    for ((found, &value), [cancelled, unresolved]) in reduced {
        if let Some(found) = *found {
            let floor = cancelled + UNRESOLVED / OUTPUTS * unresolved;
            report.check("reduced outputs", distance(&[found], &[value], floor), OUTPUTS, label);
        }
    }
    for (metric, by_row, found, wanted, row_sizes) in [
        (
            "dE",
            "dE, worst row",
            found.hidden.as_ref().zip(case.hidden_gradient),
            &expected.hidden,
            expected.sizes.hidden_rows.clone(),
        ),
        (
            "dC",
            "dC, worst row",
            found.classifier.as_ref().zip(case.classifier_gradient),
            &expected.classifier,
            vec![expected.sizes.classifier_row; case.vocab],
        ),
    ] {
        let Some((found, output)) = found else { continue };
        let Tolerances { gradients, row } = Tolerances::of(case, output.dtype, on_gpu, expected.counted);
        // Of all dC rows together, the terms are no larger than of one: each token adds to dL/dx what it
        // takes elsewhere.
        let together = match metric {
            "dE" => norm(row_sizes.iter().copied()),
            _ => expected.sizes.classifier_row,
        };
        let floor = UNRESOLVED / gradients * together + step(output.dtype) / gradients * root(found.len());
        report.check(metric, distance(found, wanted, floor), gradients, label);
        let rows = found.chunks(case.hidden).zip(wanted.chunks(case.hidden)).zip(row_sizes);
        let errors = rows.map(|((found, wanted), size)| {
            let floor = UNRESOLVED / row * size + step(output.dtype) / row * root(case.hidden);
            distance(found, wanted, floor)
        });
        report.check(by_row, errors.fold(0.0, f64::max), row, label);
    }
    for (((name, found), (other, wanted)), size) in
        found.inputs.iter().zip(&expected.inputs).zip(&expected.sizes.inputs)
    {
        assert_eq!(name, other);
        let floor = UNRESOLVED / INPUTS * size * root(wanted.len());
        let label = format!("d{name} of {label}");
        report.check("gradients of inputs", distance(found, wanted, floor), INPUTS, &label);
    }
}

/// Runs a case both ways and compares each with the reference; on a GPU both must be the same, bit by bit,
/// and again.
pub fn check_with(bench: &Bench, case: &Case, choice: Choice, data: &Data, expected: &Expected) -> Report {
    let mut report = Report { cases: 1, ..Report::default() };
    let label = format!("{} {case}", choice.name());
    let plan = match case.plan(bench, choice) {
        Ok(plan) => plan,
        Err(error) => {
            report.fail(&label, error);
            return report;
        }
    };
    if let Err(error) = in_every_mode(&mut report, &label, bench, case, &plan, data, expected) {
        report.fail(&label, error);
    }
    report
}

fn in_every_mode(
    report: &mut Report,
    label: &str,
    bench: &Bench,
    case: &Case,
    plan: &Plan,
    data: &Data,
    expected: &Expected,
) -> Result<(), String> {
    let on_gpu = bench.gpu().is_some();
    let stream = stream(bench)?;
    let stream = stream.as_ref();
    let mut buffers = Buffers::new(bench, case, data, plan)?;
    let mut before: Option<Found> = None;
    for (name, mode) in [("step", Mode::Step), ("forward, backward", Mode::Apart), ("step again", Mode::Step)]
    {
        let words = |error: String| format!("{name}: {error}");
        buffers.put(stream).map_err(words)?;
        let called = buffers.call(bench, case, plan, mode, stream, |call| call);
        called.map_err(|error| words(error.to_string()))?;
        let found = buffers.found(stream).map_err(words)?;
        // On the CPU, forward and backward apart compute the same in another order.
        let same = before.as_ref().filter(|_| on_gpu || name == "step again");
        if let Some(Err(difference)) = same.map(|before| before.same_bits(&found)) {
            report.fail(label, format!("{name}: {difference} from the step before"));
        }
        if name != "step again" {
            compare(report, label, case, on_gpu, expected, &found);
        }
        before.get_or_insert(found);
    }
    Ok(())
}

/// The same with fresh data.
pub fn check(bench: &Bench, case: &Case, choice: Choice) -> Report {
    let (data, expected) = case.prepare();
    check_with(bench, case, choice, &data, &expected)
}

#[cfg(test)]
mod tests {
    use super::super::programs;
    use super::*;

    /// A case, and what the reference says of it as if a device had found it.
    fn perfect(dtype: DType) -> (Case, Expected, Found) {
        // Always the same data: what is spoilt must not happen to be small.
        let case = Case::new(&programs::named("gemma2"), [60, 16, 50], dtype).with(|case| case.seed = 1);
        let (_, expected) = case.prepare();
        let found = Found {
            outputs: expected.outputs.iter().cloned().map(Some).collect(),
            reduced: expected.reduced.iter().copied().map(Some).collect(),
            hidden: Some(expected.hidden.clone()),
            classifier: Some(expected.classifier.clone()),
            inputs: expected.inputs.clone(),
            bits: Vec::new(),
        };
        (case, expected, found)
    }

    fn failures(case: &Case, expected: &Expected, found: &Found) -> Vec<String> {
        let mut report = Report::default();
        compare(&mut report, "it", case, true, expected, found);
        report.failures
    }

    #[test]
    fn a_wrong_row_a_wrong_token_and_nan_are_noticed() {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            let (case, expected, found) = perfect(dtype);
            assert!(failures(&case, &expected, &found).is_empty());
            let noticed = |what: &str, spoil: &dyn Fn(&mut Found)| {
                let mut found = found.clone();
                spoil(&mut found);
                let failures = failures(&case, &expected, &found);
                assert!(failures.iter().any(|failure| failure.contains(what)), "{what}: {failures:?}");
            };
            let scale = |values: &mut Option<Vec<f64>>, by: f64| {
                values.as_mut().unwrap().iter_mut().for_each(|value| *value *= by);
            };
            noticed("dE", &|found| scale(&mut found.hidden, 1.01));
            noticed("dC", &|found| scale(&mut found.classifier, 1.01));
            noticed("dE, worst row", &|found| found.hidden.as_mut().unwrap()[16..32].fill(0.0));
            noticed("dC, worst row", &|found| found.classifier.as_mut().unwrap()[32..48].fill(0.0));
            noticed("dE", &|found| found.hidden.as_mut().unwrap()[5] = f64::NAN);
            noticed("dC", &|found| found.classifier.as_mut().unwrap()[5] = f64::INFINITY);
            noticed("outputs", &|found| found.outputs[0].as_mut().unwrap()[3] *= 1.0 + 1e-3);
            noticed("outputs", &|found| scale(&mut found.outputs[1], 1.0 + 1e-4));
            noticed("reduced", &|found| found.reduced[1] = found.reduced[1].map(|x| x * (1.0 + 1e-4)));
            noticed("inputs", &|found| found.inputs[0].1[7] += 0.01);
        }
    }

    #[test]
    fn a_value_that_the_reference_has_infinite_must_be_infinite() {
        assert_eq!(distance(&[f64::INFINITY, 1.0], &[f64::INFINITY, 1.0], 0.0), 0.0);
        assert_eq!(distance(&[3.0], &[f64::INFINITY], 0.0), f64::INFINITY);
        assert_eq!(distance(&[f64::NAN], &[0.0], 1.0), f64::INFINITY);
    }
}
