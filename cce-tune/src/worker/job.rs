//! What a worker works on, as data.

use crate::Error;
use crate::arguments::Arguments;
use crate::data::{Head, HeadSource};
use crate::task::Task;
use cce_codegen::ir::Program;
use cce_codegen::problem::{DType, Filter, IndexType, Problem};
use cce_runtime::{Device, Gradients, selection};
use serde::{Deserialize, Serialize};

/// The layout of [`Job`].
pub const JOB_SCHEMA: u32 = 1;

/// A task, its inputs and its device.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Job {
    /// The layout: [`JOB_SCHEMA`].
    pub schema: u32,
    /// The loss, as `Program::save` writes it.
    pub program: String,
    /// N.
    pub tokens: usize,
    /// D.
    pub hidden: usize,
    /// V.
    pub vocab: usize,
    /// Type of hidden states and classifier.
    pub dtype: DType,
    /// The filter; `None`: that of a plan.
    pub filter: Option<Filter>,
    /// Whether dE is computed.
    pub hidden_gradient: bool,
    /// Whether dC is.
    pub classifier_gradient: bool,
    /// Inputs whose gradients are computed.
    pub input_gradients: Vec<String>,
    /// Type of the targets.
    pub index: IndexType,
    /// Whether tokens may be ignored.
    pub ignored: bool,
    /// The most bytes of workspace.
    pub memory_limit: Option<u64>,
    /// Values of the loss's scalars; the others are usual ones.
    pub scalars: Vec<(String, f32)>,
    /// The inputs.
    pub source: HeadSource,
    /// The problem as a plan understands it; `None`: not yet known.
    pub problem: Option<Problem>,
    /// The GPU's index; `None`: the CPU device.
    pub gpu: Option<usize>,
    /// Which device that is, in words: a GPU's UUID, a processor and its threads. `None`: any is right.
    #[serde(default)]
    pub identity: Option<String>,
}

/// What tells a device from others, in every process of a machine.
fn identity(device: &Device) -> String {
    match device.properties().cuda {
        Some(info) => info.uuid.to_string(),
        None => format!("{} with {} threads", selection::cpu().name(), rayon::current_num_threads()),
    }
}

impl Job {
    /// A task on these inputs, on the CPU device.
    pub fn new(task: &Task, scalars: &[(String, f32)], source: HeadSource) -> Job {
        Job {
            schema: JOB_SCHEMA,
            program: task.program.save(),
            tokens: task.tokens,
            hidden: task.width,
            vocab: task.vocab,
            dtype: task.dtype,
            filter: task.filter,
            hidden_gradient: task.gradients.hidden,
            classifier_gradient: task.gradients.classifier,
            input_gradients: task.input_gradients.clone(),
            index: task.index,
            ignored: task.ignored,
            memory_limit: task.memory_limit,
            scalars: scalars.to_vec(),
            source,
            problem: None,
            gpu: None,
            identity: None,
        }
    }

    /// On this device, for this problem.
    #[must_use]
    pub fn on(&self, device: &Device, problem: &Problem) -> Job {
        let gpu = device.properties().cuda.map(|info| info.index);
        Job { gpu, problem: Some(problem.clone()), identity: Some(identity(device)), ..self.clone() }
    }

    /// The task.
    ///
    /// # Errors
    /// When it was written by a version with another layout, or holds no valid loss.
    pub fn task(&self) -> Result<Task, Error> {
        if self.schema != JOB_SCHEMA {
            let reason = format!("the job has schema {}, expected {JOB_SCHEMA}: plan again", self.schema);
            return Err(Error::Usage { reason });
        }
        let program = Program::load(&self.program)
            .map_err(|error| Error::Usage { reason: format!("the job holds no loss: {error}") })?;
        let gradients = match (self.hidden_gradient, self.classifier_gradient) {
            (true, true) => Gradients::both(),
            (true, false) => Gradients::hidden(),
            (false, true) => Gradients::classifier(),
            (false, false) => Gradients::none(),
        };
        Ok(Task {
            filter: self.filter,
            gradients,
            input_gradients: self.input_gradients.clone(),
            index: self.index,
            ignored: self.ignored,
            memory_limit: self.memory_limit,
            ..Task::new(program, self.tokens, self.hidden, self.vocab, self.dtype)
        })
    }

    /// The device.
    ///
    /// # Errors
    /// What the driver reports; when this process finds another device in its place.
    pub fn device(&self) -> Result<Device, Error> {
        let device = match self.gpu {
            Some(index) => Device::cuda(index)?,
            None => Device::cpu(),
        };
        let found = identity(&device);
        match &self.identity {
            Some(expected) if *expected != found => {
                let reason = format!(
                    "the worker's device is {found}, expected {expected}: the environment was changed after the program \
                     that tunes first used the device; set CUDA_VISIBLE_DEVICES, CUDA_DEVICE_ORDER and \
                     RAYON_NUM_THREADS before it starts"
                );
                Err(Error::Usage { reason })
            }
            _ => Ok(device),
        }
    }

    /// The inputs.
    ///
    /// # Errors
    /// As [`HeadSource::head`].
    pub fn head(&self) -> Result<Head, Error> {
        self.source.head(self.tokens, self.hidden, self.vocab, self.dtype)
    }

    /// Values for the loss's own inputs.
    ///
    /// # Errors
    /// As [`Arguments::new`].
    pub fn arguments(&self, task: &Task) -> Result<Arguments, Error> {
        Arguments::new(&task.program, task.tokens, task.vocab, &self.scalars)
    }
}
