//! Values for the Row, Col and Scalar inputs of any program, so that it can be run without its user's data.

use crate::Error;
use cce_codegen::ir::{InputKind, Program};

/// One value an input, in the order of the program's inputs. Deterministic: the same program and shape get
/// the same values.
#[derive(Clone, Debug, PartialEq)]
pub struct Arguments {
    /// f32 \[N\], by name.
    pub rows: Vec<(String, Vec<f32>)>,
    /// f32 \[V\], by name.
    pub cols: Vec<(String, Vec<f32>)>,
    /// By name.
    pub scalars: Vec<(String, f32)>,
}

/// What the scalars of the shipped losses are named, and a value that is usual for each; every other is 1.
const USUAL: [(&str, f32); 10] = [
    ("cap", 30.0),
    ("scale", 1.0),
    ("temperature", 1.0),
    ("smoothing", 0.1),
    ("epsilon", 0.1),
    ("eps", 0.1),
    ("zw", 1e-4),
    ("z_weight", 1e-4),
    ("gamma", 2.0),
    ("weight", 1e-4),
];

impl Arguments {
    /// Values for `tokens` tokens and `vocab` entries. Rows and Cols named like a weight are within 0.5 to
    /// 1.5; others are small numbers around 0 (a Row that the program uses as an index reads as entry 0).
    /// Scalars are `given`, or usual for their name, or 1.
    ///
    /// # Errors
    /// When `given` names no Scalar input of the program.
    pub fn new(
        program: &Program,
        tokens: usize,
        vocab: usize,
        given: &[(String, f32)],
    ) -> Result<Arguments, Error> {
        let mut arguments = Arguments { rows: Vec::new(), cols: Vec::new(), scalars: Vec::new() };
        for input in program.inputs() {
            let name = input.name.to_string();
            match input.kind {
                InputKind::Row => arguments.rows.push((name.clone(), values(&name, tokens))),
                InputKind::Col => arguments.cols.push((name.clone(), values(&name, vocab))),
                InputKind::Scalar => {
                    let stated = given.iter().rev().find(|(of, _)| *of == name).map(|(_, value)| *value);
                    let usual = USUAL.iter().find(|(of, _)| *of == name).map_or(1.0, |(_, value)| *value);
                    arguments.scalars.push((name, stated.unwrap_or(usual)));
                }
                InputKind::Logit | InputKind::Target => {}
            }
        }
        if let Some((name, _)) =
            given.iter().find(|(name, _)| !arguments.scalars.iter().any(|(n, _)| n == name))
        {
            let known: Vec<&str> = arguments.scalars.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Error::UnknownScalar {
                name: name.clone(),
                program: program.name().to_owned(),
                known: if known.is_empty() { "none".to_owned() } else { known.join(", ") },
            });
        }
        Ok(arguments)
    }

    /// The arguments of the first tokens and entries.
    #[must_use]
    pub fn first(&self, tokens: usize, vocab: usize) -> Arguments {
        let cut = |values: &[(String, Vec<f32>)], len: usize| {
            values.iter().map(|(name, all)| (name.clone(), all[..len.min(all.len())].to_vec())).collect()
        };
        Arguments {
            rows: cut(&self.rows, tokens),
            cols: cut(&self.cols, vocab),
            scalars: self.scalars.clone(),
        }
    }
}

/// A fixed, irregular sequence in [0, 1): fractions of the multiples of the golden ratio.
fn values(name: &str, len: usize) -> Vec<f32> {
    let weight = name.contains("weight");
    (1..=len)
        .map(|at| {
            let fraction = (at as f64 * 0.618_033_988_749_894_9).fract() as f32;
            if weight { 0.5 + fraction } else { 0.2 * (fraction - 0.5) }
        })
        .collect()
}
