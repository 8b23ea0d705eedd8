//! What a sampled plan adds: the hot columns' bounds, the sampled walk, thinning; in the backward pass the
//! gathers of what was kept.

use super::backward::partials_of_an_input;
use super::build::{Common, blocks};
use super::chunks::{ALIGN, Chunk, Place, gradient_bytes};
use super::operand::Operand;
use super::walk::Walk;
use super::{Arg, Buffer, KeptCounts, Launch, Module, Region, WorkspaceLayout};
use crate::cuda::{self, GATHERED_COLUMNS, STREAM_ROWS, Sampling, UNIFORM_BLOCKS, gather_threads};

/// The buffers of a sampled plan that forward and backward share.
pub(super) struct Sampled {
    sampling: Sampling,
    /// The walk over the cold columns.
    pub(super) cold: Walk,
    /// The log-sum-exp of each token, among the saved values.
    lse: Buffer,
    /// log2 of what is known of each row's normaliser.
    reference: Buffer,
    /// Partials of the hot columns' walk.
    pub(super) hot_partials: Buffer,
    /// What the walk emits, and each segment's first tile and count.
    streams: Buffer,
    segments: Buffer,
    /// What thinning keeps: column, probability, where it is needed the logit; by row within a stream's room.
    kept: Buffer,
    /// By row: the first entry within the stream's, and how many.
    starts: Buffer,
    counts: Buffer,
}

/// What the gathers read of a row: coefficients, the scale of the hot columns' part, and that part of dE.
pub(super) struct OfRows {
    pub(super) coefs: Buffer,
    pub(super) scale: Option<Buffer>,
    pub(super) sums: Option<Arg>,
}

/// Where the hot columns' scratch is.
pub(super) struct Hot {
    pub(super) chunk: Chunk,
    /// Where their fp32 part of dE is, if that is at the end of dC.
    pub(super) sums: Option<u64>,
}

impl Hot {
    /// At the end of dC, whose cold rows are written last, where they have the room; else in the workspace.
    pub(super) fn of(common: &Common<'_>, sampling: Sampling) -> Hot {
        let problem = common.problem;
        let width = sampling.hot as usize;
        let aligned = |bytes: u64| bytes.next_multiple_of(ALIGN);
        let columns = common.lowered.cols.len() as u64;
        let partials = aligned(columns * partials_of_an_input(problem, &common.schedule, width));
        let gradient = aligned(gradient_bytes(problem, width)) + partials;
        let sums = gradient + aligned((problem.tokens * problem.hidden * 4) as u64);
        let room = match problem.classifier_gradient {
            Some(out) if !out.accumulate => {
                (cold_columns(common, sampling) * problem.hidden * out.dtype.bytes()) as u64
            }
            _ => 0,
        };
        let fits = sums + 2 * ALIGN <= room;
        let place = if fits { Place::ClassifierTail { gradient, partials } } else { Place::Workspace };
        Hot { chunk: Chunk { first: 0, width, place }, sums: fits.then_some(sums) }
    }
}

fn cold_columns(common: &Common<'_>, sampling: Sampling) -> usize {
    common.problem.vocab - sampling.hot as usize
}

/// Scratch of the lists by column.
struct Lists {
    counts: Buffer,
    block_sums: Buffer,
    starts: Buffer,
    cursors: Buffer,
    /// Of dL/dx, then of each Col input's gradient.
    lists: Buffer,
    /// Bytes of one of them.
    of_a_gradient: u64,
    /// Of each Col input: the sum of the tokens' factors of its uniform part.
    uniform_rows: Buffer,
}

impl Lists {
    pub(super) fn take(
        common: &Common<'_>,
        sampling: Sampling,
        take: &mut impl FnMut(u64) -> Buffer,
    ) -> Lists {
        let columns = cold_columns(common, sampling) as u64;
        // Everything that was kept, and a target a token.
        let tokens = (common.problem.tokens as u64).next_multiple_of(STREAM_ROWS);
        let of_a_gradient = tokens * (u64::from(sampling.max_entries) + 1) * 8;
        let col_gradients = common.lowered.cols.len() as u64;
        Lists {
            counts: take(columns * 4),
            block_sums: take(columns.div_ceil(1024) * 4),
            starts: take((columns + 1) * 4),
            cursors: take(columns * 4),
            lists: take(of_a_gradient * (1 + col_gradients)),
            of_a_gradient,
            uniform_rows: take(col_gradients * 4),
        }
    }
}

/// Scratch of the uniform part of the gradient: the blocks' parts of a sum, and the sums over C and over E.
struct UniformSums {
    parts: Buffer,
    of_classifier: Buffer,
    of_hidden: Buffer,
}

impl UniformSums {
    pub(super) fn take(
        common: &Common<'_>,
        holes: &cuda::Backward<'_>,
        take: &mut impl FnMut(u64) -> Buffer,
    ) -> Option<UniformSums> {
        let row = common.problem.hidden as u64 * 4;
        holes.has_uniform_part().then(|| UniformSums {
            parts: take(u64::from(UNIFORM_BLOCKS) * row),
            of_classifier: take(row),
            of_hidden: take(row),
        })
    }
}

/// Scratch of the cold columns' gradients.
pub(super) struct Cold {
    lists: Lists,
    uniform: Option<UniformSums>,
}

impl Cold {
    pub(super) fn take(
        common: &Common<'_>,
        sampling: Sampling,
        holes: &cuda::Backward<'_>,
        take: &mut impl FnMut(u64) -> Buffer,
    ) -> Cold {
        let lists = Lists::take(common, sampling, take);
        Cold { lists, uniform: UniformSums::take(common, holes, take) }
    }
}

impl Sampled {
    pub(super) fn take(
        common: &Common<'_>,
        sampling: Sampling,
        statistics: usize,
        workspace: &mut WorkspaceLayout,
    ) -> Option<Sampled> {
        let lse = common.saved_lse()?;
        let tile = &common.schedule.logits;
        let (tokens, vocab) = (common.problem.tokens as u64, common.problem.vocab);
        let family = common.schedule.family;
        let cold = common.walk(sampling.cold_tiles(tile, vocab), tile.bands(family));
        let streams_of_a_block = cold.rows / STREAM_ROWS;
        let entries = cold.most(|blocks, parts| {
            blocks * streams_of_a_block * sampling.stream_entries(family, tile, vocab, parts)
        });
        let segments = cold.most(|blocks, parts| blocks * streams_of_a_block * parts);
        let hot = common.walk(sampling.hot_tiles(tile), 1);
        let hot_partials = hot.most(|blocks, parts| hot.rows * blocks * parts);
        let kept = tokens.div_ceil(STREAM_ROWS) * STREAM_ROWS * u64::from(sampling.max_entries);
        Some(Sampled {
            sampling,
            lse,
            cold,
            kept: workspace.take(Region::Held, kept * sampling.entry_bytes()),
            starts: workspace.take(Region::Held, tokens * 4),
            counts: workspace.take(Region::Held, tokens * 4),
            hot_partials: workspace.take(Region::Forward, hot_partials * statistics as u64 * 4),
            reference: workspace.take(Region::Forward, tokens * 4),
            streams: workspace.take(Region::Forward, entries * sampling.entry_bytes()),
            segments: workspace.take(Region::Forward, segments * 8),
        })
    }

    /// Where thinning counts what it keeps.
    pub(super) fn kept_counts(&self, common: &Common<'_>) -> KeptCounts {
        KeptCounts { of_rows: self.counts, rows: common.packing.map(|(_, count)| count) }
    }

    /// Bounds from the hot columns, then the walk over the cold ones. Returns the index of the module whose
    /// kernels surround the walk.
    pub(super) fn walk_launches(
        &self,
        common: &Common<'_>,
        holes: &cuda::Forward<'_>,
        partials: Buffer,
        modules: &mut Vec<Module>,
        launches: &mut Vec<Launch>,
    ) -> usize {
        let (schedule, emitter) = (&common.schedule, common.emitter());
        let tile = &schedule.logits;
        let rows = modules.len();
        modules.push(Module {
            name: "sampled_rows",
            source: emitter.sampled_rows(&self.sampling, tile, holes).into(),
            entries: vec!["bounds", "thin"],
            family: None,
        });
        modules.push(Module {
            name: "sampled_forward",
            source: emitter.sampled_forward(&self.sampling, tile, holes).into(),
            entries: vec!["sampled_forward"],
            family: Some(schedule.family),
        });
        launches.push(Launch {
            module: rows,
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
                Arg::Workspace(self.hot_partials),
                Arg::Workspace(partials),
                Arg::Workspace(self.reference),
                common.tokens(),
                common.clusters_or_parts(1),
                common.group(),
            ],
        });
        launches.push(Launch {
            module: rows + 1,
            entry: "sampled_forward",
            blocks: common.matrix_blocks(tile, common.problem.tokens, tile.n as usize) * schedule.splits,
            threads: tile.threads(schedule.family),
            shared_bytes: tile.shared_bytes(schedule.family),
            args: [
                common.hidden(Operand::LeftByK, tile),
                common.classifier(Operand::RightByK, tile),
                Arg::Targets,
                common.order(),
                common.count(),
                Arg::Values,
                Arg::Seed,
                Arg::Workspace(common.saved),
                Arg::Workspace(self.reference),
                Arg::Workspace(partials),
                Arg::Workspace(self.streams),
                Arg::Workspace(self.segments),
                common.tokens(),
            ]
            .into_iter()
            .chain(common.walk_args())
            .collect(),
        });
        rows
    }

    /// Thinning, once the normaliser is known, by a kernel of the module that surrounds the walk.
    pub(super) fn thinning(&self, common: &Common<'_>, module: usize) -> Launch {
        let tokens = common.problem.tokens;
        Launch {
            module,
            entry: "thin",
            blocks: blocks(tokens, STREAM_ROWS as usize),
            threads: 256,
            shared_bytes: 0,
            args: vec![
                Arg::Workspace(self.streams),
                Arg::Workspace(self.segments),
                Arg::Workspace(self.lse),
                common.order(),
                common.count(),
                Arg::Seed,
                Arg::Workspace(self.kept),
                Arg::Workspace(self.starts),
                Arg::Workspace(self.counts),
                common.tokens(),
                common.clusters_or_parts(common.schedule.logits.bands(common.schedule.family)),
                common.group(),
            ],
        }
    }

    /// dE and dC of the cold columns, after those of the hot ones.
    pub(super) fn gradient_launches(
        &self,
        common: &Common<'_>,
        holes: &cuda::Backward<'_>,
        Cold { lists, uniform }: &Cold,
        &OfRows { coefs, scale, sums }: &OfRows,
        modules: &mut Vec<Module>,
    ) -> Vec<Launch> {
        let (problem, tile) = (common.problem, &common.schedule.logits);
        let module = modules.len();
        let uniform = uniform.as_ref();
        let mut entries =
            if uniform.is_some() { vec!["sum_classifier", "sum_hidden", "add_parts"] } else { vec![] };
        entries.extend([
            "clear_columns",
            "count_columns",
            "column_blocks",
            "column_starts",
            "list_columns",
            "gather_hidden",
            "gather_classifier",
        ]);
        if holes.has_cols() {
            entries.push("gather_columns");
            entries.extend(holes.has_uniform_cols().then_some("sum_uniform_rows"));
        }
        modules.push(Module {
            name: "sampled_gradients",
            source: common.emitter().sampled_gradients(&self.sampling, tile, holes).into(),
            entries,
            family: None,
        });
        let columns = cold_columns(common, self.sampling);
        let launch =
            |entry, blocks, threads, args| Launch { module, entry, blocks, threads, shared_bytes: 0, args };
        let rows = blocks(problem.tokens, 8);
        let kept = Arg::Workspace(self.kept);
        let of_rows = [Arg::Workspace(self.starts), Arg::Workspace(self.counts)];
        let tokens = [Arg::Targets, common.order(), common.count()];
        let hidden = common.packed_hidden.map_or(Arg::Hidden, Arg::Workspace);
        let threads = gather_threads(problem.hidden);
        // A sum of all rows, for the uniform part: of each block's, then of these.
        let sum = |entry, args: Vec<Arg>, uniform: &UniformSums, to: Buffer| {
            let columns = blocks(problem.hidden, 256);
            let args_of_parts =
                vec![Arg::Workspace(uniform.parts), Arg::Workspace(to), Arg::Int(UNIFORM_BLOCKS as i32)];
            [launch(entry, UNIFORM_BLOCKS, threads, args), launch("add_parts", columns, 256, args_of_parts)]
        };
        let mut launches = Vec::new();
        if problem.hidden_gradient.is_some() {
            if let Some(uniform) = uniform {
                let args = vec![Arg::Classifier, Arg::Values, Arg::Workspace(uniform.parts)];
                launches.extend(sum("sum_classifier", args, uniform, uniform.of_classifier));
            }
            let mut args = vec![kept];
            args.extend(of_rows);
            args.extend(tokens);
            args.extend([
                Arg::Values,
                Arg::Workspace(coefs),
                scale.map_or(Arg::Null, Arg::Workspace),
                Arg::Classifier,
                sums.unwrap_or(Arg::Null),
                uniform.map_or(Arg::Null, |uniform| Arg::Workspace(uniform.of_classifier)),
                Arg::HiddenGradient,
                common.tokens(),
            ]);
            launches.push(launch("gather_hidden", blocks(problem.tokens, 1), threads, args));
        }
        let cols = &common.lowered.cols;
        if problem.classifier_gradient.is_some() || !cols.is_empty() {
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
            if holes.has_uniform_cols() {
                let args = vec![
                    common.order(),
                    common.count(),
                    Arg::Values,
                    Arg::Workspace(coefs),
                    Arg::Workspace(lists.uniform_rows),
                    common.tokens(),
                ];
                launches.push(launch("sum_uniform_rows", 1, 1024, args));
            }
            for (k, &(input, _)) in cols.iter().enumerate() {
                let offset = lists.lists.offset + lists.of_a_gradient * (1 + k as u64);
                let args = vec![
                    Arg::Workspace(Buffer { offset, ..lists.lists }),
                    starts,
                    Arg::Values,
                    Arg::Workspace(lists.uniform_rows),
                    Arg::InputGradient(input),
                    Arg::Int(k as i32),
                ];
                launches.push(launch("gather_columns", blocks(columns, GATHERED_COLUMNS), threads, args));
            }
        }
        if problem.classifier_gradient.is_some() {
            if let Some(uniform) = uniform {
                let mut args =
                    vec![hidden, common.order(), common.count(), Arg::Values, Arg::Workspace(coefs)];
                args.extend([Arg::Workspace(uniform.parts), common.tokens()]);
                launches.extend(sum("sum_hidden", args, uniform, uniform.of_hidden));
            }
            let sum = uniform.map_or(Arg::Null, |uniform| Arg::Workspace(uniform.of_hidden));
            let args = vec![
                Arg::Workspace(lists.lists),
                Arg::Workspace(lists.starts),
                hidden,
                Arg::Values,
                sum,
                Arg::ClassifierGradient,
            ];
            launches.push(launch("gather_classifier", blocks(columns, GATHERED_COLUMNS), threads, args));
        }
        launches
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::{InputId, InputKind, Program};
    use crate::plan::{Arg, GpuPlan, PlanError};
    use crate::problem::{DType, Filter, Ignored, Problem};
    use crate::schedule::{Family, Gpu, GpuSchedule};
    use crate::valid::{ProgramBuilder, Site, Value};

    fn cross_entropy() -> Program {
        let here = Site(0);
        let mut b = ProgramBuilder::new(here, "cross_entropy");
        let (x, y) = (b.input(here, "x", InputKind::Logit), b.input(here, "y", InputKind::Target));
        let (lse, at) = (b.lse(here, x), b.at(here, x, y));
        let loss = b.sub(here, lse, at);
        b.output(here, "loss", loss);
        b.finish().unwrap()
    }

    fn plan(shape: [usize; 3], max_entries: u32, ignored: Ignored) -> Result<GpuPlan, PlanError> {
        of_family(Family::Wgmma, shape, max_entries, ignored)
    }

    fn of_family(
        family: Family,
        shape: [usize; 3],
        max_entries: u32,
        ignored: Ignored,
    ) -> Result<GpuPlan, PlanError> {
        let (program, gpu) = (cross_entropy(), Gpu::h100());
        let filter = Filter::Sampled { eps: 1.0 / 1024.0, max_entries };
        let problem = Problem { filter, ignored, ..Problem::new(shape[0], shape[1], shape[2], DType::Bf16) };
        let schedule = GpuSchedule::of_family(family, &program, &problem, &gpu);
        GpuPlan::build(&program, &problem, &schedule, &gpu)
    }

    #[test]
    fn what_is_held_is_what_thinning_may_keep_and_the_walk_has_room_for_little_more() {
        for tokens in [4096, 8192, 32_768] {
            let plan = plan([tokens, 2304, 256_000], 384, Ignored::None).unwrap();
            let kept = 8.4 * 384.0 * tokens as f64 + 1e6;
            assert!((plan.workspace.held as f64) < kept, "{tokens}: {} held", plan.workspace.held);
            assert!((plan.workspace.forward as f64) < 2.6 * kept, "{tokens}: {}", plan.workspace.forward);
        }
    }

    /// Bands have a floor of demand each, and parts of every row block more pending thresholds than clusters.
    #[test]
    fn the_other_families_hold_the_same_and_have_room_for_a_walk_of_four_bands() {
        for family in [Family::Mma, Family::Simt] {
            for tokens in [4096, 8192, 32_768] {
                let of = |family| of_family(family, [tokens, 2304, 256_000], 384, Ignored::None).unwrap();
                let (clusters, plan) = (of(Family::Wgmma).workspace, of(family).workspace);
                assert_eq!(plan.held, clusters.held, "{family:?} {tokens}");
                let most = 2 * clusters.forward;
                assert!(plan.forward <= most, "{family:?} {tokens}: {} of {most}", plan.forward);
            }
        }
    }

    #[test]
    fn room_for_entries_is_bounded_by_the_columns_there_are() {
        for family in Family::ALL {
            let bytes = |max_entries| {
                let plan = of_family(family, [300, 64, 4099], max_entries, Ignored::Possible);
                plan.unwrap().workspace.peak()
            };
            assert_eq!(bytes(1 << 14), bytes(1 << 13), "{family:?}");
        }
    }

    #[test]
    fn a_warp_with_too_few_columns_to_sample_is_refused_by_the_schedule() {
        use crate::schedule::{ScheduleError, Tile};
        let (program, gpu) = (cross_entropy(), Gpu::h100());
        let problem = Problem::new(300, 64, 4099, DType::Bf16);
        let schedule = GpuSchedule::of_family(Family::Mma, &program, &problem, &gpu);
        let logits = Tile { m: 64, n: 64, k: 64, stages: 4, warps_m: 1, warps_n: 4 };
        let narrow = GpuSchedule { logits, ..schedule };
        let error = narrow.check(&Problem { filter: Filter::SAMPLED, ..problem.clone() }, &gpu).unwrap_err();
        assert!(matches!(error, ScheduleError::Tile { which: "logits", .. }), "{error}");
        assert!(error.to_string().ends_with("16 columns; the sampled filter takes 32 at a time"), "{error}");
        assert_eq!(narrow.check(&Problem { filter: Filter::Exact, ..problem }, &gpu), Ok(()));
    }

    #[test]
    fn the_counts_that_a_plan_names_are_those_that_thinning_writes() {
        for ignored in [Ignored::None, Ignored::Possible] {
            let plan = plan([300, 64, 4099], 64, ignored).unwrap();
            let thin = plan.forward.iter().find(|launch| launch.entry == "thin").unwrap();
            let kept = plan.kept.unwrap();
            assert_eq!(kept.of_rows.bytes, 300 * 4);
            // Of the kernel's parameters: `count` and `kept_counts`.
            assert_eq!(thin.args[4], kept.rows.map_or(Arg::Null, Arg::Workspace));
            assert_eq!(thin.args[8], Arg::Workspace(kept.of_rows));
            assert_eq!(kept.rows.is_some(), ignored == Ignored::Possible);
        }
        // All columns are hot: nothing is sampled.
        assert_eq!(plan([300, 64, 128], 64, Ignored::None).unwrap().kept, None);
    }

    #[test]
    fn more_entries_than_32_bits_count_are_refused() {
        let refused = plan([1 << 20, 64, 100_000], 1 << 14, Ignored::None).unwrap_err();
        assert!(matches!(refused, PlanError::Filter { .. }), "{refused}");
    }

    /// Cross entropy of biased logits, plus the mean of a function of them.
    fn biased(of_mean: impl Fn(&mut ProgramBuilder, Value) -> Value) -> Program {
        let here = Site(0);
        let mut b = ProgramBuilder::new(here, "biased");
        let (x, y) = (b.input(here, "x", InputKind::Logit), b.input(here, "y", InputKind::Target));
        let bias = b.input(here, "bias", InputKind::Col);
        let z = b.add(here, x, bias);
        let (lse, at, f) = (b.lse(here, z), b.at(here, z, y), of_mean(&mut b, z));
        let (nll, mean) = (b.sub(here, lse, at), b.mean(here, f));
        let loss = b.add(here, nll, mean);
        b.output(here, "loss", loss);
        b.finish().unwrap()
    }

    fn with_bias(program: &Program, family: Family) -> Result<GpuPlan, PlanError> {
        let base = Problem::new(300, 64, 4099, DType::Bf16);
        let problem = Problem { filter: Filter::SAMPLED, input_gradients: vec![InputId(2)], ..base };
        let schedule = GpuSchedule::of_family(family, program, &problem, &Gpu::h100());
        GpuPlan::build(program, &problem, &schedule, &Gpu::h100())
    }

    #[test]
    fn the_gradient_of_a_col_input_is_summed_over_hot_chunk_lists_and_tokens() {
        let program = biased(|_, z| z);
        for family in Family::ALL {
            let plan = with_bias(&program, family).unwrap();
            let launches = |entry| plan.backward.iter().filter(|launch| launch.entry == entry).count();
            for entry in ["column_sums", "gather_columns", "sum_uniform_rows", "gather_classifier"] {
                assert_eq!(launches(entry), 1, "{family:?} {entry}");
            }
            // What the hot columns sum has its place in front of their G, and no buffer shares it.
            let partials = plan.backward.iter().find(|launch| launch.entry == "column_sums").unwrap();
            let gradient = plan.backward.iter().find(|launch| launch.entry == "logits_gradient").unwrap();
            let Arg::ClassifierTail { back: of_partials } = partials.args[0] else { panic!("{partials:?}") };
            let Arg::ClassifierTail { back: of_gradient } = gradient.args[8] else { panic!("{gradient:?}") };
            let hot = u64::from(plan.schedule.hot);
            assert!(of_partials >= hot * 4 && of_gradient >= of_partials + 300 * hot * 2, "{family:?}");
        }
    }

    #[test]
    fn a_uniform_part_that_has_no_factors_is_refused_with_the_reason() {
        let program = biased(|b, z| b.mul(Site(0), z, z));
        for family in Family::ALL {
            let error = with_bias(&program, family).unwrap_err();
            assert!(matches!(error, PlanError::Filter { .. }), "{error}");
            assert!(error.to_string().contains("varies from logit to logit"), "{error}");
        }
    }
}
