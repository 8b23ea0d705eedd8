//! CUDA's version numbers, as the driver and NVRTC state them.

use std::fmt;

/// A CUDA version, ordered: 12.9 < 13.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CudaVersion {
    /// 13 in 13.0.
    pub major: u32,
    /// 0 in 13.0.
    pub minor: u32,
}

impl CudaVersion {
    /// The version `major.minor`.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// From the driver's encoding, `1000 * major + 10 * minor`.
    pub const fn from_code(code: u32) -> Self {
        Self { major: code / 1000, minor: code % 1000 / 10 }
    }
}

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_encoding_is_decoded_and_ordered() {
        assert_eq!(CudaVersion::from_code(12080), CudaVersion::new(12, 8));
        assert!(CudaVersion::from_code(13000) > CudaVersion::new(12, 9));
        assert_eq!(CudaVersion::from_code(13000).to_string(), "13.0");
    }
}
