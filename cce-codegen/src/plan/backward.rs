//! The backward pass of `Exact`: coefficients a token, then for each vocabulary chunk G, dC and dE.

use super::build::{Common, blocks};
use super::chunks::{Chunk, Place, chunks, gradient_bytes};
use super::operand::Operand;
use super::sampled::{Cold, Hot, OfRows, Sampled};
use super::skipped::Skipped;
use super::{Arg, Buffer, Launch, Module, Region, WorkspaceLayout};
use crate::cuda;
use crate::ir::InputId;
use crate::problem::{DType, Problem};
use crate::schedule::{Family, GpuSchedule, Tile, WARPGROUP_ROWS};

#[derive(Default)]
pub(super) struct Backward {
    pub(super) launches: Vec<Launch>,
    pub(super) scalar_rows: Vec<(InputId, Buffer)>,
}

/// Places of the backward pass's scratch, and the chunks that it goes through.
pub(super) struct Scratch {
    coefs: Buffer,
    /// Largest magnitude a token, then the scale and its inverse; f16 only.
    scale: Option<(Buffer, Buffer)>,
    chunks: Vec<Chunk>,
    /// G of chunks that have their place in the workspace.
    gradient: Buffer,
    column_partials: Option<Buffer>,
    /// What dE's buffer cannot hold of its sums between chunks; of a sampled plan: all of them.
    hidden_sums: Option<Arg>,
    /// Of a sampled plan: what the cold columns' gradients need.
    cold: Option<Cold>,
    scalar_rows: Vec<(InputId, Buffer)>,
}

impl Scratch {
    pub(super) fn take(
        common: &Common<'_>,
        holes: &cuda::Backward<'_>,
        workspace: &mut WorkspaceLayout,
    ) -> Scratch {
        let (problem, schedule) = (common.problem, &common.schedule);
        let mut take = |bytes: u64| workspace.take(Region::Backward, bytes);
        let tokens = problem.tokens as u64;
        let columns = common.lowered.cols.len();
        let hot = common.sampling.map(|sampling| Hot::of(common, sampling));
        let chunks = match &hot {
            Some(hot) => vec![hot.chunk],
            None => chunks(problem, schedule, columns, common.clusters),
        };
        let own = chunks.iter().filter(|chunk| chunk.place == Place::Workspace);
        let widest = own.map(|chunk| chunk.width).max().unwrap_or(0);
        let gradient = match schedule.family {
            _ if !Products::wanted(problem).any() => 0,
            Family::Wgmma => gradient_bytes(problem, widest),
            Family::Mma | Family::Simt => match widest {
                0 => 0,
                _ => (problem.tokens * common.pitch() * problem.dtype.bytes()) as u64,
            },
        };
        Scratch {
            coefs: take(holes.coefs() as u64 * tokens * 4),
            scale: (problem.dtype == DType::F16).then(|| (take(tokens * 4), take(8))),
            gradient: take(gradient),
            column_partials: (columns > 0)
                .then(|| take(columns as u64 * partials_of_an_input(problem, schedule, widest))),
            hidden_sums: match (problem.hidden_gradient, &hot) {
                (None, _) => None,
                (Some(_), Some(Hot { sums: Some(back), .. })) => Some(Arg::ClassifierTail { back: *back }),
                (Some(_), Some(_)) => Some(Arg::Workspace(take(tokens * problem.hidden as u64 * 4))),
                (Some(out), None) if out.dtype != DType::F32 && chunks.len() > 1 => {
                    let bytes = if out.holds_half_a_sum() { 2 } else { 4 };
                    Some(Arg::Workspace(take(tokens * problem.hidden as u64 * bytes)))
                }
                (Some(_), None) => None,
            },
            cold: common.sampling.map(|sampling| Cold::take(common, sampling, holes, &mut take)),
            scalar_rows: common.lowered.scalars.iter().map(|&(input, _)| (input, take(tokens * 4))).collect(),
            chunks,
        }
    }
}

impl Backward {
    pub(super) fn plan(
        common: &Common<'_>,
        holes: &cuda::Backward<'_>,
        scratch: &Scratch,
        (sampled, skipped): (Option<&Sampled>, Option<&Skipped>),
        modules: &mut Vec<Module>,
    ) -> Backward {
        let problem = common.problem;
        let emitter = common.emitter();
        let differentiable: Vec<bool> =
            common.program.outputs().iter().map(|output| output.differentiable).collect();
        let rows = modules.len();
        modules.push(Module {
            name: "rows_backward",
            source: emitter.rows_backward(&differentiable, holes).into(),
            entries: vec!["row_coefficients", "gradient_scale", "sum_rows", "column_sums", "fill_rows"],
            family: None,
        });
        let mut plan = Backward { launches: Vec::new(), scalar_rows: scratch.scalar_rows.clone() };
        plan.row_launches(common, scratch, rows);
        let products = Products::wanted(problem);
        if products.any() || !common.lowered.cols.is_empty() {
            let live = skipped.map_or(Arg::Null, Skipped::live);
            let matrix = MatrixModules::add(common, &emitter, holes, products, live, modules);
            for (at, chunk) in scratch.chunks.iter().enumerate() {
                // Of a sampled plan the chunk is the hot columns, and what follows is no chunk.
                let ends = (at == 0, at + 1 == scratch.chunks.len() && sampled.is_none());
                plan.chunk_launches(common, scratch, &matrix, rows, chunk, ends);
            }
            if let (Some(sampled), Some(cold)) = (sampled, &scratch.cold) {
                let scale = scratch.scale.map(|(_, scale)| scale);
                let of_rows = OfRows { coefs: scratch.coefs, scale, sums: scratch.hidden_sums };
                plan.launches.extend(sampled.gradient_launches(common, holes, cold, &of_rows, modules));
            }
            if let Some(out) = problem.hidden_gradient.filter(|_| common.program.has_target()) {
                let nan = match out.dtype {
                    DType::F32 => 0x7fc0_0000,
                    DType::F16 => 0x7e00_7e00,
                    DType::Bf16 => 0x7fc0_7fc0,
                };
                plan.launches.push(Launch {
                    module: rows,
                    entry: "fill_rows",
                    blocks: blocks(problem.tokens, 8),
                    threads: 256,
                    shared_bytes: 0,
                    args: vec![
                        Arg::HiddenGradient,
                        Arg::Targets,
                        common.tokens(),
                        Arg::Ignore,
                        Arg::Int((problem.hidden * out.dtype.bytes() / 2) as i32),
                        Arg::Int(i32::from(out.accumulate)),
                        Arg::Int(nan),
                    ],
                });
            }
        }
        plan
    }

    fn row_launches(&mut self, common: &Common<'_>, scratch: &Scratch, rows: usize) {
        let tokens = common.problem.tokens;
        let magnitude = scratch.scale.map_or(Arg::Null, |(magnitude, _)| Arg::Workspace(magnitude));
        self.launches.push(Launch {
            module: rows,
            entry: "row_coefficients",
            blocks: blocks(tokens, 128),
            threads: 128,
            shared_bytes: 0,
            args: vec![
                Arg::Workspace(common.saved),
                Arg::Targets,
                Arg::Values,
                Arg::Upstreams,
                Arg::Workspace(common.factor),
                Arg::Workspace(scratch.coefs),
                Arg::InputRows,
                magnitude,
                common.tokens(),
                Arg::Ignore,
            ],
        });
        if let Some((magnitude, scale)) = scratch.scale {
            self.launches.push(Launch {
                module: rows,
                entry: "gradient_scale",
                blocks: 1,
                threads: 1024,
                shared_bytes: 0,
                args: vec![Arg::Workspace(magnitude), Arg::Workspace(scale), common.tokens()],
            });
        }
        for &(input, rows_of) in &self.scalar_rows {
            self.launches.push(Launch {
                module: rows,
                entry: "sum_rows",
                blocks: 1,
                threads: 1024,
                shared_bytes: 0,
                args: vec![Arg::Workspace(rows_of), Arg::InputGradient(input), common.tokens()],
            });
        }
    }

    /// G of one chunk and the products that it is for; `ends`: whether the chunk is the first, the last that
    /// adds to dE.
    fn chunk_launches(
        &mut self,
        common: &Common<'_>,
        scratch: &Scratch,
        matrix: &MatrixModules,
        rows: usize,
        chunk: &Chunk,
        ends: (bool, bool),
    ) {
        let (problem, schedule) = (common.problem, &common.schedule);
        let &Chunk { first, width, .. } = chunk;
        let scale = scratch.scale.map_or(Arg::Null, |(_, scale)| Arg::Workspace(scale));
        let place =
            [common.tokens(), Arg::Int(first as i32), Arg::Int(width as i32), common.group_of_products()];
        let launch =
            |module: usize, entry: &'static str, tile: &Tile, m: usize, n: usize, args: Vec<Arg>| Launch {
                module,
                entry,
                blocks: common.matrix_blocks(tile, m, n),
                threads: tile.threads(schedule.family),
                shared_bytes: tile.shared_bytes(schedule.family),
                args,
            };

        let tile = &schedule.logits_gradient;
        let of_an_input = partials_of_an_input(problem, schedule, width);
        let partials = |k: usize| match (scratch.column_partials, chunk.place) {
            (None, _) => Arg::Null,
            (Some(buffer), Place::Workspace) => {
                Arg::Workspace(Buffer { offset: buffer.offset + k as u64 * of_an_input, ..buffer })
            }
            (Some(_), Place::ClassifierTail { partials, .. }) => {
                Arg::ClassifierTail { back: partials - k as u64 * of_an_input }
            }
        };
        let mut args = vec![
            common.hidden(Operand::LeftByK, tile),
            common.classifier(Operand::RightByK, tile),
            Arg::Targets,
            common.order(),
            common.count(),
            Arg::Values,
            Arg::Workspace(scratch.coefs),
            scale,
            common.gradient_place(scratch.gradient, chunk),
            partials(0),
        ];
        args.extend(place);
        args.push(matrix.live);
        self.launches.push(launch(matrix.logits, "logits_gradient", tile, problem.tokens, width, args));

        for (k, &(input, _)) in common.lowered.cols.iter().enumerate() {
            self.launches.push(Launch {
                module: rows,
                entry: "column_sums",
                blocks: blocks(width, 256),
                threads: 256,
                shared_bytes: 0,
                args: vec![
                    partials(k),
                    common.count(),
                    Arg::InputGradient(input),
                    common.tokens(),
                    Arg::Int(rows_of_a_partial(schedule) as i32),
                    Arg::Int(width as i32),
                    Arg::Int(first as i32),
                ],
            });
        }
        if let Some(module) = matrix.classifier {
            let tile = &schedule.classifier_gradient;
            let mut args = vec![
                common.gradient(scratch.gradient, chunk, Operand::LeftByRow, tile),
                common.hidden(Operand::RightByColumn, tile),
            ];
            // Rows that count are packed already where TMA copies them.
            args.extend((schedule.family != Family::Wgmma).then(|| common.order()));
            args.extend([common.count(), scale, Arg::ClassifierGradient]);
            args.extend(place);
            args.push(matrix.live);
            self.launches.push(launch(module, "classifier_gradient", tile, width, problem.hidden, args));
        }
        if let Some(module) = matrix.hidden {
            let tile = &schedule.hidden_gradient;
            let mut args = vec![
                common.gradient(scratch.gradient, chunk, Operand::LeftByK, tile),
                common.classifier(Operand::RightByColumn, tile),
                common.order(),
                common.count(),
                scale,
                scratch.hidden_sums.unwrap_or(Arg::Null),
                Arg::HiddenGradient,
            ];
            args.extend(place);
            args.extend([Arg::Int(i32::from(ends.0)), Arg::Int(i32::from(ends.1)), matrix.live]);
            self.launches.push(launch(module, "hidden_gradient", tile, problem.tokens, problem.hidden, args));
        }
    }
}

/// Rows that one partial of a Col input's gradient sums.
fn rows_of_a_partial(schedule: &GpuSchedule) -> usize {
    match schedule.family {
        Family::Wgmma => WARPGROUP_ROWS as usize,
        Family::Mma | Family::Simt => schedule.logits_gradient.m as usize,
    }
}

/// Bytes of the partials of one Col input's gradient, of `width` columns.
pub(super) fn partials_of_an_input(problem: &Problem, schedule: &GpuSchedule, width: usize) -> u64 {
    u64::from(blocks(problem.tokens, rows_of_a_partial(schedule))) * width as u64 * 4
}

/// Which of the two products after G are wanted.
#[derive(Clone, Copy)]
struct Products {
    classifier: bool,
    hidden: bool,
}

impl Products {
    fn wanted(problem: &Problem) -> Products {
        Products {
            classifier: problem.classifier_gradient.is_some(),
            hidden: problem.hidden_gradient.is_some(),
        }
    }

    fn any(self) -> bool {
        self.classifier || self.hidden
    }
}

/// Indices of the matrix kernels' modules, and what tells them which granules are computed.
struct MatrixModules {
    logits: usize,
    classifier: Option<usize>,
    hidden: Option<usize>,
    live: Arg,
}

impl MatrixModules {
    fn add(
        common: &Common<'_>,
        emitter: &cuda::Emitter<'_>,
        holes: &cuda::Backward<'_>,
        products: Products,
        live: Arg,
        modules: &mut Vec<Module>,
    ) -> MatrixModules {
        let (problem, schedule) = (common.problem, &common.schedule);
        let mut add = |name: &'static str, source: String| {
            modules.push(Module {
                name,
                source: source.into(),
                entries: vec![name],
                family: Some(schedule.family),
            });
            modules.len() - 1
        };
        MatrixModules {
            live,
            logits: add(
                "logits_gradient",
                emitter.logits_gradient(&schedule.logits_gradient, products.any(), holes),
            ),
            classifier: problem.classifier_gradient.map(|out| {
                add(
                    "classifier_gradient",
                    emitter.classifier_gradient(&schedule.classifier_gradient, out.dtype, out.accumulate),
                )
            }),
            hidden: problem.hidden_gradient.map(|out| {
                add(
                    "hidden_gradient",
                    match common.sampling {
                        None => emitter.hidden_gradient(&schedule.hidden_gradient, out.dtype, out.accumulate),
                        Some(_) => emitter.hidden_sums(&schedule.hidden_gradient),
                    },
                )
            }),
        }
    }
}
