//! Plans, each made once as long as somebody keeps it, and made again as it was.
//!
//! The Python side keeps plans, those used last and those whose backward is still to come. What stays here of a plan that
//! nobody keeps is its [`Recipe`], the filter and the schedule that were decided on: some hundred bytes. A plan that is
//! asked for again is built from it, whatever was tuned meanwhile. Of plans that nobody keeps the recipes of the
//! [`known::MOST`] asked for last stay: one of which it is gone is decided on anew, which comes to the same as long as nothing is
//! tuned between the forward and the backward of a compiled graph.
//!
//! Invariants: all plans of a key lay out their workspaces alike, so that what one's forward left, another's backward
//! reads rightly: a compiled graph names its plan by the key alone. Two threads that ask for one plan wait for one build;
//! other keys do not wait. Kernels stay loaded as long as the process lives, because graphs captured from calls run them and cannot
//! be asked; plans of other numbers of tokens share them.

use crate::errors::{exception, unexpected};
use crate::known::{self, locked, shared};
use crate::program;
use cce::{
    DType, Device, Filter, GradientOutput, IndexType, InputKind, Kernels, Layout, Place, Program, Schedule,
};
use pyo3::prelude::*;
use std::collections::HashMap;
use std::str::FromStr as _;
use std::sync::{Arc, LazyLock, Mutex, Weak};

/// A plan, and what a call has to look up in it.
#[pyclass(frozen, module = "cce_torch._native")]
pub(crate) struct Plan {
    pub(crate) plan: Arc<cce::Plan>,
    grade: String,
}

#[pymethods]
impl Plan {
    /// Bytes of workspace while a call runs, the held part included.
    #[getter]
    fn peak(&self) -> u64 {
        self.plan.workspace().peak
    }

    /// Bytes of workspace from a forward to its backward.
    #[getter]
    fn held(&self) -> u64 {
        self.plan.workspace().held
    }

    /// Bytes of workspace that a call needs for itself alone: the peak without the held part.
    #[getter]
    fn rest(&self) -> u64 {
        self.plan.workspace().peak - self.plan.workspace().held
    }

    /// The filter in use: `exact`, `sampled:2^-10,384`.
    #[getter]
    fn filter(&self) -> String {
        self.plan.problem().filter.to_string()
    }

    /// Whether calls draw random numbers.
    #[getter]
    fn samples(&self) -> bool {
        matches!(self.plan.problem().filter, Filter::Sampled { .. }) && self.plan.problem().wants_gradients()
    }

    /// What was decided for the caller and is worth knowing.
    #[getter]
    fn notes(&self) -> Vec<String> {
        self.plan.notes().to_vec()
    }

    /// How well the schedule fits: `exact`, `stale`, ..., `default`.
    #[getter]
    fn grade(&self) -> String {
        self.grade.clone()
    }

    /// The schedule, as text for people.
    #[getter]
    fn schedule(&self) -> String {
        format!("{:?}", self.plan.schedule())
    }

    /// The device's name.
    #[getter]
    fn device(&self) -> String {
        self.plan.device().name()
    }

    /// The same number for the same plan, as long as it is kept.
    #[getter]
    fn identity(&self) -> usize {
        Arc::as_ptr(&self.plan).addr()
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.plan)
    }
}

impl Plan {
    /// The ordinal of its GPU; `None` on the CPU.
    pub(crate) fn ordinal(&self) -> Option<usize> {
        match self.plan.device().place() {
            Place::Host => None,
            Place::Cuda(ordinal) => Some(ordinal),
        }
    }

    pub(crate) fn kind_of(&self, name: &str) -> Option<InputKind> {
        let inputs = self.plan.program().inputs();
        inputs.iter().find(|input| input.name == name).map(|input| input.kind)
    }
}

/// Everything that a plan is made from.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Shared by all keys of the program.
    program: Arc<str>,
    /// Which state of the tuning database it was chosen from: see [`crate::tune::tuning_state`].
    tuning: Arc<str>,
    tokens: usize,
    hidden: usize,
    vocab: usize,
    dtype: &'static str,
    index: &'static str,
    ignore_index: Option<i64>,
    filter: Option<String>,
    hidden_gradient: Option<(&'static str, bool)>,
    classifier_gradient: Option<(&'static str, bool)>,
    input_gradients: Vec<String>,
    hidden_layout: (usize, usize),
    classifier_layout: (usize, usize),
    device: Option<usize>,
}

/// What was decided when a plan was first built: enough to build it again as it was.
struct Recipe {
    filter: Filter,
    schedule: Schedule,
    /// How well the schedule fitted.
    grade: String,
}

/// What is known of a key.
#[derive(Default)]
struct Known {
    plan: Weak<cce::Plan>,
    recipe: Option<Recipe>,
}

/// Locked while a plan is built.
type Slot = Mutex<Known>;

static PLANS: LazyLock<Mutex<known::Known<Key, Slot>>> = LazyLock::new(Mutex::default);
/// The kernels of every plan there was.
static KERNELS: LazyLock<Mutex<Kernels>> = LazyLock::new(Mutex::default);
static DEVICES: LazyLock<Mutex<HashMap<usize, Device>>> = LazyLock::new(Mutex::default);

pub(crate) fn device(ordinal: Option<usize>) -> cce::Result<Device> {
    let Some(ordinal) = ordinal else { return Ok(Device::cpu()) };
    if let Some(device) = locked(&DEVICES).get(&ordinal) {
        return Ok(device.clone());
    }
    let device = Device::cuda(ordinal)?;
    Ok(locked(&DEVICES).entry(ordinal).or_insert(device).clone())
}

pub(crate) fn dtype(name: &str) -> PyResult<DType> {
    [DType::F32, DType::F16, DType::Bf16]
        .into_iter()
        .find(|dtype| dtype.name() == name)
        .ok_or_else(|| unexpected("the type", "f32, f16 or bf16", name))
}

fn index(name: &str) -> PyResult<IndexType> {
    match name {
        "i32" => Ok(IndexType::I32),
        "i64" => Ok(IndexType::I64),
        _ => Err(unexpected("the targets' type", "i32 or i64", name)),
    }
}

fn index_name(index: IndexType) -> &'static str {
    match index {
        IndexType::I32 => "i32",
        IndexType::I64 => "i64",
    }
}

impl Key {
    fn build(&self, program: &Program, recipe: Option<&Recipe>) -> PyResult<cce::Plan> {
        let layout = |(row_stride, align): (usize, usize)| Layout { row_stride, align };
        let gradient = |wish: Option<(&'static str, bool)>| {
            wish.map(|(name, accumulate)| dtype(name).map(|dtype| GradientOutput { dtype, accumulate }))
                .transpose()
        };
        let mut builder = cce::Plan::builder(program, self.tokens, self.hidden, self.vocab)
            .dtype(dtype(self.dtype)?)
            .index(index(self.index)?)
            .ignore_index(self.ignore_index)
            .hidden_gradient(gradient(self.hidden_gradient)?)
            .classifier_gradient(gradient(self.classifier_gradient)?)
            .hidden_layout(layout(self.hidden_layout))
            .classifier_layout(layout(self.classifier_layout));
        builder = match (recipe, &self.filter) {
            (Some(recipe), _) => builder.filter(recipe.filter).schedule(recipe.schedule),
            (None, Some(filter)) => builder.filter(self::filter(filter)?),
            (None, None) => builder,
        };
        for name in &self.input_gradients {
            builder = builder.input_gradient(name);
        }
        let device = device(self.device).map_err(|error| exception(&error))?;
        builder.build(&device).map_err(|error| exception(&error))
    }
}

/// A filter as the Python side writes it.
pub(crate) fn filter(text: &str) -> PyResult<Filter> {
    Filter::from_str(text).map_err(pyo3::exceptions::PyValueError::new_err)
}

/// A gradient that is wanted: its type, and whether it is added to what the buffer holds.
type Wish = (String, bool);

/// The plan for these settings, built if it was not yet. A gradient is wanted as a type and whether it is
/// accumulated; a layout is a row stride in elements and an alignment in bytes; the device is a GPU's ordinal,
/// or `None` for the CPU. `tuning` names the state of the tuning database that it is chosen from.
#[pyfunction]
#[pyo3(signature = (program, tuning, shape, dtype_name, targets, ignore_index, filter, gradients, input_gradients,
                    layouts, device))]
#[expect(clippy::too_many_arguments, reason = "one call from Python, all of which make up the key")]
pub(crate) fn plan(
    py: Python<'_>,
    program: &str,
    tuning: &str,
    shape: (usize, usize, usize),
    dtype_name: &str,
    targets: &str,
    ignore_index: Option<i64>,
    filter: Option<String>,
    gradients: (Option<Wish>, Option<Wish>),
    input_gradients: Vec<String>,
    layouts: ((usize, usize), (usize, usize)),
    device: Option<usize>,
) -> PyResult<Plan> {
    let wish = |given: Option<Wish>| {
        given.map(|(name, accumulate)| dtype(&name).map(|dtype| (dtype.name(), accumulate))).transpose()
    };
    let (hidden_gradient, classifier_gradient): (_, _) = (wish(gradients.0)?, wish(gradients.1)?);
    let key = Key {
        program: shared(program),
        tuning: shared(tuning),
        tokens: shape.0,
        hidden: shape.1,
        vocab: shape.2,
        dtype: dtype(dtype_name)?.name(),
        index: index_name(index(targets)?),
        ignore_index,
        filter,
        hidden_gradient,
        classifier_gradient,
        input_gradients,
        hidden_layout: layouts.0,
        classifier_layout: layouts.1,
        device,
    };
    let this = locked(&PLANS).get(&key, is_alive);
    // Building takes no lock but the slot's, and not the interpreter's: compiling may take seconds.
    py.detach(|| {
        let mut known = locked(&this);
        if let (Some(plan), Some(recipe)) = (known.plan.upgrade(), &known.recipe) {
            return Ok(Plan { plan, grade: recipe.grade.clone() });
        }
        let built =
            program::load(&key.program).and_then(|program| key.build(&program, known.recipe.as_ref()));
        let plan = match built {
            Ok(plan) => Arc::new(plan),
            Err(error) => {
                // Whoever waits for this slot tries for himself; who comes later makes one of his own. A recipe stays.
                if known.recipe.is_none() {
                    locked(&PLANS).remove(&key, &this);
                }
                return Err(error);
            }
        };
        locked(&KERNELS).add(&plan.kernels());
        known.plan = Arc::downgrade(&plan);
        let recipe = known.recipe.get_or_insert_with(|| Recipe {
            filter: plan.problem().filter,
            schedule: *plan.schedule(),
            grade: plan.grade().to_string(),
        });
        Ok(Plan { plan, grade: recipe.grade.clone() })
    })
}

/// How many plans there are, kept by the Python side or in use. Those that are being built are not counted yet, nor waited for.
#[pyfunction]
pub(crate) fn plans_alive() -> usize {
    let slots: Vec<Arc<Slot>> = locked(&PLANS).values().cloned().collect();
    slots.iter().filter(|slot| is_alive(slot)).count()
}

/// Whether somebody keeps the plan, as far as can be told without waiting for its build.
fn is_alive(slot: &Slot) -> bool {
    slot.try_lock().is_ok_and(|known| known.plan.strong_count() > 0)
}

/// How many plans can be made again as they were, at most how many of those that nobody keeps, and of how many texts of
/// programs and states of the database they are.
#[pyfunction]
pub(crate) fn plans_known() -> (usize, usize, usize) {
    let plans = locked(&PLANS).values().count();
    (plans, known::MOST, known::texts())
}
