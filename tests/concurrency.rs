//! A plan is shared: callers at the same time, each with a workspace of its own, get what each gets alone.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, unused_imports, reason = "each test program uses a part of it")]
mod support;

use cce::{DType, Device, Plan};
use support::{Bench, Case, Choice, Upstreams, programs, scenarios};

#[test]
fn what_callers_share_may_be_shared() {
    fn shared<T: Send + Sync>() {}
    fn sent<T: Send>() {}
    shared::<Plan>();
    shared::<Device>();
    shared::<cce::Program>();
    shared::<cce::Error>();
    sent::<cce::Workspace<'static>>();
}

#[test]
fn threads_that_call_one_plan_get_the_bits_that_each_gets_alone() {
    for (name, dtype) in
        [("cross_entropy", DType::F32), ("gemma2", DType::Bf16), ("label_smoothing", DType::F16)]
    {
        let case = Case::new(&programs::named(name), [37, 64, 507], dtype).with(|case| {
            case.ignored = Some(0.2);
            case.upstreams = Upstreams::Both;
        });
        for choice in [Choice::Selected, Choice::small_blocks()] {
            scenarios::callers_at_once(&Bench::cpu(), &case, choice, 4, 10).assert();
        }
    }
}
