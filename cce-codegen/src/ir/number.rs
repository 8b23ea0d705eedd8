//! A finite f64 that can be compared, hashed and interned.

use serde::{Deserialize, Serialize};

/// A literal of the language: f64 by its bits, so that interning is exact (0.0 and -0.0 differ).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "f64", into = "f64")]
pub struct Number(u64);

impl Number {
    /// Zero.
    pub const ZERO: Number = Number::new(0.0);
    /// One.
    pub const ONE: Number = Number::new(1.0);

    /// The number with this value.
    pub const fn new(value: f64) -> Number {
        Number(value.to_bits())
    }

    /// Its value.
    pub const fn value(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Number {
        Number::new(value)
    }
}

impl From<Number> for f64 {
    fn from(number: Number) -> f64 {
        number.value()
    }
}

impl std::fmt::Debug for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.value())
    }
}
