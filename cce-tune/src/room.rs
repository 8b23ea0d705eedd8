//! Whether a task finds room in the host's memory, looked at before anything is made of it: an allocation that fails
//! ends the process that asks.

use crate::Error;
use crate::bench::available_bytes;
use crate::task::Task;
use cce_runtime::DeviceKind;

/// Refuses a task that cannot be measured for want of the host's memory.
///
/// # Errors
/// [`Error::Inputs`], with what is needed, what there is, and what to do.
pub(crate) fn check(task: &Task, kind: DeviceKind) -> Result<(), Error> {
    available_bytes().map_or(Ok(()), |there| check_in(task, kind, there))
}

fn check_in(task: &Task, kind: DeviceKind, there: u64) -> Result<(), Error> {
    let needed = least_bytes(task, kind);
    if needed <= u128::from(there) {
        return Ok(());
    }
    let gib = |bytes: f64| format!("{:.1} GiB", bytes / f64::from(1 << 30));
    let what = match kind {
        DeviceKind::Cpu => "hidden states, classifier, their gradients and the reference's",
        DeviceKind::Cuda => "hidden states and classifier",
    };
    let reason = format!(
        "{what} take {} of the host's memory, and {} can be had: tune for fewer tokens, a smaller hidden size or vocabulary",
        gib(needed as f64),
        gib(there as f64)
    );
    Err(Error::Inputs { reason })
}

/// The bytes that are there at the same time, at least: E and C; on the CPU device dE and dC besides, of the reference and
/// of the candidate.
fn least_bytes(task: &Task, kind: DeviceKind) -> u128 {
    let copies = |wanted: bool| if wanted && kind == DeviceKind::Cpu { 3 } else { 1 };
    let matrix =
        |rows: usize, copies: u128| copies.saturating_mul(rows as u128).saturating_mul(task.width as u128);
    let hidden = matrix(task.tokens, copies(task.gradients.hidden));
    let classifier = matrix(task.vocab, copies(task.gradients.classifier));
    hidden.saturating_add(classifier).saturating_mul(task.dtype.bytes() as u128)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cce_codegen::problem::DType;
    use cce_runtime::Gradients;

    #[test]
    fn what_finds_no_room_is_refused_with_what_it_needs() {
        let program = cce::losses::named("cross_entropy").unwrap();
        let task = Task::new(program, 1 << 20, 1 << 10, 1 << 20, DType::F32);
        let gib = |count: u64| count << 30;
        check_in(&task, DeviceKind::Cpu, gib(24)).unwrap();
        let refused = check_in(&task, DeviceKind::Cpu, gib(24) - 1).unwrap_err().to_string();
        assert!(refused.contains("take 24.0 GiB") && refused.contains("tune for fewer tokens"), "{refused}");
        check_in(&task, DeviceKind::Cuda, gib(8)).unwrap();
        check_in(&task, DeviceKind::Cuda, gib(8) - 1).unwrap_err();
        let loss = Task { gradients: Gradients { hidden: false, classifier: false }, ..task };
        check_in(&loss, DeviceKind::Cpu, gib(8)).unwrap();
        let endless = Task { tokens: usize::MAX, width: usize::MAX, ..loss };
        check_in(&endless, DeviceKind::Cpu, u64::MAX).unwrap_err();
    }
}
