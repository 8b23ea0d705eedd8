//! A row of the table, and the sweep's last lines, for people and as JSON.

use super::arguments::What;
use super::errors::GradientError;
use super::input::Input;
use super::pairs::Pairs;
use cce::Filter;
use serde_json::{Value, json};

/// What was measured of one call at one number of tokens.
pub struct Row<'a> {
    pub gpu: &'a str,
    pub input: &'a Input,
    pub tokens: usize,
    pub what: What,
    /// The call, then cuBLASLt's product by its first proposal.
    pub beside_product: Pairs,
    /// cuBLASLt's fastest proposal over its first.
    pub fastest: f32,
    /// Share of the tokens that is ignored.
    pub ignored: f64,
    /// Whether they stand in runs.
    pub in_runs: bool,
    /// The call's time over that with none ignored.
    pub over_full: Option<f32>,
    /// Entries that a filter keeps a token that counts: sampled ones, or logits in tiles that are not skipped.
    pub kept: Option<f64>,
    /// What the plan asks for beyond inputs and outputs, in bytes.
    pub workspace: u64,
    /// Of dE and dC.
    pub errors: Option<[GradientError; 2]>,
}

/// The table's first line.
pub fn heading() -> String {
    format!(
        "{:<14} {:>6} {:>6} {:>7} {:>8} {:>6} | {:<18} | {:>7} {:>9} {:>7} {:>7} {:>6} {:>9} | {:>9} {:>9} \
         {:>9} {:>9} | {:>5} {:>5} clock held down by",
        "head",
        "N",
        "D",
        "V",
        "T ms",
        "best/T",
        "what",
        "x T",
        "ms",
        "ignored",
        "x full",
        "kept",
        "MB",
        "dE error",
        "dC error",
        "worst dE",
        "worst dC",
        "MHz",
        "W",
    )
}

/// A value with so many digits after its point, or a dash.
fn fixed(value: Option<impl Into<f64>>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{:.digits$}", value.into()))
}

fn exponent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2e}"))
}

impl Row<'_> {
    /// A line of the table.
    pub fn text(&self) -> String {
        let Pairs { ratio, first_ms: ms, second_ms: product, clock } = &self.beside_product;
        let error = |at: usize| self.errors.map(|errors| errors[at]);
        format!(
            "{:<14} {:>6} {:>6} {:>7} {product:>8.3} {:>6.3} | {:<18} | {ratio:>7.3} {ms:>9.3} {:>7.3} {:>7} \
             {:>6} {:>9.2} | {:>9} {:>9} {:>9} {:>9} | {:>5} {:>5} {}",
            self.input.name,
            self.tokens,
            self.input.width,
            self.input.vocab,
            self.fastest,
            self.what,
            self.ignored,
            fixed(self.over_full, 3),
            self.kept_text(),
            self.workspace as f64 / 1e6,
            exponent(error(0).map(|error| error.whole)),
            exponent(error(1).map(|error| error.whole)),
            exponent(error(0).map(|error| error.worst_row)),
            exponent(error(1).map(|error| error.worst_row)),
            fixed(clock.sm_mhz, 0),
            fixed(clock.watts, 0),
            clock.limits.map_or_else(|| "-".to_owned(), |limits| limits.to_string()),
        )
    }

    /// Of the logits, the share in tiles that are not skipped.
    fn kept_share(&self) -> Option<f64> {
        match self.what {
            What::Gradients(Filter::Blocks { .. }) => Some(self.kept? / self.input.vocab as f64),
            _ => None,
        }
    }

    fn kept_text(&self) -> String {
        self.kept_share().map_or_else(|| fixed(self.kept, 1), |share| format!("{:.1}%", 100.0 * share))
    }

    /// Names end in the unit. Errors are those of the table, `*_worst` of the worst row.
    pub fn json(&self) -> Value {
        let Pairs { ratio, first_ms, second_ms, clock } = &self.beside_product;
        let error = |at: usize| self.errors.map(|errors| errors[at]);
        json!({
            "gpu": self.gpu,
            "head": self.input.name,
            "data": self.input.data,
            "n": self.tokens,
            "d": self.input.width,
            "v": self.input.vocab,
            "dtype": self.input.dtype.name(),
            "what": self.what.to_string(),
            "t_ms": second_ms,
            "fastest_ratio": self.fastest,
            "ratio": ratio,
            "ms": first_ms,
            "us_per_token": f64::from(*first_ms) * 1e3 / self.tokens as f64,
            "ignored": self.ignored,
            "ignored_in_runs": self.in_runs,
            "over_full": self.over_full,
            "kept": self.kept,
            "kept_share": self.kept_share(),
            "workspace_mb": self.workspace as f64 / 1e6,
            "de_error": error(0).map(|error| error.whole),
            "dc_error": error(1).map(|error| error.whole),
            "de_error_worst": error(0).map(|error| error.worst_row),
            "dc_error_worst": error(1).map(|error| error.worst_row),
            "sm_mhz": clock.sm_mhz,
            "power_w": clock.watts,
            "clock_limits": clock.limits.map(|limits| limits.to_string()),
        })
    }
}

/// The times of one call over a sweep: of each number of tokens, milliseconds.
pub struct Sweep<'a> {
    pub gpu: &'a str,
    pub input: &'a Input,
    pub what: What,
    pub times: Vec<(usize, f32)>,
}

impl Sweep<'_> {
    /// Time a token over that of the best number of tokens, by number of tokens; and the best, in
    /// microseconds.
    fn relative(&self) -> (Vec<(usize, f64)>, f64) {
        let a_token: Vec<(usize, f64)> =
            self.times.iter().map(|&(tokens, ms)| (tokens, f64::from(ms) * 1e3 / tokens as f64)).collect();
        let best = a_token.iter().map(|&(_, us)| us).fold(f64::INFINITY, f64::min);
        (a_token.into_iter().map(|(tokens, us)| (tokens, us / best)).collect(), best)
    }

    /// A line below the table.
    pub fn text(&self) -> String {
        let (relative, best) = self.relative();
        let each: Vec<String> =
            relative.iter().map(|(tokens, times)| format!("{tokens} {times:.3}")).collect();
        format!(
            "{:<14} {:<18} time a token over the best ({best:.3} us): {}",
            self.input.name,
            self.what,
            each.join(", ")
        )
    }

    /// The same, told from a row by `sweep`: pairs of tokens and time a token over the best.
    pub fn json(&self) -> Value {
        let (sweep, best_us_per_token) = self.relative();
        json!({
            "gpu": self.gpu,
            "head": self.input.name,
            "data": self.input.data,
            "d": self.input.width,
            "v": self.input.vocab,
            "dtype": self.input.dtype.name(),
            "what": self.what.to_string(),
            "best_us_per_token": best_us_per_token,
            "sweep": sweep,
        })
    }
}
