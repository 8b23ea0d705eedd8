//! Host buffers for a device that does not see them: copied in before a call, copied out after it.

use crate::device::{Device, Inner};
use crate::driver::{Buffer, Stream};
use crate::error::{Error, Result};
use crate::inputs::Inputs;
use crate::outputs::{GradientViews, Outputs};
use crate::views::{Element, Place, View, ViewMut};
use std::marker::PhantomData;

/// The device's copies of a call's host buffers. On the host itself there are none, and views pass through.
pub(super) struct Staging<'a> {
    stream: Option<Stream>,
    buffers: Vec<Buffer>,
    /// What comes back: a host buffer and the index of its copy.
    results: Vec<(ViewMut<'a>, usize)>,
    life: PhantomData<&'a mut [u8]>,
}

impl<'a> Staging<'a> {
    pub(super) fn new(device: &Device) -> Result<Staging<'a>> {
        let stream = match device.inner() {
            Inner::Cpu => None,
            Inner::Cuda(context) => Some(context.new_stream()?),
        };
        Ok(Staging { stream, buffers: Vec::new(), results: Vec::new(), life: PhantomData })
    }

    /// The stream that the call has to run on, as the driver's raw handle.
    pub(super) fn stream(&self) -> Option<u64> {
        self.stream.as_ref().map(|stream| stream.raw().0 as u64)
    }

    fn copy_in(&mut self, view: &View<'a>, what: &str) -> Result<View<'a>> {
        // As it is, place and all: a view of a device is refused when the call is validated.
        let Some(stream) = &self.stream else { return Ok(*view) };
        if view.place() != Place::Host {
            return Err(Error::DeviceMismatch {
                what: what.to_owned(),
                expected: Place::Host.to_string(),
                found: view.place().to_string(),
            });
        }
        let bytes = view.raw.len * view.element().bytes();
        let buffer = stream.context().alloc(bytes, what)?;
        // SAFETY: a host view is valid for reads of its elements.
        let values = unsafe { std::slice::from_raw_parts(non_null(view.raw.address), bytes) };
        stream.upload(&buffer, 0, values)?;
        let address = buffer.ptr().0;
        let ordinal = stream.context().info().index;
        self.buffers.push(buffer);
        // SAFETY: the buffer holds as many elements and lives as long as this staging.
        Ok(unsafe { View::device(address, view.raw.len, view.element(), ordinal) })
    }

    fn room_for(&mut self, view: ViewMut<'a>, what: &str) -> Result<ViewMut<'a>> {
        let Some(stream) = &self.stream else { return Ok(view) };
        let (len, element): (usize, Element) = (view.raw.len, view.element());
        let buffer = stream.context().alloc(len * element.bytes(), what)?;
        stream.poison(&buffer, 0)?;
        let address = buffer.ptr().0;
        let ordinal = stream.context().info().index;
        self.results.push((view, self.buffers.len()));
        self.buffers.push(buffer);
        // SAFETY: the buffer has room for as many elements, nothing else uses it, and it lives as long as
        // this staging.
        Ok(unsafe { ViewMut::device(address, len, element, ordinal) })
    }

    pub(super) fn inputs(&mut self, inputs: &Inputs<'a>) -> Result<Inputs<'a>> {
        let mut staged = Inputs::new(
            self.copy_in(&inputs.hidden, "the hidden states")?,
            self.copy_in(&inputs.classifier, "the classifier")?,
        );
        if let Some(targets) = &inputs.targets {
            staged = staged.targets(self.copy_in(targets, "the targets")?);
        }
        for (name, values) in &inputs.rows {
            staged = staged.row(name, self.copy_in(values, name)?);
        }
        for (name, values) in &inputs.cols {
            staged = staged.col(name, self.copy_in(values, name)?);
        }
        staged.scalars.clone_from(&inputs.scalars);
        Ok(staged)
    }

    pub(super) fn outputs(&mut self, outputs: Outputs<'a>) -> Result<Outputs<'a>> {
        let mut staged = Outputs::new();
        for (name, values) in outputs.rows {
            staged = staged.row(&name, self.room_for(values, &name)?);
        }
        for (name, value) in outputs.reduced {
            staged = staged.reduced(&name, self.room_for(value, &name)?);
        }
        Ok(staged)
    }

    pub(super) fn gradients(&mut self, gradients: GradientViews<'a>) -> Result<GradientViews<'a>> {
        let mut staged = GradientViews::new();
        if let Some(view) = gradients.hidden {
            staged = staged.hidden(self.room_for(view, "the gradient of the hidden states")?);
        }
        if let Some(view) = gradients.classifier {
            staged = staged.classifier(self.room_for(view, "the gradient of the classifier")?);
        }
        for (name, view) in gradients.inputs {
            staged = staged.input(&name, self.room_for(view, &name)?);
        }
        Ok(staged)
    }

    /// Copies the results out and waits for them.
    pub(super) fn finish(self) -> Result<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        for (view, at) in &self.results {
            let bytes = view.raw.len * view.element().bytes();
            // SAFETY: a host view is valid for writes of its elements, and unaliased.
            let values = unsafe { std::slice::from_raw_parts_mut(non_null(view.raw.address), bytes) };
            stream.download(&self.buffers[*at], 0, values)?;
        }
        stream.synchronize()
    }
}

/// A pointer that a slice, possibly empty, may be made of.
fn non_null(address: *mut u8) -> *mut u8 {
    if address.is_null() { std::ptr::dangling_mut() } else { address }
}
