//! The GPU architectures that a kernel can be compiled for.

use std::fmt;
use std::str::FromStr;

/// A real architecture: `sm_90a` is compute capability 9.0 with the features that only 9.0 has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arch {
    /// Major compute capability.
    pub major: u32,
    /// Minor compute capability.
    pub minor: u32,
    /// The `a` suffix: architecture-specific features (wgmma, setmaxnreg), no forward compatibility.
    pub specific: bool,
}

impl Arch {
    /// Ampere, A100.
    pub const SM_80: Self = Self::new(8, 0);
    /// Ada, RTX 40 and L4.
    pub const SM_89: Self = Self::new(8, 9);
    /// Hopper with its own features, H100 and H200.
    pub const SM_90A: Self = Self { major: 9, minor: 0, specific: true };
    /// Blackwell for data centres with its own features, B200.
    pub const SM_100A: Self = Self { major: 10, minor: 0, specific: true };
    /// Blackwell for workstations, RTX 50.
    pub const SM_120: Self = Self::new(12, 0);

    /// The plain architecture of a compute capability, without architecture-specific features.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor, specific: false }
    }

    /// The architecture to compile for on a device of this compute capability: with its specific features
    /// from 9.0 on.
    pub const fn of_compute_capability(major: u32, minor: u32) -> Self {
        Self { major, minor, specific: major >= 9 }
    }

    /// `major * 10 + minor`, the number in NVRTC's list of what it supports.
    pub const fn number(self) -> u32 {
        self.major * 10 + self.minor
    }

    /// The virtual architecture of the same features, `compute_90a`: compiling for it yields PTX only.
    pub fn virtual_name(self) -> String {
        format!("compute_{}{}", self.number(), if self.specific { "a" } else { "" })
    }

    /// Whether code compiled for `self` runs on a device of this compute capability: within a major version
    /// code runs on equal and higher minors, unless it uses architecture-specific features.
    pub const fn runs_on(self, major: u32, minor: u32) -> bool {
        self.major == major && if self.specific { self.minor == minor } else { self.minor <= minor }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.number(), if self.specific { "a" } else { "" })
    }
}

/// Why a string is no architecture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a GPU architecture: expected a name such as sm_80, sm_90a or sm_120")]
pub struct ParseArchError(String);

impl FromStr for Arch {
    type Err = ParseArchError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let digits = text.strip_prefix("sm_")?;
            let (digits, specific) = match digits.strip_suffix('a') {
                Some(rest) => (rest, true),
                None => (digits, false),
            };
            if !(2..=3).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let number: u32 = digits.parse().ok()?;
            Some(Self { major: number / 10, minor: number % 10, specific })
        };
        parse().ok_or_else(|| ParseArchError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_two_forms_of_the_same_thing() {
        for (arch, name) in [
            (Arch::SM_80, "sm_80"),
            (Arch::SM_89, "sm_89"),
            (Arch::SM_90A, "sm_90a"),
            (Arch::SM_100A, "sm_100a"),
            (Arch::SM_120, "sm_120"),
        ] {
            assert_eq!(arch.to_string(), name);
            assert_eq!(name.parse(), Ok(arch));
        }
    }

    #[test]
    fn what_is_not_an_architecture_is_refused_with_an_example() {
        for text in ["", "sm_", "sm_9", "sm_90b", "compute_90", "sm_+9", "90", "sm_1200"] {
            let error = text.parse::<Arch>().expect_err(text);
            assert!(error.to_string().contains("sm_90a"), "{error}");
        }
    }

    #[test]
    fn specific_code_runs_on_its_own_device_only() {
        assert!(Arch::SM_80.runs_on(8, 9) && !Arch::SM_89.runs_on(8, 0));
        assert!(Arch::SM_90A.runs_on(9, 0) && !Arch::SM_90A.runs_on(10, 0));
        assert!(!Arch::SM_100A.runs_on(10, 3));
        assert!(!Arch::SM_80.runs_on(9, 0));
    }
}
