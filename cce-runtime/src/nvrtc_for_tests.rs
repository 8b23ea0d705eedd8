//! The NVRTCs that the tests compile with.

use std::path::PathBuf;
use std::sync::Arc;

use crate::nvrtc::{Nvrtc, Search};

/// The folder that a test variable names.
pub(crate) fn wheel_folder(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(folder) => folder.into(),
        None => panic!("{variable} is not set: run the tests with `cargo xtask test`, which fetches NVRTC"),
    }
}

/// NVRTC 13.0.
pub(crate) fn nvrtc_13() -> Arc<Nvrtc> {
    load("CCE_TEST_NVRTC_13")
}

/// NVRTC 12.9.
pub(crate) fn nvrtc_12() -> Arc<Nvrtc> {
    load("CCE_TEST_NVRTC_12")
}

fn load(variable: &str) -> Arc<Nvrtc> {
    let search = Search::at(wheel_folder(variable));
    Nvrtc::find_in(&search, None, None).expect("the fetched NVRTC loads")
}
