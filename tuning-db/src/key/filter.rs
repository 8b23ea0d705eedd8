//! The gradient filter, with a threshold that compares and serialises exactly.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, Result};

/// How the softmax part of the gradient is thinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Filter {
    /// Nothing is dropped.
    Exact,
    /// Tiles in which every probability is below `eps` are skipped.
    Blocks {
        /// The threshold.
        eps: Eps,
    },
    /// Unbiased systematic sampling with step `eps`.
    Sampled {
        /// The step relative to the normaliser.
        eps: Eps,
        /// Mean number of entries kept a token, at most.
        max_entries: u32,
    },
}

/// A positive, finite threshold, held as the bits of an `f64`: two thresholds are the same key only when
/// they are the same number. Written as `2^-10` when it is a power of two, else as `0x` and the 16 hex
/// digits of its bits, so that no decimal rounding ever splits or joins keys.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Eps(u64);

impl Eps {
    /// 2^`exponent`.
    ///
    /// # Errors
    /// When 2^`exponent` is not a normal `f64`.
    pub fn power_of_two(exponent: i32) -> Result<Self> {
        Self::new(f64::from(exponent).exp2())
    }

    /// Any positive, normal number.
    ///
    /// # Errors
    /// When `value` is zero, negative, subnormal, infinite or not a number.
    pub fn new(value: f64) -> Result<Self> {
        if value.is_normal() && value > 0.0 {
            Ok(Self(value.to_bits()))
        } else {
            Err(Error::Invalid {
                what: "filter threshold eps",
                expected: "a positive finite number, such as 2^-10",
                found: value.to_string(),
            })
        }
    }

    /// The threshold.
    #[must_use]
    pub fn value(self) -> f64 {
        f64::from_bits(self.0)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    pub(crate) fn from_bits(bits: u64) -> Result<Self> {
        Self::new(f64::from_bits(bits))
    }

    /// The exponent, when this is a power of two.
    fn exponent(self) -> Option<i64> {
        const MANTISSA: u32 = f64::MANTISSA_DIGITS - 1;
        let biased = i64::try_from(self.0 >> MANTISSA).ok()?;
        (self.0.trailing_zeros() >= MANTISSA).then_some(biased - 1023)
    }

    fn parse(text: &str) -> Result<Self> {
        let bad = || Error::Invalid {
            what: "filter threshold eps",
            expected: "2^ and an exponent, or 0x and 16 hex digits of an f64",
            found: text.to_owned(),
        };
        if let Some(exponent) = text.strip_prefix("2^") {
            Self::power_of_two(exponent.parse().map_err(|_| bad())?)
        } else if let Some(hex) = text.strip_prefix("0x") {
            Self::from_bits(u64::from_str_radix(hex, 16).map_err(|_| bad())?)
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for Eps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.exponent() {
            Some(exponent) => write!(f, "2^{exponent}"),
            None => write!(f, "0x{:016x}", self.0),
        }
    }
}

impl fmt::Debug for Eps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Eps {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Eps {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_of_two_is_written_as_one_and_anything_else_as_its_bits() {
        assert_eq!(Eps::power_of_two(-10).unwrap().to_string(), "2^-10");
        assert_eq!(Eps::new(1.0).unwrap().to_string(), "2^0");
        let third = Eps::new(1.0 / 3.0).unwrap();
        assert_eq!(third.to_string(), "0x3fd5555555555555");
        assert_eq!(Eps::parse(&third.to_string()).unwrap(), third);
    }

    #[test]
    fn thresholds_that_are_no_thresholds_are_refused() {
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-320] {
            assert!(Eps::new(bad).is_err(), "{bad}");
        }
        for bad in ["", "0.001", "2^x", "2^-99999", "0xzz", "0x0000000000000000"] {
            assert!(Eps::parse(bad).is_err(), "{bad}");
        }
    }
}
