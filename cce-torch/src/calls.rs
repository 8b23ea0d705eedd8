//! A plan's forward and backward on memory that the Python side owns.
//!
//! Addresses are those of torch tensors: on the CPU device of host memory, else of memory of the plan's GPU.
//! The Python side gives them with their numbers of elements (or bytes, of a workspace), keeps the tensors
//! alive during a call and, on a GPU, uses them on no other stream than the call's without ordering the two.
//! Everything else is checked by the plan.

#![expect(unsafe_code, reason = "the addresses of live tensors are handed to a plan")]

use crate::errors::{exception, unexpected};
use crate::plans::Plan;
use cce::{
    Arg, Call, Element, GradientViews, HOST_PART_ALIGN, InputKind, Inputs, Outputs, TokenReduction, Upstream,
    View, ViewMut, Workspace,
};
use pyo3::prelude::*;

/// An address, and how many elements (bytes, of a workspace) are there.
type Span = (usize, usize);

/// A name and an address.
type Named = (String, usize);

/// The settings of a call: reduction, seed's address, stream, whether targets are checked.
type Settings = (String, Option<usize>, Option<u64>, bool);

/// The inputs of a call: hidden states, classifier, targets, tensors by name, numbers by name.
type Given = (Span, Span, Option<Span>, Vec<(String, usize, usize)>, Vec<(String, f64)>);

/// An empty tensor's address is as good as any aligned one; no element is at address 0.
fn address((at, len): Span) -> PyResult<usize> {
    match (at, len) {
        (0, 0) => Ok(HOST_PART_ALIGN),
        (0, _) => Err(unexpected("a tensor", &format!("memory of {len} elements"), "none: its address is 0")),
        _ => Ok(at),
    }
}

impl Plan {
    /// # Safety
    /// As this module says: `len` elements live at the address during the call.
    unsafe fn view(&self, (at, len): Span, element: Element) -> PyResult<View<'static>> {
        let at = address((at, len))?;
        Ok(match self.ordinal() {
            // SAFETY: the caller's promise.
            None => unsafe { View::host_raw(std::ptr::with_exposed_provenance(at), len, element) },
            // SAFETY: the caller's promise.
            Some(ordinal) => unsafe { View::device(at as u64, len, element, ordinal) },
        })
    }

    /// # Safety
    /// As for [`Plan::view`], and nothing else uses the memory meanwhile.
    unsafe fn view_mut(&self, (at, len): Span, element: Element) -> PyResult<ViewMut<'static>> {
        let at = address((at, len))?;
        Ok(match self.ordinal() {
            // SAFETY: the caller's promise.
            None => unsafe { ViewMut::host_raw(std::ptr::with_exposed_provenance_mut(at), len, element) },
            // SAFETY: the caller's promise.
            Some(ordinal) => unsafe { ViewMut::device(at as u64, len, element, ordinal) },
        })
    }

    /// One value, read now on the CPU device and by the kernels on a GPU.
    ///
    /// # Safety
    /// As for [`Plan::view`]: one aligned `T` is there.
    unsafe fn argument<T: Copy>(&self, what: &str, at: usize) -> PyResult<Arg<'static, T>> {
        match (at, self.ordinal()) {
            (0, _) => Err(unexpected(what, "a tensor of one element", "an empty one")),
            // SAFETY: the caller's promise.
            (_, None) => {
                Ok(Arg::host(unsafe { std::ptr::with_exposed_provenance::<T>(at).read_unaligned() }))
            }
            // SAFETY: the caller's promise.
            (_, Some(ordinal)) => Ok(unsafe { Arg::device(at as u64, ordinal) }),
        }
    }

    /// # Safety
    /// As for [`Plan::view`].
    unsafe fn inputs(&self, given: &Given) -> PyResult<Inputs<'static>> {
        let (hidden, classifier, targets, tensors, numbers) = given;
        let problem = self.plan.problem();
        let matrix = problem.dtype.into();
        // SAFETY: the caller's promise, here and below.
        let mut inputs = unsafe { Inputs::new(self.view(*hidden, matrix)?, self.view(*classifier, matrix)?) };
        if let Some(targets) = targets {
            // SAFETY: as above.
            inputs = inputs.targets(unsafe { self.view(*targets, problem.index.into())? });
        }
        for (name, at, len) in tensors {
            // SAFETY: as above.
            inputs = unsafe {
                match self.kind_of(name) {
                    Some(InputKind::Scalar) => inputs.scalar(name, self.argument::<f32>(name, *at)?),
                    Some(InputKind::Col) => inputs.col(name, self.view((*at, *len), Element::F32)?),
                    // A name that the program does not have is refused as a Row.
                    _ => inputs.row(name, self.view((*at, *len), Element::F32)?),
                }
            };
        }
        for (name, value) in numbers {
            inputs = inputs.scalar(name, *value);
        }
        Ok(inputs)
    }

    /// # Safety
    /// As for [`Plan::view`].
    unsafe fn call(&self, (reduction, seed, stream, check_targets): &Settings) -> PyResult<Call<'static>> {
        let reduction = match (reduction.as_str(), reduction.split_once(':')) {
            ("none", _) => TokenReduction::None,
            ("sum", _) => TokenReduction::Sum,
            ("mean", _) => TokenReduction::Mean,
            (_, Some(("mean_by", name))) => TokenReduction::MeanByTarget(name.to_owned()),
            (other, _) => {
                return Err(unexpected("the reduction", "none, sum, mean or mean_by:NAME", other));
            }
        };
        let mut call = Call::new().reduction(reduction).check_targets(*check_targets);
        if let Some(at) = seed {
            // SAFETY: the caller's promise.
            call = call.seed(unsafe { self.argument::<u64>("the seed", *at)? });
        }
        if let Some(raw) = stream {
            call = call.stream(*raw);
        }
        Ok(call)
    }

    /// # Safety
    /// As for [`Plan::view_mut`], of bytes.
    unsafe fn workspace(&self, held: Span, rest: Span) -> PyResult<Workspace<'static>> {
        let workspace = match self.ordinal() {
            None => {
                let part = |(at, bytes): Span| (std::ptr::with_exposed_provenance_mut(at), bytes as u64);
                // SAFETY: the caller's promise; what a fresh tensor holds is whatever its allocator left.
                unsafe { Workspace::from_host_parts(part(held), part(rest)) }
            }
            Some(_) => {
                let part = |(at, bytes): Span| (at as u64, bytes as u64);
                // SAFETY: the caller's promise.
                unsafe { Workspace::from_device_parts(part(held), part(rest), self.plan.device()) }
            }
        };
        workspace.map_err(|error| exception(&error))
    }
}

/// Computes the outputs, and leaves in `held` what a backward needs. `reduced` and `rows` say where the
/// named outputs go: one f32, N of them.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the parts of a call, from Python")]
pub(crate) fn forward(
    py: Python<'_>,
    plan: &Plan,
    given: Given,
    settings: Settings,
    held: Span,
    rest: Span,
    reduced: Vec<Named>,
    rows: Vec<Named>,
) -> PyResult<()> {
    let tokens = plan.plan.problem().tokens;
    // SAFETY: this module's contract with the Python side.
    let (inputs, call, mut workspace) =
        unsafe { (plan.inputs(&given)?, plan.call(&settings)?, plan.workspace(held, rest)?) };
    let mut outputs = Outputs::new();
    for (name, at) in &reduced {
        // SAFETY: as above.
        outputs = outputs.reduced(name, unsafe { plan.view_mut((*at, 1), Element::F32)? });
    }
    for (name, at) in &rows {
        // SAFETY: as above.
        outputs = outputs.row(name, unsafe { plan.view_mut((*at, tokens), Element::F32)? });
    }
    let done = py.detach(|| plan.plan.forward(&inputs, &call, &mut workspace, outputs));
    done.map(|_| ()).map_err(|error| exception(&error))
}

/// Computes the gradients from what the forward of the same inputs under the same settings left in `held`.
/// `reduced` and `rows` are upstream gradients by output; `inputs_gradients` those wanted, by input.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "the parts of a call, from Python")]
pub(crate) fn backward(
    py: Python<'_>,
    plan: &Plan,
    given: Given,
    settings: Settings,
    held: Span,
    rest: Span,
    reduced: Vec<Named>,
    rows: Vec<Named>,
    hidden_gradient: Option<usize>,
    classifier_gradient: Option<usize>,
    input_gradients: Vec<Named>,
) -> PyResult<()> {
    let problem = plan.plan.problem();
    // SAFETY: this module's contract with the Python side.
    let (inputs, call, mut workspace) =
        unsafe { (plan.inputs(&given)?, plan.call(&settings)?, plan.workspace(held, rest)?) };
    let mut upstream = Upstream::new();
    for (name, at) in &reduced {
        // SAFETY: as above.
        upstream = upstream.scalar(name, unsafe { plan.argument::<f32>("an upstream gradient", *at)? });
    }
    for (name, at) in &rows {
        // SAFETY: as above.
        upstream = upstream.rows(name, unsafe { plan.view((*at, problem.tokens), Element::F32)? });
    }
    let mut gradients = GradientViews::new();
    if let (Some(at), Some(output)) = (hidden_gradient, problem.hidden_gradient) {
        let span = (at, problem.tokens * problem.hidden);
        // SAFETY: as above.
        gradients = gradients.hidden(unsafe { plan.view_mut(span, output.dtype.into())? });
    }
    if let (Some(at), Some(output)) = (classifier_gradient, problem.classifier_gradient) {
        let span = (at, problem.vocab * problem.hidden);
        // SAFETY: as above.
        gradients = gradients.classifier(unsafe { plan.view_mut(span, output.dtype.into())? });
    }
    for (name, at) in &input_gradients {
        let len = match plan.kind_of(name) {
            Some(InputKind::Col) => problem.vocab,
            Some(InputKind::Scalar) => 1,
            _ => problem.tokens,
        };
        // SAFETY: as above.
        gradients = gradients.input(name, unsafe { plan.view_mut((*at, len), Element::F32)? });
    }
    // SAFETY: the Python side keeps its forward's plan, or asks with what its forward asked with, which gives that plan or
    // one of the same filter and schedule, whose workspace is laid out alike; it hands back what that forward left, with the same inputs and settings, which autograd checks to be unchanged.
    let saved = unsafe { plan.plan.saved_in(&workspace) };
    let done = py.detach(|| plan.plan.backward(saved, &inputs, &upstream, &call, &mut workspace, gradients));
    done.map_err(|error| exception(&error))
}
