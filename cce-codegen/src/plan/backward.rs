//! The backward pass of `Exact`: coefficients a token, then for each vocabulary chunk G, dC and dE.

use super::build::{Common, blocks};
use super::operand::Operand;
use super::sampled::Sampled;
use super::{Arg, Buffer, Launch, Module, Region, WorkspaceLayout};
use crate::cuda;
use crate::ir::InputId;
use crate::problem::{DType, Problem};
use crate::schedule::{Family, GpuSchedule, Tile};

#[derive(Default)]
pub(super) struct Backward {
    pub(super) launches: Vec<Launch>,
    pub(super) scalar_rows: Vec<(InputId, Buffer)>,
}

/// Places of the backward pass's scratch.
struct Scratch {
    coefs: Buffer,
    /// Largest magnitude a token, then the scale and its inverse; f16 only.
    scale: Option<(Buffer, Buffer)>,
    gradient: Buffer,
    column_partials: Option<Buffer>,
    hidden_sums: Option<Buffer>,
}

impl Backward {
    pub(super) fn plan(
        common: &Common<'_>,
        sampled: Option<&Sampled>,
        workspace: &mut WorkspaceLayout,
        modules: &mut Vec<Module>,
    ) -> Backward {
        let problem = common.problem;
        let holes = cuda::Backward::new(common.lowered, common.slots);
        let emitter = common.emitter();
        let differentiable: Vec<bool> =
            common.program.outputs().iter().map(|output| output.differentiable).collect();
        let rows = modules.len();
        modules.push(Module {
            name: "rows_backward",
            source: emitter.rows_backward(&differentiable, &holes),
            entries: vec!["row_coefficients", "gradient_scale", "sum_rows", "column_sums", "fill_rows"],
            family: None,
        });

        let tokens = problem.tokens as u64;
        let mut take = |bytes: u64| workspace.take(Region::Backward, bytes);
        let products = Products::wanted(problem);
        let columns = common.lowered.cols.len() as u64;
        let chunk = u64::from(common.chunk());
        let row_blocks = u64::from(blocks(problem.tokens, rows_of_a_partial(common.schedule)));
        // Of a sampled plan the first chunk is the hot columns, and the rest is no chunk.
        let chunks = problem.vocab.div_ceil(chunk as usize);
        let element = problem.dtype.bytes() as u64;
        let scratch = Scratch {
            coefs: take(holes.coefs() as u64 * tokens * 4),
            scale: emitter.scaled.then(|| (take(tokens * 4), take(8))),
            gradient: take(if products.any() { tokens * chunk * element } else { 0 }),
            column_partials: (columns > 0).then(|| take(columns * row_blocks * chunk * 4)),
            hidden_sums: problem
                .hidden_gradient
                .filter(|out| sampled.is_some() || (out.dtype != DType::F32 && chunks > 1))
                .map(|_| take(tokens * problem.hidden as u64 * 4)),
        };
        let scalar_rows: Vec<(InputId, Buffer)> =
            common.lowered.scalars.iter().map(|&(input, _)| (input, take(tokens * 4))).collect();

        let mut plan = Backward { launches: Vec::new(), scalar_rows };
        plan.row_launches(common, &scratch, rows);
        if products.any() || columns > 0 {
            let matrix = MatrixModules::add(common, &emitter, &holes, products, modules);
            for at in 0..if sampled.is_some() { 1 } else { chunks } {
                plan.chunk_launches(common, &scratch, &matrix, rows, at, chunks);
            }
            if let Some(sampled) = sampled {
                let scale = scratch.scale.map(|(_, scale)| scale);
                let lists = sampled.lists(common, workspace);
                let list = [scratch.coefs, scratch.hidden_sums.unwrap_or(scratch.coefs)];
                plan.launches.extend(sampled.gradient_launches(common, &holes, &lists, list, scale, modules));
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

    fn chunk_launches(
        &mut self,
        common: &Common<'_>,
        scratch: &Scratch,
        matrix: &MatrixModules,
        rows: usize,
        at: usize,
        chunks: usize,
    ) {
        let (problem, schedule) = (common.problem, common.schedule);
        let chunk = common.chunk() as usize;
        let first = at * chunk;
        let width = chunk.min(problem.vocab - first);
        let scale = scratch.scale.map_or(Arg::Null, |(_, scale)| Arg::Workspace(scale));
        let place = [common.tokens(), Arg::Int(first as i32), Arg::Int(width as i32), common.group()];
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
        let partials = scratch.column_partials.map_or(Arg::Null, Arg::Workspace);
        let mut args = vec![
            common.hidden(Operand::LeftKMajor, tile),
            common.classifier(Operand::RightKMajor, tile),
            Arg::Targets,
            common.order(),
            common.count(),
            Arg::Values,
            Arg::Workspace(scratch.coefs),
            scale,
            Arg::Workspace(scratch.gradient),
            partials,
        ];
        args.extend(place);
        self.launches.push(launch(matrix.logits, "logits_gradient", tile, problem.tokens, width, args));

        if let Some(partials) = scratch.column_partials {
            let each = rows_of_a_partial(schedule);
            let row_blocks = u64::from(blocks(problem.tokens, each));
            for (k, &(input, _)) in common.lowered.cols.iter().enumerate() {
                let mut part = partials;
                part.offset += k as u64 * row_blocks * width as u64 * 4;
                self.launches.push(Launch {
                    module: rows,
                    entry: "column_sums",
                    blocks: blocks(width, 256),
                    threads: 256,
                    shared_bytes: 0,
                    args: vec![
                        Arg::Workspace(part),
                        common.count(),
                        Arg::InputGradient(input),
                        common.tokens(),
                        Arg::Int(each as i32),
                        Arg::Int(width as i32),
                        Arg::Int(first as i32),
                    ],
                });
            }
        }
        if let Some(module) = matrix.classifier {
            let tile = &schedule.classifier_gradient;
            let mut args = vec![
                common.gradient(scratch.gradient, width, Operand::LeftMnMajor, tile),
                common.hidden(Operand::RightMnMajor, tile),
            ];
            // Rows that count are packed already where TMA copies them.
            args.extend((schedule.family != Family::Wgmma).then(|| common.order()));
            args.extend([common.count(), scale, Arg::ClassifierGradient]);
            args.extend(place);
            self.launches.push(launch(module, "classifier_gradient", tile, width, problem.hidden, args));
        }
        if let Some(module) = matrix.hidden {
            let tile = &schedule.hidden_gradient;
            let mut args = vec![
                common.gradient(scratch.gradient, width, Operand::LeftKMajor, tile),
                common.classifier(Operand::RightMnMajor, tile),
                common.order(),
                common.count(),
                scale,
                scratch.hidden_sums.map_or(Arg::Null, Arg::Workspace),
                Arg::HiddenGradient,
            ];
            args.extend(place);
            args.extend([Arg::Int(i32::from(at == 0)), Arg::Int(i32::from(at + 1 == chunks))]);
            self.launches.push(launch(module, "hidden_gradient", tile, problem.tokens, problem.hidden, args));
        }
    }
}

/// Rows that one partial of a Col input's gradient sums.
fn rows_of_a_partial(schedule: &GpuSchedule) -> usize {
    match schedule.family {
        Family::Wgmma => 64,
        Family::Mma | Family::Simt => schedule.logits_gradient.m as usize,
    }
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

/// Indices of the matrix kernels' modules.
struct MatrixModules {
    logits: usize,
    classifier: Option<usize>,
    hidden: Option<usize>,
}

impl MatrixModules {
    fn add(
        common: &Common<'_>,
        emitter: &cuda::Emitter<'_>,
        holes: &cuda::Backward<'_>,
        products: Products,
        modules: &mut Vec<Module>,
    ) -> MatrixModules {
        let (problem, schedule) = (common.problem, common.schedule);
        let mut add = |name: &'static str, source: String| {
            modules.push(Module { name, source, entries: vec![name], family: Some(schedule.family) });
            modules.len() - 1
        };
        MatrixModules {
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
                        // Of the hot columns: fp32 sums, which the gather of the others finishes.
                        Some(_) => emitter.hidden_gradient(&schedule.hidden_gradient, problem.dtype, false),
                    },
                )
            }),
        }
    }
}
