//! Stored problems on generated inputs, in a worker: what `verify` and `regret --measure` measure on.

use crate::Error;
use crate::arguments::Arguments;
use crate::data::HeadSource;
use crate::search::{Bench, Effort};
use crate::task::Task;
use crate::worker::{Job, RemoteBench, WorkerCommand};
use cce_codegen::problem::Problem;
use cce_codegen::schedule::Schedule;
use cce_runtime::Device;

/// How the inputs of stored problems are generated, and where they are measured.
pub(super) struct Generated<'a> {
    pub(super) worker: WorkerCommand,
    pub(super) seed: u64,
    /// Values of the losses' scalars.
    pub(super) scalars: &'a [(String, f32)],
}

impl Generated<'_> {
    /// A worker with the inputs of a task, and the problem as the device's plans have it; `first` is a schedule that can
    /// run the task, `slowest` ms the longest that is known to run.
    ///
    /// # Errors
    /// What of the scalars the loss does not have; why the schedule cannot run the task.
    pub(super) fn bench(
        &self,
        device: &Device,
        task: &Task,
        first: Schedule,
        slowest: f64,
    ) -> Result<(RemoteBench, Problem), Error> {
        // Wrong scalars are this caller's mistake, not the worker's.
        Arguments::new(&task.program, task.tokens, task.vocab, self.scalars)?;
        let problem = task.plan(device, first)?.problem().clone();
        let job = Job::new(task, self.scalars, HeadSource::Generated { seed: self.seed });
        let mut bench = RemoteBench::start(self.worker.clone(), job.on(device, &problem));
        // As long as a candidate that is timed beside these.
        bench.limit(Effort::default().limit(slowest));
        Ok((bench, problem))
    }
}
