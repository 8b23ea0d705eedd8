//! The forward pass: pack, walk over the logits, merge, reduce over tokens.

use super::build::{Common, blocks};
use super::{Arg, Buffer, Launch, Module, Region, WorkspaceLayout};
use crate::cuda;

pub(super) struct Forward {
    pub(super) launches: Vec<Launch>,
    pub(super) output_rows: Buffer,
    pub(super) check_targets: Option<Launch>,
    pub(super) bad_target: Buffer,
    /// What the walk accumulates, f32 a token.
    pub(super) statistics: usize,
}

impl Forward {
    pub(super) fn plan(
        common: &Common<'_>,
        workspace: &mut WorkspaceLayout,
        modules: &mut Vec<Module>,
    ) -> Forward {
        let (problem, schedule) = (common.problem, common.schedule);
        let tokens = problem.tokens as u64;
        let outputs = common.program.outputs().len();
        let holes = cuda::Forward::new(common.lowered, common.slots);
        let emitter = common.emitter();
        let walk = modules.len();
        modules.push(Module {
            name: "logits_forward",
            source: emitter.logits_forward(&schedule.logits, &holes),
            entries: vec!["logits_forward"],
            family: Some(schedule.family),
        });
        let rows = modules.len();
        modules.push(Module {
            name: "rows_forward",
            source: emitter.rows_forward(outputs, &holes),
            entries: vec!["pack", "merge", "check_targets", "reduce_tokens"],
            family: None,
        });

        let partials =
            workspace.take(Region::Forward, u64::from(schedule.splits) * holes.stats() as u64 * tokens * 4);
        let output_rows = workspace.take(Region::Forward, outputs as u64 * tokens * 4);
        let bad_target = workspace.take(Region::Forward, 16);
        let check_targets = common.program.has_target().then(|| Launch {
            module: rows,
            entry: "check_targets",
            blocks: 1,
            threads: 1024,
            shared_bytes: 0,
            args: vec![Arg::Targets, Arg::Workspace(bad_target), common.tokens(), Arg::Ignore],
        });
        let tile = &schedule.logits;
        let mut launches = Vec::new();
        if let Some((order, count)) = common.packing {
            launches.push(Launch {
                module: rows,
                entry: "pack",
                blocks: 1,
                threads: 1024,
                shared_bytes: 0,
                args: vec![
                    Arg::Targets,
                    Arg::Ignore,
                    Arg::Workspace(order),
                    Arg::Workspace(count),
                    common.tokens(),
                ],
            });
        }
        launches.push(Launch {
            module: walk,
            entry: "logits_forward",
            blocks: blocks(problem.tokens, tile.m as usize) * schedule.splits,
            threads: tile.threads(schedule.family),
            shared_bytes: tile.shared_bytes(schedule.family),
            args: vec![
                Arg::Hidden,
                Arg::Classifier,
                Arg::Targets,
                common.order(),
                common.count(),
                Arg::Values,
                Arg::Workspace(common.saved),
                Arg::Workspace(partials),
                common.tokens(),
                Arg::Int(schedule.splits as i32),
                common.group(),
            ],
        });
        launches.push(Launch {
            module: rows,
            entry: "merge",
            blocks: blocks(problem.tokens, 128),
            threads: 128,
            shared_bytes: 0,
            args: vec![
                Arg::Workspace(partials),
                Arg::Targets,
                Arg::Values,
                Arg::OutputRows,
                Arg::Workspace(common.saved),
                common.tokens(),
                Arg::Int(schedule.splits as i32),
                Arg::Ignore,
            ],
        });
        launches.push(Launch {
            module: rows,
            entry: "reduce_tokens",
            blocks: 1,
            threads: 1024,
            shared_bytes: 0,
            args: vec![
                Arg::OutputRows,
                Arg::Reduced,
                Arg::Targets,
                Arg::Reduction,
                Arg::Workspace(common.factor),
                common.tokens(),
                Arg::Ignore,
            ],
        });
        Forward { launches, output_rows, check_targets, bad_target, statistics: holes.stats() }
    }
}
