//! Whether what a plan computed is right: all of it beside the reference, and of a sampled gradient, which has noise,
//! whether it is an estimate without bias.

use super::buffers::OutputBuffers;
use super::{PlanBench, failure};
use crate::Error;
use crate::bench::sampled::{Bias, LARGE, Verdict};
use crate::bench::{Comparison, Memory, Tolerance};
use crate::search::Failure;
use cce_codegen::problem::Filter;
use cce_runtime::Plan;
use cce_tuning_db::Status;

/// What candidates are compared with: gradients, which are large, in the device's memory.
pub(super) struct Reference<B> {
    pub(super) reduced: f32,
    pub(super) outputs: Vec<(String, Vec<f32>)>,
    pub(super) gradients: Vec<B>,
}

impl<M: Memory> PlanBench<M> {
    /// What a run left, beside the reference.
    fn compared(&self, reference: &Reference<M::Buffer>) -> Result<Compared, Error> {
        let mut rest =
            vec![("the mean loss".to_owned(), Comparison::of(&[self.reduced()?], &[reference.reduced]))];
        for ((name, buffer), (_, expected)) in self.outputs.rows().zip(&reference.outputs) {
            let found = self.memory.download(buffer)?;
            rest.push((format!("output {name}"), Comparison::of(&found, expected)));
        }
        let gradients = self.outputs.gradients().zip(&reference.gradients);
        let gradients = gradients
            .map(|((name, buffer), expected)| Ok((name, self.memory.compare(buffer, expected)?)))
            .collect::<Result<_, Error>>()?;
        Ok(Compared { rest, gradients })
    }

    /// Runs a plan of this task on poisoned outputs and compares all of it with the reference, if there is one. Returns
    /// the worst relative error of a gradient.
    ///
    /// # Errors
    /// [`Status::Wrong`] where it is off by more than rounding and noise; what kept it from running.
    pub fn judge(&mut self, plan: &Plan) -> Result<f64, Failure> {
        let of = |error: Error| failure(&error);
        self.run_poisoned(plan, 0).map_err(of)?;
        let Some(reference) = self.reference.take() else { return Ok(0.0) };
        let judged = self.compared(&reference).map_err(of).and_then(|found| {
            let is_sampled = matches!(plan.problem().filter, Filter::Sampled { .. });
            match is_sampled && found.is_noisy(&self.tolerance) {
                true => self.judge_sampled(plan, &reference, found),
                false => found.judge(&self.tolerance),
            }
        });
        self.reference = Some(reference);
        judged
    }

    /// Whether what a run with seed 0 left, and was compared, is an estimate without bias, by runs with other seeds.
    fn judge_sampled(
        &mut self,
        plan: &Plan,
        reference: &Reference<M::Buffer>,
        found: Compared,
    ) -> Result<f64, Failure> {
        let of = |error: Error| failure(&error);
        let worst = found.worst();
        found.judge_but_noise(&self.tolerance)?;
        let mut biases = vec![Bias::default(); found.gradients.len()];
        let mut first = found;
        let mut pair = 0;
        loop {
            if pair > 0 {
                self.run_poisoned(plan, 2 * pair).map_err(of)?;
                first = self.compared(reference).map_err(of)?;
                first.judge_but_noise(&self.tolerance)?;
            }
            let between = self.run_beside(plan, 2 * pair + 1)?;
            let second = self.compared(reference).map_err(of)?;
            second.judge_but_noise(&self.tolerance)?;
            let pairs = first.gradients.iter().zip(&second.gradients).zip(&between);
            for (bias, (((_, a), (_, b)), between)) in biases.iter_mut().zip(pairs) {
                bias.add(*a, *b, *between);
            }
            if pair == 0 && worst > LARGE {
                self.judge_again(plan, &first, worst)?;
            }
            let (mut reasons, mut open) = (Vec::new(), false);
            for (bias, (name, _)) in biases.iter().zip(&first.gradients) {
                match bias.judge(name, self.tolerance.gradients) {
                    Verdict::Right => {}
                    Verdict::Open => open = true,
                    Verdict::Wrong(reason) => reasons.push(reason),
                }
            }
            match (reasons.is_empty(), open) {
                (false, _) => return Err(wrong(worst, reasons.join("; "))),
                (true, false) => return Ok(worst),
                (true, true) => pair += 1,
            }
        }
    }

    /// Whether another run with seed 1, which the last one had, computes the same gradients.
    fn judge_again(&mut self, plan: &Plan, found: &Compared, worst: f64) -> Result<(), Failure> {
        let again = self.run_beside(plan, 1)?;
        // What is not written the second time is no difference, but an error.
        let moved = found.gradients.iter().zip(&again).find(|(_, again)| again.error > 0.0);
        let Some(((name, _), again)) = moved else { return Ok(()) };
        let reason = match again.judge_written(name) {
            Ok(()) => format!("{name} differs by {:.1e} between two runs with one seed", again.error),
            Err(reason) => format!("{reason} in the second of two runs with one seed"),
        };
        Err(wrong(worst, reason))
    }

    /// Runs a plan beside what the last run left, and compares the gradients of both.
    fn run_beside(&mut self, plan: &Plan, seed: u64) -> Result<Vec<Comparison>, Failure> {
        let of = |error: Error| failure(&error);
        let others = match self.others.take() {
            Some(others) => others,
            // For want of room for what the check needs, no candidate is to blame.
            None => OutputBuffers::new(&self.memory, &self.task)
                .map_err(|error| Failure { blameless: true, ..failure(&error) })?,
        };
        let before = std::mem::replace(&mut self.outputs, others);
        let ran = self.run_poisoned(plan, seed);
        let pairs = self.outputs.gradients().zip(before.gradients());
        let compared: Result<Vec<Comparison>, Error> =
            pairs.map(|((_, now), (_, before))| self.memory.compare(now, before)).collect();
        self.others = Some(before);
        ran.and(compared).map_err(of)
    }
}

/// How close the vectors of a run are to the reference's.
struct Compared {
    rest: Vec<(String, Comparison)>,
    gradients: Vec<(String, Comparison)>,
}

impl Compared {
    /// The worst relative error of a gradient.
    ///
    /// # Errors
    /// [`Status::Wrong`], with every vector that is beyond its tolerance.
    fn judge(&self, tolerance: &Tolerance) -> Result<f64, Failure> {
        let rest = self.rest.iter().map(|found| (found, tolerance.outputs));
        let gradients = self.gradients.iter().map(|found| (found, tolerance.gradients));
        let reasons: Vec<String> = rest
            .chain(gradients)
            .filter_map(|((name, comparison), limit)| comparison.judge(name, limit).err())
            .collect();
        match reasons.is_empty() {
            true => Ok(self.worst()),
            false => Err(wrong(self.worst(), reasons.join("; "))),
        }
    }

    /// The worst relative error of a gradient.
    fn worst(&self) -> f64 {
        self.gradients.iter().fold(0.0f64, |worst, (_, comparison)| worst.max(comparison.error))
    }

    /// Whether a gradient is off by more than rounding.
    fn is_noisy(&self, tolerance: &Tolerance) -> bool {
        self.worst() > tolerance.gradients
    }

    /// As [`Compared::judge`], of all but how far gradients are off.
    fn judge_but_noise(&self, tolerance: &Tolerance) -> Result<(), Failure> {
        let rest = self.rest.iter().filter_map(|(name, found)| found.judge(name, tolerance.outputs).err());
        let gradients = self.gradients.iter().filter_map(|(name, found)| found.judge_written(name).err());
        let reasons: Vec<String> = rest.chain(gradients).collect();
        match reasons.is_empty() {
            true => Ok(()),
            false => Err(wrong(self.worst(), reasons.join("; "))),
        }
    }
}

/// A wrong result, with its worst relative error.
fn wrong(error: f64, reason: String) -> Failure {
    Failure { error: Some(error), ..Failure::new(Status::Wrong(reason)) }
}
