//! Validation of a call: names, types, sizes, alignment, places. What comes out needs no second look.

use crate::call::{Arg, ArgSource, Call, TokenReduction};
use crate::error::{Error, Result};
use crate::executor::{
    ResolvedGradients, ResolvedInput, ResolvedInputs, ResolvedOutput, ResolvedReduction, ResolvedSettings,
    ResolvedUpstream,
};
use crate::inputs::Inputs;
use crate::outputs::{GradientViews, Outputs, Upstream};
use crate::views::{Element, Place, RawView, View, ViewMut};
use crate::workspace::{RawWorkspace, Workspace, WorkspaceSize};
use cce_codegen::ir::{InputId, InputKind, Program};
use cce_codegen::problem::{Layout, Problem};

/// A plan's side of the validation.
pub(super) struct Resolver<'p> {
    pub(super) program: &'p Program,
    pub(super) problem: &'p Problem,
    pub(super) place: Place,
    pub(super) ignore_index: Option<i64>,
    pub(super) needed: WorkspaceSize,
}

/// A buffer as it was given.
#[derive(Clone, Copy)]
struct Given {
    raw: RawView,
    place: Place,
}

impl From<&View<'_>> for Given {
    fn from(view: &View<'_>) -> Given {
        Given { raw: view.raw, place: view.place }
    }
}

impl From<&ViewMut<'_>> for Given {
    fn from(view: &ViewMut<'_>) -> Given {
        Given { raw: view.raw, place: view.place }
    }
}

impl Resolver<'_> {
    pub(super) fn inputs(&self, given: &Inputs<'_>) -> Result<ResolvedInputs> {
        let problem = self.problem;
        let hidden =
            self.matrix("the hidden states", (&given.hidden).into(), problem.tokens, problem.hidden_layout)?;
        let classifier = self.matrix(
            "the classifier",
            (&given.classifier).into(),
            problem.vocab,
            problem.classifier_layout,
        )?;
        let targets = match (&given.targets, self.program.has_target()) {
            (Some(view), true) => {
                Some(self.vector("the targets", view.into(), problem.index.into(), problem.tokens)?)
            }
            (None, false) => None,
            (None, true) => return Err(Error::MissingInput { what: "the targets".to_owned() }),
            (Some(_), false) => return Err(self.unknown("target input", "targets", InputKind::Target)),
        };
        self.check_names("Row input", InputKind::Row, given.rows.iter().map(|(name, _)| name))?;
        self.check_names("Col input", InputKind::Col, given.cols.iter().map(|(name, _)| name))?;
        self.check_names("Scalar input", InputKind::Scalar, given.scalars.iter().map(|(name, _)| name))?;
        let values = self.program.inputs().iter().map(|input| {
            let name = input.name.as_ref();
            let missing =
                || Error::MissingInput { what: format!("the {} input `{name}`", input.kind.name()) };
            let what = || format!("the {} input `{name}`", input.kind.name());
            Ok(match input.kind {
                InputKind::Logit | InputKind::Target => ResolvedInput::Implied,
                InputKind::Row => {
                    let view = find(&given.rows, name).ok_or_else(missing)?;
                    ResolvedInput::Row(self.vector(&what(), view.into(), Element::F32, problem.tokens)?)
                }
                InputKind::Col => {
                    let view = find(&given.cols, name).ok_or_else(missing)?;
                    ResolvedInput::Col(self.vector(&what(), view.into(), Element::F32, problem.vocab)?)
                }
                InputKind::Scalar => {
                    let arg = find(&given.scalars, name).ok_or_else(missing)?;
                    ResolvedInput::Scalar(self.argument(&what(), arg)?)
                }
            })
        });
        Ok(ResolvedInputs {
            hidden,
            classifier,
            targets,
            ignore_index: self.ignore_index,
            values: values.collect::<Result<_>>()?,
        })
    }

    pub(super) fn settings(&self, call: &Call<'_>) -> Result<ResolvedSettings> {
        let reduction = match &call.reduction {
            TokenReduction::None | TokenReduction::Sum => ResolvedReduction::Sum,
            TokenReduction::Mean => ResolvedReduction::Mean,
            TokenReduction::DividedBy(divisor) => {
                ResolvedReduction::DividedBy(self.argument("the reduction's divisor", divisor)?)
            }
            TokenReduction::MeanByTarget(name) => {
                if !self.program.has_target() {
                    return Err(self.unknown("target input", "targets", InputKind::Target));
                }
                ResolvedReduction::MeanByTarget(self.input("Col input", name, &[InputKind::Col])?)
            }
        };
        if call.stream.is_some() && self.place == Place::Host {
            return Err(Error::DeviceMismatch {
                what: "the stream".to_owned(),
                expected: "the CPU device, which has no streams".to_owned(),
                found: "a CUDA device".to_owned(),
            });
        }
        Ok(ResolvedSettings {
            reduction,
            seed: self.argument("the seed", &call.seed)?,
            stream: call.stream,
            check_targets: call.check_targets,
        })
    }

    pub(super) fn outputs(&self, given: &Outputs<'_>, call: &Call<'_>) -> Result<Vec<ResolvedOutput>> {
        let mut resolved = vec![ResolvedOutput::default(); self.program.outputs().len()];
        for (field, view) in &given.rows {
            let what = format!("the output `{field}`");
            let raw = self.vector(&what, view.into(), Element::F32, self.problem.tokens)?;
            once(&mut resolved[self.field(field)?].rows, raw, &what)?;
        }
        for (field, view) in &given.reduced {
            let what = format!("the reduced output `{field}`");
            if call.reduction == TokenReduction::None {
                return Err(Error::InvalidCall {
                    reason: format!(
                        "{what} needs a token reduction, and the call has None: choose Sum or Mean"
                    ),
                });
            }
            let raw = self.vector(&what, view.into(), Element::F32, 1)?;
            once(&mut resolved[self.field(field)?].reduced, raw, &what)?;
        }
        Ok(resolved)
    }

    pub(super) fn upstreams(&self, given: &Upstream<'_>) -> Result<Vec<ResolvedUpstream>> {
        let mut resolved = vec![ResolvedUpstream::default(); self.program.outputs().len()];
        let differentiable = |field: &str| {
            let at = self.field(field)?;
            if self.program.outputs()[at].differentiable {
                return Ok(at);
            }
            Err(Error::InvalidCall {
                reason: format!(
                    "the output `{field}` of `{}` is not differentiable and takes no upstream gradient",
                    self.program.name()
                ),
            })
        };
        for (field, arg) in &given.scalars {
            let what = format!("the upstream gradient of `{field}`");
            once(&mut resolved[differentiable(field)?].scalar, self.argument(&what, arg)?, &what)?;
        }
        for (field, view) in &given.rows {
            let what = format!("the upstream gradient of `{field}`");
            let raw = self.vector(&what, view.into(), Element::F32, self.problem.tokens)?;
            once(&mut resolved[differentiable(field)?].rows, raw, &what)?;
        }
        if given.scalars.is_empty() && given.rows.is_empty() {
            return Err(Error::MissingInput { what: "an upstream gradient of any output".to_owned() });
        }
        Ok(resolved)
    }

    pub(super) fn gradients(&self, given: &GradientViews<'_>) -> Result<ResolvedGradients> {
        let problem = self.problem;
        if !problem.wants_gradients() {
            return Err(Error::InvalidCall {
                reason: "the plan was built without gradients: ask for them when it is built".to_owned(),
            });
        }
        let hidden = self.gradient(
            "the gradient of the hidden states",
            given.hidden.as_ref(),
            problem.hidden_gradient.map(|output| (output.dtype.into(), problem.tokens * problem.hidden)),
        )?;
        let classifier = self.gradient(
            "the gradient of the classifier",
            given.classifier.as_ref(),
            problem.classifier_gradient.map(|output| (output.dtype.into(), problem.vocab * problem.hidden)),
        )?;
        let name_of = |id: &InputId| self.program.inputs()[id.index()].name.as_ref();
        for (at, (name, _)) in given.inputs.iter().enumerate() {
            let wanted = problem.input_gradients.iter().any(|id| name_of(id) == name);
            if !wanted {
                let known: Vec<&str> = problem.input_gradients.iter().map(name_of).collect();
                return Err(Error::UnknownName {
                    what: "input gradient".to_owned(),
                    name: name.clone(),
                    known: match known.is_empty() {
                        true => "none: the plan was built without gradients of inputs".to_owned(),
                        false => format!("one of those the plan was built for: {}", known.join(", ")),
                    },
                });
            }
            if given.inputs[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(twice(&format!("the gradient of the input `{name}`")));
            }
        }
        let inputs = problem.input_gradients.iter().map(|id| {
            let input = &self.program.inputs()[id.index()];
            let len = match input.kind {
                InputKind::Row => problem.tokens,
                InputKind::Col => problem.vocab,
                _ => 1,
            };
            let what = format!("the gradient of the input `{}`", input.name);
            let view = given.inputs.iter().find(|(name, _)| *name == input.name).map(|(_, view)| view);
            let raw = self.gradient(&what, view, Some((Element::F32, len)))?;
            raw.ok_or(Error::MissingInput { what })
        });
        Ok(ResolvedGradients { hidden, classifier, inputs: inputs.collect::<Result<_>>()? })
    }

    pub(super) fn workspace(&self, workspace: &mut Workspace<'_>) -> Result<RawWorkspace> {
        if workspace.place() != self.place {
            return Err(self.elsewhere("the workspace", workspace.place()));
        }
        workspace.raw(self.needed)
    }

    fn gradient(
        &self,
        what: &str,
        given: Option<&ViewMut<'_>>,
        wanted: Option<(Element, usize)>,
    ) -> Result<Option<RawView>> {
        match (given, wanted) {
            (None, None) => Ok(None),
            (Some(view), Some((element, len))) => {
                let raw = self.vector(what, view.into(), element, len)?;
                self.aligned(what, raw, element.bytes())?;
                Ok(Some(raw))
            }
            (None, Some(_)) => Err(Error::MissingInput { what: format!("a buffer for {what}") }),
            (Some(_), None) => Err(Error::InvalidCall {
                reason: format!("{what} was given a buffer, but the plan was built without it"),
            }),
        }
    }

    /// A row-major matrix of D columns under a layout: the last row needs no padding behind it.
    fn matrix(&self, what: &str, given: Given, rows: usize, layout: Layout) -> Result<RawView> {
        self.here(what, given.place)?;
        self.typed(what, given.raw, self.problem.dtype.into())?;
        let stride = layout.row_stride;
        let least = if rows == 0 { 0 } else { (rows - 1) * stride + self.problem.hidden };
        let most = rows * stride;
        if given.raw.len < least || given.raw.len > most {
            return Err(Error::WrongShape {
                what: what.to_owned(),
                expected: match least == most {
                    true => format!("[{rows}, {}]: {least} elements", self.problem.hidden),
                    false => format!(
                        "[{rows}, {}] with row stride {stride}: {least} to {most} elements",
                        self.problem.hidden
                    ),
                },
                found: format!("{} elements", given.raw.len),
            });
        }
        if rows > 0 {
            self.aligned(what, given.raw, layout.align)?;
        }
        Ok(given.raw)
    }

    fn vector(&self, what: &str, given: Given, element: Element, len: usize) -> Result<RawView> {
        self.here(what, given.place)?;
        self.typed(what, given.raw, element)?;
        if given.raw.len != len {
            return Err(Error::WrongSize { what: what.to_owned(), expected: len, found: given.raw.len });
        }
        if len > 0 {
            self.aligned(what, given.raw, element.bytes())?;
        }
        Ok(given.raw)
    }

    fn argument<T: Copy>(&self, what: &str, arg: &Arg<'_, T>) -> Result<ArgSource<T>> {
        match arg.source {
            ArgSource::Host(_) => Ok(arg.source),
            ArgSource::Device { address, place } => {
                if place != self.place {
                    return Err(self.elsewhere(what, place));
                }
                let required = size_of::<T>() as u64;
                if !address.is_multiple_of(required) {
                    return Err(Error::Alignment { what: what.to_owned(), address, required });
                }
                Ok(arg.source)
            }
        }
    }

    fn here(&self, what: &str, place: Place) -> Result<()> {
        if place == self.place { Ok(()) } else { Err(self.elsewhere(what, place)) }
    }

    fn elsewhere(&self, what: &str, found: Place) -> Error {
        Error::DeviceMismatch {
            what: what.to_owned(),
            expected: self.place.to_string(),
            found: found.to_string(),
        }
    }

    fn typed(&self, what: &str, raw: RawView, element: Element) -> Result<()> {
        if raw.element == element {
            return Ok(());
        }
        Err(Error::WrongDtype {
            what: what.to_owned(),
            expected: element.name().to_owned(),
            found: raw.element.name().to_owned(),
        })
    }

    fn aligned(&self, what: &str, raw: RawView, align: usize) -> Result<()> {
        let (address, required) = (raw.address.addr() as u64, align.max(1) as u64);
        if address.is_multiple_of(required) {
            return Ok(());
        }
        Err(Error::Alignment { what: what.to_owned(), address, required })
    }

    fn field(&self, name: &str) -> Result<usize> {
        let outputs = self.program.outputs();
        outputs.iter().position(|output| output.name == name).ok_or_else(|| {
            let known: Vec<&str> = outputs.iter().map(|output| output.name.as_ref()).collect();
            Error::UnknownName { what: "output".to_owned(), name: name.to_owned(), known: self.among(&known) }
        })
    }

    /// The input of this name if its kind is one of `kinds`.
    pub(super) fn input(&self, what: &str, name: &str, kinds: &[InputKind]) -> Result<InputId> {
        let inputs = self.program.inputs();
        let at = inputs.iter().position(|input| input.name == name && kinds.contains(&input.kind));
        match at {
            Some(at) => Ok(InputId(at as u16)),
            None => Err(self.unknown_among(what, name, kinds)),
        }
    }

    fn check_names<'n>(
        &self,
        what: &str,
        kind: InputKind,
        given: impl Iterator<Item = &'n String> + Clone,
    ) -> Result<()> {
        for (at, name) in given.clone().enumerate() {
            self.input(what, name, &[kind])?;
            if given.clone().take(at).any(|earlier| earlier == name) {
                return Err(twice(&format!("the {what} `{name}`")));
            }
        }
        Ok(())
    }

    fn unknown(&self, what: &str, name: &str, kind: InputKind) -> Error {
        self.unknown_among(what, name, &[kind])
    }

    fn unknown_among(&self, what: &str, name: &str, kinds: &[InputKind]) -> Error {
        let inputs = self.program.inputs();
        let known: Vec<&str> = inputs
            .iter()
            .filter(|input| kinds.contains(&input.kind))
            .map(|input| input.name.as_ref())
            .collect();
        let mut known = self.among(&known);
        if let Some(input) = inputs.iter().find(|input| input.name == name && !kinds.contains(&input.kind)) {
            let how = match input.kind {
                InputKind::Row => format!("; `{name}` is a Row: give it with `.row`"),
                InputKind::Col => format!("; `{name}` is a Col: give it with `.col`"),
                InputKind::Scalar => format!("; `{name}` is a Scalar: give it with `.scalar`"),
                InputKind::Target => format!("; `{name}` is the Target: give it with `.targets`"),
                InputKind::Logit => format!("; `{name}` is the Logit, which is computed"),
            };
            known += &how;
        }
        Error::UnknownName { what: what.to_owned(), name: name.to_owned(), known }
    }

    /// The names that would do, in words.
    fn among(&self, names: &[&str]) -> String {
        let program = self.program.name();
        match names {
            [] => format!("none: `{program}` has none"),
            names => format!("one of those of `{program}`: {}", names.join(", ")),
        }
    }
}

fn find<'a, T>(list: &'a [(String, T)], name: &str) -> Option<&'a T> {
    list.iter().find(|(given, _)| given == name).map(|(_, value)| value)
}

fn once<T>(slot: &mut Option<T>, value: T, what: &str) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(twice(what)),
    }
}

fn twice(what: &str) -> Error {
    Error::InvalidCall { reason: format!("{what} is given twice") }
}
