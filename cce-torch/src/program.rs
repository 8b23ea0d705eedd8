//! Programs: built operation by operation as the Python front end traces a loss, or read from text.
//!
//! On the Python side a program is its saved text: a constant that a compiled graph may hold, valid in every
//! process.

use crate::errors::unexpected;
use cce::{Diagnostic, InputKind, Level, Program, ProgramBuilder, Site, Value};
use cce_codegen::ir::{Cmp, UnaryOp};
use cce_codegen::valid::FUNCTIONS;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Builds a program. Values are small integers that this builder gave; sites are whatever the caller numbers.
#[pyclass(frozen, module = "cce_torch._native")]
pub(crate) struct Builder {
    state: Mutex<State>,
}

struct State {
    builder: Option<ProgramBuilder>,
    values: Vec<Value>,
}

impl State {
    fn add(&mut self, value: Value) -> usize {
        self.values.push(value);
        self.values.len() - 1
    }

    fn value(&self, at: usize) -> PyResult<Value> {
        let count = self.values.len();
        self.values
            .get(at)
            .copied()
            .ok_or_else(|| unexpected("a value", &format!("0 to {count}"), &at.to_string()))
    }

    fn builder(&mut self) -> PyResult<&mut ProgramBuilder> {
        self.builder.as_mut().ok_or_else(|| PyRuntimeError::new_err("the program is finished already"))
    }
}

/// One mistake: its site, the site of its other half, what is wrong, what to write instead.
type Mistake = (u32, Option<u32>, String, Option<String>);

fn mistake(diagnostic: Diagnostic) -> Mistake {
    let related = diagnostic.related.map(|site| site.0);
    (diagnostic.site.0, related, diagnostic.message, diagnostic.help)
}

fn kind(name: &str) -> PyResult<InputKind> {
    use InputKind::{Col, Logit, Row, Scalar, Target};
    [Logit, Target, Row, Col, Scalar]
        .into_iter()
        .find(|kind| kind.name() == name)
        .ok_or_else(|| unexpected("a kind", "Logit, Target, Row, Col or Scalar", name))
}

fn comparison(name: &str) -> PyResult<Cmp> {
    [Cmp::Lt, Cmp::Le, Cmp::Gt, Cmp::Ge, Cmp::Eq, Cmp::Ne]
        .into_iter()
        .find(|cmp| cmp.name() == name)
        .ok_or_else(|| unexpected("a comparison", "one of < <= > >= == !=", name))
}

impl Builder {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, make: impl FnOnce(&mut ProgramBuilder) -> Value) -> PyResult<usize> {
        let mut state = self.state();
        let value = make(state.builder()?);
        Ok(state.add(value))
    }
}

#[pymethods]
impl Builder {
    #[new]
    fn new(site: u32, name: &str, doc: &str) -> Builder {
        let mut builder = ProgramBuilder::new(Site(site), name);
        builder.doc(doc);
        Builder { state: Mutex::new(State { builder: Some(builder), values: Vec::new() }) }
    }

    /// Declares the next input.
    fn input(&self, site: u32, name: &str, kind_name: &str) -> PyResult<usize> {
        let kind = kind(kind_name)?;
        self.with(|b| b.input(Site(site), name, kind))
    }

    /// A number.
    fn constant(&self, site: u32, value: f64) -> PyResult<usize> {
        self.with(|b| b.constant(Site(site), value))
    }

    /// `-a`.
    fn neg(&self, site: u32, a: usize) -> PyResult<usize> {
        let a = self.state().value(a)?;
        self.with(|b| b.unary(Site(site), UnaryOp::Neg, a))
    }

    /// `a op b` for the operators `+ - * /`.
    fn binary(&self, site: u32, op: &str, a: usize, b: usize) -> PyResult<usize> {
        let (left, right) = {
            let state = self.state();
            (state.value(a)?, state.value(b)?)
        };
        let make = match op {
            "+" => ProgramBuilder::add,
            "-" => ProgramBuilder::sub,
            "*" => ProgramBuilder::mul,
            "/" => ProgramBuilder::div,
            _ => return Err(unexpected("an operator", "one of + - * /", op)),
        };
        self.with(|builder| make(builder, Site(site), left, right))
    }

    /// `then` where `lhs cmp rhs`, else `otherwise`.
    fn select(
        &self,
        site: u32,
        cmp: &str,
        lhs: usize,
        rhs: usize,
        then: usize,
        otherwise: usize,
    ) -> PyResult<usize> {
        let cmp = comparison(cmp)?;
        let (lhs, rhs, then, otherwise) = {
            let state = self.state();
            (state.value(lhs)?, state.value(rhs)?, state.value(then)?, state.value(otherwise)?)
        };
        self.with(|b| b.select(Site(site), (cmp, lhs, rhs), then, otherwise))
    }

    /// A function of the language by its name.
    fn call(&self, site: u32, name: &str, arguments: Vec<usize>) -> PyResult<usize> {
        let arguments = {
            let state = self.state();
            arguments.into_iter().map(|at| state.value(at)).collect::<PyResult<Vec<Value>>>()?
        };
        self.with(|b| b.call(Site(site), Site(site), name, &arguments))
    }

    /// Gives a value the name that messages call it by.
    fn bind(&self, name: &str, value: usize) -> PyResult<()> {
        let mut state = self.state();
        let value = state.value(value)?;
        state.builder()?.bind(name, value);
        Ok(())
    }

    /// The value that a name is bound to, as mentioned here.
    fn lookup(&self, site: u32, name: &str) -> PyResult<usize> {
        self.with(|b| b.lookup(Site(site), name))
    }

    /// The kind of a value; `None` for the target, and where a mistake stands.
    fn kind(&self, value: usize) -> PyResult<Option<&'static str>> {
        let mut state = self.state();
        let value = state.value(value)?;
        Ok(state.builder()?.kind(value).map(|kind| kind.name()))
    }

    /// A mistake that the caller found.
    fn error(&self, site: u32, message: &str, help: Option<&str>) -> PyResult<usize> {
        self.with(|b| b.error(Site(site), message, help))
    }

    /// Declares the next output.
    fn output(&self, site: u32, name: &str, value: usize) -> PyResult<()> {
        let mut state = self.state();
        let value = state.value(value)?;
        state.builder()?.output(Site(site), name, value);
        Ok(())
    }

    /// The program's text, and no mistakes; or `None` and all of them.
    fn finish(&self) -> PyResult<(Option<String>, Vec<Mistake>)> {
        let builder = self.state().builder.take();
        match builder {
            None => Err(PyRuntimeError::new_err("the program is finished already")),
            Some(builder) => Ok(match builder.finish() {
                Ok(program) => (Some(program.save()), Vec::new()),
                Err(mistakes) => (None, mistakes.into_iter().map(mistake).collect()),
            }),
        }
    }
}

/// What a program takes and gives.
#[pyclass(frozen, get_all, module = "cce_torch._native")]
pub(crate) struct Description {
    name: String,
    /// Name and kind, in the order of the signature, the Logit and the Target included.
    inputs: Vec<(String, &'static str)>,
    /// Name, and whether it takes an upstream gradient.
    outputs: Vec<(String, bool)>,
    /// Blake3 of what is computed, in hexadecimal.
    hash: String,
}

pub(crate) fn load(text: &str) -> PyResult<Program> {
    Program::load(text).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Inputs and outputs of a program.
#[pyfunction]
pub(crate) fn describe(program: &str) -> PyResult<Description> {
    let program = load(program)?;
    Ok(Description {
        name: program.name().to_owned(),
        inputs: program.inputs().iter().map(|input| (input.name.to_string(), input.kind.name())).collect(),
        outputs: program
            .outputs()
            .iter()
            .map(|output| (output.name.to_string(), output.differentiable))
            .collect(),
        hash: program.hash().iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

/// A program as text for people: `program`, `gradient`.
#[pyfunction]
pub(crate) fn dump(program: &str, level: &str) -> PyResult<String> {
    let level: Level = match level {
        "program" => Level::Program,
        "gradient" => Level::Gradient,
        _ => return Err(unexpected("the level", "program or gradient", level)),
    };
    load(program)?.dump(level).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// The language's functions: name, usage, meaning.
#[pyfunction]
pub(crate) fn functions() -> Vec<(&'static str, &'static str, &'static str)> {
    FUNCTIONS.iter().map(|function| (function.name, function.usage, function.meaning)).collect()
}
