//! A plan as text.

use super::{Arg, GpuPlan, Launch, Matrix, MatrixForm, Region};
use std::fmt::Write;

impl GpuPlan {
    /// The launches in order with their shapes and arguments, and the workspace, for people.
    pub fn dump(&self) -> String {
        let p = &self.problem;
        let mut text = format!(
            "plan of `{}`: N {} D {} V {} {}, filter {:?}\nschedule: {:?}\nworkspace: {} bytes held, {} forward, {} backward, peak {}\n",
            self.program.name(),
            p.tokens,
            p.hidden,
            p.vocab,
            p.dtype.name(),
            p.filter,
            self.schedule,
            self.workspace.held,
            self.workspace.forward,
            self.workspace.backward,
            self.workspace.peak()
        );
        for (name, launches) in [("forward", &self.forward), ("backward", &self.backward)] {
            let _ = writeln!(text, "{name}:");
            for launch in launches {
                let _ = writeln!(text, "  {}", line(launch));
            }
        }
        text
    }
}

fn line(launch: &Launch) -> String {
    let args: Vec<String> = launch.args.iter().map(|arg| argument(*arg)).collect();
    format!(
        "{}<<<{}, {}, {}>>>({})",
        launch.entry,
        launch.blocks,
        launch.threads,
        launch.shared_bytes,
        args.join(", ")
    )
}

fn argument(arg: Arg) -> String {
    match arg {
        Arg::Workspace(buffer) => {
            let region = match buffer.region {
                Region::Held => "held",
                Region::Forward => "forward",
                Region::Backward => "backward",
            };
            format!("{region}+{}", buffer.offset)
        }
        Arg::TensorMap(map) => {
            let matrix = match map.matrix {
                Matrix::Hidden => "Hidden".to_owned(),
                Matrix::Classifier => "Classifier".to_owned(),
                Matrix::Workspace(buffer) => argument(Arg::Workspace(buffer)),
                Matrix::ClassifierTail { back } => argument(Arg::ClassifierTail { back }),
            };
            let shape = match map.form {
                MatrixForm::Rows { columns, .. } => format!("[{}, {columns}]", map.rows),
                MatrixForm::Blocks { blocks } => format!("{blocks} blocks of [{}, 64]", map.rows),
            };
            format!("{matrix} {shape} by boxes of {} rows", map.box_rows)
        }
        Arg::ClassifierTail { back } => format!("end of ClassifierGradient-{back}"),
        Arg::Int(value) => value.to_string(),
        Arg::InputGradient(input) => format!("gradient of input {}", input.0),
        other => format!("{other:?}"),
    }
}
