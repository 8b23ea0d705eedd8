//! Whole computations on a GPU. Without one they say so in one line and pass, or fail under
//! `CCE_REQUIRE_GPU=1`. One program, so that it travels light.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod blocks_filter;
mod head;
mod losses;
mod repeated;
mod sampled;
#[allow(dead_code, unused_imports, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;

fn main() -> std::process::ExitCode {
    support::gpu::main(
        &[losses::TESTS, repeated::TESTS, sampled::TESTS, blocks_filter::TESTS, head::TESTS].concat(),
    )
}
