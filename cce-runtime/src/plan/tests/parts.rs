//! Workspaces lent in two parts: the held one goes on to the backward, the other is given back in between.

use super::programs::*;
use crate::call::Call;
use crate::device::Device;
use crate::error::Error;
use crate::outputs::{GradientViews, Outputs, Upstream};
use crate::plan::Plan;
use crate::views::ViewMut;
use crate::workspace::{HOST_PART_ALIGN, Workspace};
use cce_codegen::ir::Program;
use cce_codegen::problem::Filter;

/// Memory at a boundary of parts, full of garbage.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; HOST_PART_ALIGN]);

fn garbage(bytes: u64) -> Vec<Line> {
    vec![Line([0xa5; HOST_PART_ALIGN]); (bytes as usize).div_ceil(HOST_PART_ALIGN)]
}

fn part(memory: &mut [Line]) -> (*mut u8, u64) {
    (memory.as_mut_ptr().cast(), (memory.len() * HOST_PART_ALIGN) as u64)
}

fn plan(program: &Program, data: &Data, filter: Filter) -> Plan {
    Plan::builder(program, data.n, data.d, data.v).filter(filter).build(&Device::cpu()).unwrap()
}

#[test]
fn a_backward_needs_only_the_held_part_of_its_forward() {
    let data = Data::new(41, 8, 2048, true);
    let call = Call::new().seed(7);
    for (program, filter) in [
        (cross_entropy(), Filter::Exact),
        (cross_entropy(), Filter::Sampled { eps: 1.0 / 64.0, max_entries: 64 }),
        (gemma(), Filter::Sampled { eps: 1.0 / 64.0, max_entries: 64 }),
    ] {
        let plan = plan(&program, &data, filter);
        let size = plan.workspace();
        assert!(size.held > 0 && size.held < size.peak);
        let inputs = data.inputs(&program);
        let expected = plan.run(&inputs, &call).unwrap();

        let mut held = garbage(size.held);
        let mut loss = [f32::NAN];
        {
            let mut rest = garbage(size.peak - size.held);
            // SAFETY: both are borrowed during the call, and apart.
            let mut workspace =
                unsafe { Workspace::from_host_parts(part(&mut held), part(&mut rest)) }.unwrap();
            assert!(workspace.bytes() >= size.peak);
            let outputs = Outputs::new().reduced("loss", ViewMut::host(&mut loss));
            let _ = plan.forward(&inputs, &call, &mut workspace, outputs).unwrap();
        }
        // Held memory may move in between.
        let mut held = held.clone();
        let mut rest = garbage(size.peak - size.held);
        let (mut de, mut dc) = (vec![f32::NAN; data.n * data.d], vec![f32::NAN; data.v * data.d]);
        let gradients =
            GradientViews::new().hidden(ViewMut::host(&mut de)).classifier(ViewMut::host(&mut dc));
        // SAFETY: as above, and `held` is what the forward of this plan left.
        unsafe {
            let mut workspace = Workspace::from_host_parts(part(&mut held), part(&mut rest)).unwrap();
            let saved = plan.saved_in(&workspace);
            let upstream = Upstream::new().scalar("loss", 1.0);
            plan.backward(saved, &inputs, &upstream, &call, &mut workspace, gradients).unwrap();
        }
        assert_eq!(loss[0], expected.loss as f32, "{}", program.name());
        assert_eq!(de, expected.hidden_gradient, "{}", program.name());
        assert_eq!(dc, expected.classifier_gradient, "{}", program.name());
    }
}

#[test]
fn each_part_has_its_own_least_size_and_boundary() {
    let data = Data::new(5, 4, 64, false);
    let program = cross_entropy();
    let plan = plan(&program, &data, Filter::Exact);
    let size = plan.workspace();
    let (mut held, mut rest) = (garbage(size.held), garbage(size.peak - size.held));
    let ((h, _), (r, _)) = (part(&mut held), part(&mut rest));
    let forward = |held_bytes: u64, rest_bytes: u64| {
        // SAFETY: parts of the memory above, which is borrowed by this closure.
        let mut workspace = unsafe { Workspace::from_host_parts((h, held_bytes), (r, rest_bytes)) }.unwrap();
        plan.forward(&data.inputs(&program), &Call::new(), &mut workspace, Outputs::new()).map(|_| ())
    };
    let (least_held, least_rest) = (size.held, size.peak - size.held);
    forward(least_held, least_rest).unwrap();
    let error = forward(least_held - 1, least_rest).unwrap_err();
    assert!(
        matches!(error, Error::WorkspaceTooSmall { given, smallest } if given == least_held - 1 && smallest == least_held),
        "{error}"
    );
    let error = forward(least_held, least_rest - 1).unwrap_err();
    assert!(
        matches!(error, Error::WorkspaceTooSmall { given, smallest } if given == least_rest - 1 && smallest == least_rest),
        "{error}"
    );
    // SAFETY: it is refused.
    let refused = unsafe { Workspace::from_host_parts((h.wrapping_add(8), 64), (r, 64)) };
    assert!(matches!(refused, Err(Error::Alignment { required: 64, .. })));
    // SAFETY: it is refused.
    let refused = unsafe { Workspace::from_device_parts((4096, 1 << 20), (8192, 1 << 20), &Device::cpu()) };
    assert!(matches!(refused, Err(Error::DeviceMismatch { .. })));
}
