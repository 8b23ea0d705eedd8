//! The forward pass: pack, walk over the logits, merge, reduce over tokens.

use super::build::{Common, blocks};
use super::operand::Operand;
use super::sampled::Sampled;
use super::skipped::Skipped;
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

/// Places of the forward pass's scratch.
pub(super) struct ForwardScratch {
    partials: Buffer,
    output_rows: Buffer,
    bad_target: Buffer,
}

impl ForwardScratch {
    pub(super) fn take(
        common: &Common<'_>,
        holes: &cuda::Forward<'_>,
        sampled: Option<&Sampled>,
        workspace: &mut WorkspaceLayout,
    ) -> ForwardScratch {
        let mut take = |bytes: u64| workspace.take(Region::Forward, bytes);
        ForwardScratch {
            partials: take(partials_of_a_statistic(common, sampled) * holes.stats() as u64 * 4),
            output_rows: take(common.program.outputs().len() as u64 * common.problem.tokens as u64 * 4),
            bad_target: take(16),
        }
    }
}

impl Forward {
    pub(super) fn plan(
        common: &Common<'_>,
        holes: &cuda::Forward<'_>,
        scratch: &ForwardScratch,
        (sampled, skipped): (Option<&Sampled>, Option<&Skipped>),
        modules: &mut Vec<Module>,
    ) -> Forward {
        let (problem, schedule) = (common.problem, &common.schedule);
        let outputs = common.program.outputs().len();
        let &ForwardScratch { partials, output_rows, bad_target } = scratch;
        let emitter = common.emitter();
        let walk = modules.len();
        modules.push(Module {
            name: "logits_forward",
            source: emitter.logits_forward(&schedule.logits, holes).into(),
            entries: vec!["logits_forward"],
            family: Some(schedule.family),
        });
        let rows = modules.len();
        modules.push(Module {
            name: "rows_forward",
            source: emitter.rows_forward(&schedule.logits, outputs, holes).into(),
            entries: ["pack", "merge", "check_targets", "reduce_tokens"]
                .into_iter()
                .chain(common.packed_hidden.map(|_| "pack_hidden"))
                .chain(skipped.map(|_| "decide"))
                .collect(),
            family: None,
        });

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
        if let Some(packed) = common.packed_hidden {
            launches.push(Launch {
                module: rows,
                entry: "pack_hidden",
                // Eight rows a block at a time, and a block takes a few.
                blocks: blocks(problem.tokens, 32),
                threads: 256,
                shared_bytes: 0,
                args: vec![
                    Arg::Hidden,
                    common.order(),
                    common.count(),
                    Arg::Workspace(packed),
                    common.tokens(),
                ],
            });
        }
        let mut args = vec![
            common.hidden(Operand::LeftByK, tile),
            common.classifier(Operand::RightByK, tile),
            Arg::Targets,
            common.order(),
            common.count(),
            Arg::Values,
            Arg::Workspace(common.saved),
            // The hot columns first, where the rest is sampled: then their partials are not yet the whole's.
            Arg::Workspace(sampled.map_or(partials, |sampled| sampled.hot_partials)),
            common.tokens(),
        ];
        args.extend(common.walk_args());
        args.push(skipped.map_or(Arg::Null, Skipped::maxima));
        let exchanged = skipped.map_or(0, |_| tile.exchanged_maxima(schedule.family));
        launches.push(Launch {
            module: walk,
            entry: "logits_forward",
            blocks: common.matrix_blocks(tile, problem.tokens, tile.n as usize) * schedule.splits,
            threads: tile.threads(schedule.family),
            shared_bytes: tile.shared_bytes(schedule.family) + exchanged,
            args,
        });
        let sampled = sampled
            .map(|sampled| (sampled, sampled.walk_launches(common, holes, partials, modules, &mut launches)));
        launches.push(Launch {
            module: rows,
            entry: "merge",
            blocks: blocks(problem.tokens, 128),
            threads: 128,
            shared_bytes: 0,
            args: vec![
                Arg::Workspace(partials),
                Arg::Targets,
                common.order(),
                common.count(),
                Arg::Values,
                Arg::OutputRows,
                Arg::Workspace(common.saved),
                common.tokens(),
                common.clusters_or_parts(sampled.map_or(1, |_| tile.bands(schedule.family))),
                common.group(),
            ],
        });
        if let Some((sampled, module)) = sampled {
            launches.push(sampled.thinning(common, module));
        }
        launches.extend(skipped.map(|skipped| skipped.decision(common, rows)));
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

/// Partials of one statistic, over all rows.
fn partials_of_a_statistic(common: &Common<'_>, sampled: Option<&Sampled>) -> u64 {
    let all = common.problem.vocab.div_ceil(common.schedule.logits.n as usize);
    let (walk, before) = sampled.map_or((common.walk(all, 1), 0), |sampled| (sampled.cold, 1));
    walk.most(|blocks, parts| walk.rows * blocks * (before + parts))
}
