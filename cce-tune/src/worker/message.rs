//! What parent and worker say to each other: one request, one reply.

use super::Job;
use crate::phases::Phase;
use crate::search::Failure;
use cce_codegen::schedule::Schedule;
use cce_tuning_db::{Clocks, Resources, Status};
use serde::{Deserialize, Serialize};

/// From the parent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// The first one: make inputs and reference, and measure from now on.
    Bench(Box<Job>),
    /// The first one: compile from now on.
    Compiler(Box<Job>),
    Compile(Schedule),
    /// Build the schedule, if there is none under this number, and check it. Those in `gone` may go.
    Check {
        number: u64,
        schedule: Schedule,
        gone: Vec<u64>,
    },
    /// Build likewise, and time.
    Time {
        number: u64,
        schedule: Schedule,
        round: usize,
        gone: Vec<u64>,
    },
}

/// From the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// Where the time of the preparation went.
    Ready {
        phases: Vec<Phase>,
    },
    /// There can be no worker: no candidate is to blame.
    Refused {
        reason: String,
        /// Whether whoever stated task and inputs can mend it.
        mistake: bool,
    },
    Compiled(Option<Resources>),
    /// The bits of the error: JSON has no NaN.
    Checked {
        error: u64,
        resources: Option<Resources>,
        clocks: Option<Clocks>,
    },
    Timed {
        ms: f64,
        clocks: Option<Clocks>,
    },
    Failed(Failed),
}

/// A [`Failure`] on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Failed {
    status: Status,
    error: Option<u64>,
    resources: Option<Resources>,
    pub(super) fatal: bool,
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Failed {
        let Failure { status, error, resources, fatal, .. } = failure;
        Failed { status, error: error.map(f64::to_bits), resources, fatal }
    }
}

impl From<Failed> for Failure {
    /// The device is beyond use in the worker only, which is not kept.
    fn from(failed: Failed) -> Failure {
        let error = failed.error.map(f64::from_bits);
        Failure { error, resources: failed.resources, ..Failure::new(failed.status) }
    }
}
