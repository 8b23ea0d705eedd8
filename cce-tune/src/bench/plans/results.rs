//! What one run computed, on the host, and whether anything can be compared with it.

use crate::Error;
use crate::arguments::Arguments;
use cce_codegen::ir::Program;

/// Everything that one run computed, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Results {
    /// The mean of the loss (of the first output, where none has that name).
    pub reduced: f32,
    /// Every output, token by token.
    pub outputs: Vec<(String, Vec<f32>)>,
    /// dE, dC and gradients of inputs, those that the task asks for.
    pub gradients: Vec<(String, Vec<f32>)>,
}

impl Results {
    /// What anything is compared with has to be finite everywhere: where it is not, nothing could be told
    /// from a mistake.
    ///
    /// # Errors
    /// [`Error::NotFinite`], with what is not, and the scalars in use.
    pub fn check_finite(&self, program: &Program, arguments: &Arguments) -> Result<(), Error> {
        let outputs = self.outputs.iter().map(|(name, values)| not_finite(&format!("output {name}"), values));
        let reduced = std::iter::once(not_finite("the mean loss", &[self.reduced]));
        let gradients = self.gradients.iter().map(|(name, values)| not_finite(name, values));
        refuse(outputs.chain(reduced).chain(gradients).flatten().collect(), program, arguments)
    }
}

/// What is not finite of a vector, in words.
pub(super) fn not_finite(what: &str, values: &[f32]) -> Option<String> {
    match values.iter().filter(|x| !x.is_finite()).count() {
        0 => None,
        _ if values.len() == 1 => Some(format!("{what} is {}", values[0])),
        count => Some(format!("{count} of {} elements of {what}", values.len())),
    }
}

/// Fails where something is not finite, with the scalars in use.
pub(super) fn refuse(not_finite: Vec<String>, program: &Program, arguments: &Arguments) -> Result<(), Error> {
    if not_finite.is_empty() {
        return Ok(());
    }
    let scalars = arguments.scalars.iter().map(|(name, value)| format!("{name} = {value}"));
    let scalars: Vec<String> = scalars.collect();
    Err(Error::NotFinite {
        program: program.name().to_owned(),
        what: not_finite.join(", "),
        scalars: if scalars.is_empty() { "none".to_owned() } else { scalars.join(", ") },
    })
}
