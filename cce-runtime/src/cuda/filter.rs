//! Which filter a plan on a GPU has.

use crate::driver::Context;
use crate::error::{Error, Result};
use cce_codegen::ir::Program;
use cce_codegen::plan::{self, GpuPlan, PlanError};
use cce_codegen::problem::{Filter, Problem};
use cce_codegen::schedule::{Family, Gpu, GpuSchedule};

/// What the caller asked for.
pub(crate) struct Asked {
    /// The filter, if any was named.
    pub(crate) filter: Option<Filter>,
    /// The family of the schedule, if one was given.
    pub(crate) family: Option<Family>,
}

/// The filter: what was asked for, or the sampled default where the program allows it, else `Exact`,
/// which is said once.
///
/// # Errors
/// A filter that was asked for and is not possible.
pub(crate) fn decide_filter(
    context: &Context,
    program: &Program,
    problem: &Problem,
    asked: &Asked,
    notes: &mut Vec<String>,
) -> Result<Filter> {
    let with = |filter: Filter| Problem { filter, ..problem.clone() };
    if let Some(filter) = asked.filter {
        return match plan::refuses(program, &with(filter)) {
            None => Ok(filter),
            Some(reason) => Err(Error::FilterNotAllowed { filter: filter.to_string(), reason }),
        };
    }
    // What is not computed is not thinned.
    if problem.hidden_gradient.is_none() && problem.classifier_gradient.is_none() {
        return Ok(Filter::Exact);
    }
    let sampled = with(Filter::SAMPLED);
    let reason = plan::refuses(program, &sampled).or_else(|| {
        // A limit that an exact plan can meet is met.
        sampled.workspace_limit?;
        let gpu = Gpu::from(context.info());
        let schedule = match asked.family {
            Some(family) => GpuSchedule::of_family(family, program, &sampled, &gpu),
            None => GpuSchedule::default_for(program, &sampled, &gpu),
        };
        match GpuPlan::build(program, &sampled, &schedule, &gpu) {
            Err(error @ PlanError::Workspace { .. }) => Some(format!("sampled, {error}")),
            _ => None,
        }
    });
    Ok(match reason {
        None => Filter::SAMPLED,
        Some(reason) => {
            notes.push(format!("the filter is exact: {reason}"));
            Filter::Exact
        }
    })
}
