//! What a sampled plan adds: the hot columns' bounds, the sampled walk, thinning; in the backward pass the
//! gathers of what was kept.

use super::build::{Common, blocks};
use super::operand::Operand;
use super::walk::Walk;
use super::{Arg, Buffer, Launch, Module, Region, WorkspaceLayout};
use crate::cuda::{self, STREAM_ROWS, Sampling, gather_threads};

/// The buffers of a sampled plan that forward and backward share.
pub(super) struct Sampled {
    sampling: Sampling,
    /// The walk over the cold columns.
    pub(super) cold: Walk,
    /// log2 of what is known of each row's normaliser.
    reference: Buffer,
    /// What the walk emits, and each segment's first tile and count.
    streams: Buffer,
    segments: Buffer,
    /// What thinning keeps: column and probability, by row within a stream's room.
    kept: Buffer,
    /// By row: the first entry within the stream's, and how many.
    starts: Buffer,
    counts: Buffer,
}

/// Scratch of the lists by column.
pub(super) struct Lists {
    counts: Buffer,
    block_sums: Buffer,
    starts: Buffer,
    cursors: Buffer,
    lists: Buffer,
}

impl Sampled {
    pub(super) fn plan(common: &Common<'_>, sampling: Sampling, workspace: &mut WorkspaceLayout) -> Sampled {
        let tile = &common.schedule.logits;
        let (tokens, vocab) = (common.problem.tokens as u64, common.problem.vocab);
        let cold = common.walk(sampling.cold_tiles(tile, vocab));
        let streams_of_a_block = common.rows_of_a_walk() / STREAM_ROWS;
        let entries = cold
            .most(|blocks, parts| blocks * streams_of_a_block * sampling.stream_entries(tile, vocab, parts));
        let segments = cold.most(|blocks, parts| blocks * streams_of_a_block * parts);
        let kept = tokens.div_ceil(STREAM_ROWS) * STREAM_ROWS * u64::from(sampling.max_entries);
        Sampled {
            sampling,
            cold,
            kept: workspace.take(Region::Held, kept * 8),
            starts: workspace.take(Region::Held, tokens * 4),
            counts: workspace.take(Region::Held, tokens * 4),
            reference: workspace.take(Region::Forward, tokens * 4),
            streams: workspace.take(Region::Forward, entries * 8),
            segments: workspace.take(Region::Forward, segments * 8),
        }
    }

    /// Partials of the hot columns' walk.
    pub(super) fn hot_partials(
        &self,
        common: &Common<'_>,
        statistics: usize,
        workspace: &mut WorkspaceLayout,
    ) -> Buffer {
        let walk = common.walk(self.sampling.hot_tiles(&common.schedule.logits));
        let rows = common.rows_of_a_walk();
        let partials = walk.most(|blocks, parts| rows * blocks * parts);
        workspace.take(Region::Forward, partials * statistics as u64 * 4)
    }

    /// Bounds from the hot columns, then the walk over the cold ones.
    pub(super) fn walk_launches(
        &self,
        common: &Common<'_>,
        holes: &cuda::Forward<'_>,
        [hot, partials]: [Buffer; 2],
        modules: &mut Vec<Module>,
        launches: &mut Vec<Launch>,
    ) {
        let (schedule, emitter) = (common.schedule, common.emitter());
        let tile = &schedule.logits;
        modules.push(Module {
            name: "sampled_rows",
            source: emitter.sampled_rows(&self.sampling, tile, holes),
            entries: vec!["bounds", "thin"],
            family: None,
        });
        modules.push(Module {
            name: "sampled_forward",
            source: emitter.sampled_forward(&self.sampling, tile, holes),
            entries: vec!["sampled_forward"],
            family: Some(schedule.family),
        });
        launches.push(Launch {
            module: modules.len() - 2,
            entry: "bounds",
            blocks: blocks(common.problem.tokens, 8),
            threads: 256,
            shared_bytes: 0,
            args: vec![
                common.packed_hidden.map_or(Arg::Hidden, Arg::Workspace),
                Arg::Classifier,
                Arg::Targets,
                common.order(),
                common.count(),
                Arg::Values,
                Arg::Workspace(hot),
                Arg::Workspace(partials),
                Arg::Workspace(self.reference),
                common.tokens(),
                Arg::Int(common.clusters as i32),
                common.group(),
            ],
        });
        launches.push(Launch {
            module: modules.len() - 1,
            entry: "sampled_forward",
            blocks: common.matrix_blocks(tile, common.problem.tokens, tile.n as usize),
            threads: tile.threads(schedule.family),
            shared_bytes: tile.shared_bytes(schedule.family),
            args: vec![
                common.hidden(Operand::LeftKMajor, tile),
                common.classifier(Operand::RightKMajor, tile),
                Arg::Targets,
                common.order(),
                common.count(),
                Arg::Seed,
                Arg::Workspace(common.saved),
                Arg::Workspace(self.reference),
                Arg::Workspace(partials),
                Arg::Workspace(self.streams),
                Arg::Workspace(self.segments),
                common.tokens(),
                common.group(),
            ],
        });
    }

    /// Thinning, once the normaliser is known. After [`Sampled::walk_launches`].
    pub(super) fn thinning(&self, common: &Common<'_>, modules: &[Module]) -> Launch {
        let tokens = common.problem.tokens;
        let mut lse = common.saved;
        let slot = common.slots.lse().and_then(|lse| common.slots.slot_of(lse)).unwrap_or(0);
        lse.offset += slot as u64 * tokens as u64 * 4;
        Launch {
            module: modules.iter().position(|module| module.name == "sampled_rows").unwrap_or(0),
            entry: "thin",
            blocks: blocks(tokens, STREAM_ROWS as usize),
            threads: 256,
            shared_bytes: 0,
            args: vec![
                Arg::Workspace(self.streams),
                Arg::Workspace(self.segments),
                Arg::Workspace(lse),
                common.order(),
                common.count(),
                Arg::Seed,
                Arg::Workspace(self.kept),
                Arg::Workspace(self.starts),
                Arg::Workspace(self.counts),
                common.tokens(),
                Arg::Int(common.clusters as i32),
                common.group(),
            ],
        }
    }

    fn cold_columns(&self, common: &Common<'_>) -> usize {
        common.problem.vocab - self.sampling.hot as usize
    }

    /// Room for the lists by column.
    pub(super) fn lists(&self, common: &Common<'_>, workspace: &mut WorkspaceLayout) -> Lists {
        let columns = self.cold_columns(common) as u64;
        let mut take = |bytes| workspace.take(Region::Backward, bytes);
        // Everything that was kept, and a target a token.
        let entries = self.kept.bytes + common.problem.tokens as u64 * 8;
        Lists {
            counts: take(columns * 4),
            block_sums: take(columns.div_ceil(1024) * 4),
            starts: take((columns + 1) * 4),
            cursors: take(columns * 4),
            lists: take(entries),
        }
    }

    /// dE and dC of the cold columns, after those of the hot ones. `coefs`, `sums`: coefficients a token, and
    /// the hot columns' dE.
    pub(super) fn gradient_launches(
        &self,
        common: &Common<'_>,
        holes: &cuda::Backward<'_>,
        lists: &Lists,
        [coefs, sums]: [Buffer; 2],
        scale: Option<Buffer>,
        modules: &mut Vec<Module>,
    ) -> Vec<Launch> {
        let (problem, tile) = (common.problem, &common.schedule.logits);
        let module = modules.len();
        modules.push(Module {
            name: "sampled_gradients",
            source: common.emitter().sampled_gradients(&self.sampling, tile, holes),
            entries: vec![
                "clear_columns",
                "count_columns",
                "column_blocks",
                "column_starts",
                "list_columns",
                "gather_hidden",
                "gather_classifier",
            ],
            family: None,
        });
        let columns = self.cold_columns(common);
        let launch =
            |entry, blocks, threads, args| Launch { module, entry, blocks, threads, shared_bytes: 0, args };
        let rows = blocks(problem.tokens, 8);
        let kept = Arg::Workspace(self.kept);
        let of_rows = [Arg::Workspace(self.starts), Arg::Workspace(self.counts)];
        let tokens = [Arg::Targets, common.order(), common.count()];
        let mut launches = Vec::new();
        if problem.hidden_gradient.is_some() {
            let mut args = vec![kept];
            args.extend(of_rows);
            args.extend(tokens);
            args.extend([
                Arg::Values,
                Arg::Workspace(coefs),
                scale.map_or(Arg::Null, Arg::Workspace),
                Arg::Classifier,
                Arg::Workspace(sums),
                Arg::HiddenGradient,
                common.tokens(),
            ]);
            launches.push(launch(
                "gather_hidden",
                blocks(problem.tokens, 1),
                gather_threads(problem.hidden),
                args,
            ));
        }
        if problem.classifier_gradient.is_some() {
            let [counts, block_sums, starts, cursors] =
                [lists.counts, lists.block_sums, lists.starts, lists.cursors].map(Arg::Workspace);
            launches.push(launch("clear_columns", blocks(columns, 1024), 1024, vec![counts]));
            let mut args = vec![kept];
            args.extend(of_rows);
            args.extend(tokens);
            args.extend([counts, common.tokens()]);
            launches.push(launch("count_columns", rows, 256, args));
            launches.push(launch("column_blocks", blocks(columns, 1024), 1024, vec![counts, block_sums]));
            let args = vec![counts, block_sums, starts, cursors];
            launches.push(launch("column_starts", blocks(columns, 1024), 1024, args));
            let mut args = vec![kept];
            args.extend(of_rows);
            args.extend(tokens);
            args.extend([
                Arg::Values,
                Arg::Workspace(coefs),
                cursors,
                Arg::Workspace(lists.lists),
                common.tokens(),
            ]);
            launches.push(launch("list_columns", rows, 256, args));
            let hidden = common.packed_hidden.map_or(Arg::Hidden, Arg::Workspace);
            let args = vec![Arg::Workspace(lists.lists), starts, hidden, Arg::ClassifierGradient];
            launches.push(launch(
                "gather_classifier",
                blocks(columns, 1),
                gather_threads(problem.hidden),
                args,
            ));
        }
        launches
    }
}
