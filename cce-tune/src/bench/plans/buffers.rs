//! The vectors of a task in its device's memory: copies of the inputs, and what a run writes.

use crate::Error;
use crate::bench::{HostData, Memory};
use crate::data::{Head, Targets};
use crate::task::Task;
use cce_codegen::ir::InputKind;
use cce_runtime::Element;

/// Copies of the inputs that timed runs rotate through, at most.
pub(super) const MOST_COPIES: usize = 4;

/// One copy of hidden states, classifier and targets.
pub(super) struct Copied<B> {
    pub(super) hidden: B,
    pub(super) classifier: B,
    pub(super) targets: B,
}

/// What a run writes.
pub(super) struct OutputBuffers<B> {
    pub(super) reduced: B,
    pub(super) rows: Vec<(String, B)>,
    pub(super) hidden: Option<B>,
    pub(super) classifier: Option<B>,
    pub(super) inputs: Vec<(String, B)>,
}

impl<B> OutputBuffers<B> {
    /// Filled with NaN.
    pub(super) fn new<M: Memory<Buffer = B>>(memory: &M, task: &Task) -> Result<OutputBuffers<B>, Error> {
        let own = Element::from(task.dtype);
        let program = &task.program;
        let wanted = |name: &str, wanted: bool, rows: usize| -> Result<Option<B>, Error> {
            wanted.then(|| memory.poisoned(own, rows * task.width, name)).transpose()
        };
        Ok(OutputBuffers {
            reduced: memory.poisoned(Element::F32, 1, "the reduced loss")?,
            rows: named(program.outputs().iter().map(|o| o.name.as_ref()), |name| {
                memory.poisoned(Element::F32, task.tokens, name)
            })?,
            hidden: wanted("dE", task.gradients.hidden, task.tokens)?,
            classifier: wanted("dC", task.gradients.classifier, task.vocab)?,
            inputs: named(task.input_gradients.iter().map(String::as_str), |name| {
                let kind = program.inputs().iter().find(|input| input.name == name).map(|input| input.kind);
                let len = match kind {
                    Some(InputKind::Row) => task.tokens,
                    Some(InputKind::Col) => task.vocab,
                    _ => 1,
                };
                memory.poisoned(Element::F32, len, name)
            })?,
        })
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = (String, &B)> {
        self.rows.iter().map(|(name, buffer)| (name.clone(), buffer))
    }

    pub(super) fn gradients(&self) -> impl Iterator<Item = (String, &B)> {
        let matrices = [("dE", &self.hidden), ("dC", &self.classifier)];
        let matrices =
            matrices.into_iter().filter_map(|(name, buffer)| Some((name.to_owned(), buffer.as_ref()?)));
        matrices.chain(self.inputs.iter().map(|(name, buffer)| (format!("the gradient of {name}"), buffer)))
    }
}

fn named<'a, B>(
    names: impl Iterator<Item = &'a str>,
    make: impl Fn(&str) -> Result<B, Error>,
) -> Result<Vec<(String, B)>, Error> {
    names.map(|name| Ok((name.to_owned(), make(name)?))).collect()
}

pub(super) fn named_values<B>(
    values: &[(String, Vec<f32>)],
    make: impl Fn(&str, &[f32]) -> Result<B, Error>,
) -> Result<Vec<(String, B)>, Error> {
    values.iter().map(|(name, values)| Ok((name.clone(), make(name, values)?))).collect()
}

/// Copy number `turn` of the inputs, with the tokens rotated by a part of their number; the classifier is copied on the
/// device from the first one's.
pub(super) fn copied<M: Memory>(
    memory: &M,
    head: &Head,
    first: Option<&Copied<M::Buffer>>,
    turn: usize,
) -> Result<Copied<M::Buffer>, Error> {
    let (hidden, targets) = head.rotated_tokens(turn * head.tokens / MOST_COPIES);
    let targets = match &targets {
        Targets::I32(values) => HostData::I32(values),
        Targets::I64(values) => HostData::I64(values),
    };
    Ok(Copied {
        hidden: memory.upload((&hidden).into(), "the hidden states")?,
        classifier: match first {
            Some(first) => memory.duplicate(&first.classifier, "the classifier")?,
            None => memory.upload((&head.classifier).into(), "the classifier")?,
        },
        targets: memory.upload(targets, "the targets")?,
    })
}
