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

/// The filter: what was asked for, or the sampled default where program and family allow it, else `Exact`,
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
    let gpu = Gpu::from(context.info());
    let with = |filter: Filter| Problem { filter, ..problem.clone() };
    let family = |problem: &Problem| {
        asked.family.unwrap_or_else(|| GpuSchedule::default_for(program, problem, &gpu).family)
    };
    let refused = |problem: &Problem, family: Family| {
        plan::refuses(program, problem, family).map(|reason| {
            // A better family would sample, but cannot run this problem here.
            let samples = matches!(problem.filter, Filter::Sampled { .. });
            let why =
                (samples && family != Family::Wgmma).then(|| Family::Wgmma.refuses(problem, &gpu)).flatten();
            why.map_or_else(|| reason.clone(), |why| format!("{reason}, which {why}"))
        })
    };
    if let Some(filter) = asked.filter {
        let problem = with(filter);
        return match refused(&problem, family(&problem)) {
            None => Ok(filter),
            Some(reason) => Err(Error::FilterNotAllowed { filter: filter.to_string(), reason }),
        };
    }
    // What is not computed is not thinned.
    if problem.hidden_gradient.is_none() && problem.classifier_gradient.is_none() {
        return Ok(Filter::Exact);
    }
    let sampled = with(Filter::SAMPLED);
    let family = family(&sampled);
    let reason = refused(&sampled, family).or_else(|| {
        // A limit that an exact plan can meet is met.
        sampled.workspace_limit?;
        let schedule = GpuSchedule::of_family(family, program, &sampled, &gpu);
        match GpuPlan::build(program, &sampled, &schedule, &gpu) {
            Err(error @ PlanError::Workspace { .. }) => Some(format!("sampled, {error}")),
            _ => None,
        }
    });
    Ok(match reason {
        None => Filter::SAMPLED,
        Some(reason) => {
            notes.push(format!("the filter is Exact: {reason}"));
            Filter::Exact
        }
    })
}
