//! `Sampled`: the softmax part of the gradient thinned by a random choice that keeps its expectation.
//!
//! This is the reference for the sampling rule, in the same form as a GPU walks: groups of 16 tokens share a
//! stream with a fixed quota ([`stream`]), entries are thinned once the normaliser is known ([`thin`]), the
//! first columns are treated densely and exactly, and so are targets; the uniform part of the gradient is
//! applied by factors ([`code`]). Outputs are exact.
//!
//! Invariants: the same inputs, seed and block give the same bits on any number of threads. A group keeps at
//! most 16 times `max_entries` entries, for every input.

mod backward;
mod classifier;
mod code;
mod entries;
mod forward;
mod layout;
mod philox;
mod stream;
mod thin;
mod uniform;

pub(crate) use backward::backward;
pub(crate) use code::SampledCode;
pub(crate) use forward::forward;
pub(crate) use layout::{SampledRegions, Shape, choose, hot_columns};

use super::host::HostCall;
use super::memory::Carver;
use crate::workspace::RawWorkspace;

/// How many entries the forward kept that left this workspace, of all tokens together.
///
/// # Safety
/// As for [`Carver::new`].
pub(crate) unsafe fn kept_entries(regions: &SampledRegions, workspace: RawWorkspace) -> u64 {
    // SAFETY: the caller's promise, passed on.
    let counts = unsafe { Carver::new(workspace) }.lend(regions.counts);
    counts.iter().map(|&count| u64::from(count)).sum()
}

/// A lent workspace, cut up; [`SampledRegions`] says what is what.
pub(crate) struct SampledBuffers<'w> {
    pub(crate) records: &'w mut [f64],
    counts: &'w mut [u32],
    columns: &'w mut [u32],
    weights: &'w mut [f32],
    logits: &'w mut [f32],
    pub(crate) tokens: &'w [u32],
    targets: &'w [u32],
    e: &'w mut [f32],
    tile: &'w mut [f32],
    coefficients: &'w mut [f32],
    values: &'w mut [f64],
    panel: &'w mut [f32],
    emitted_keys: &'w mut [u32],
    emitted_weights: &'w mut [f32],
    de: &'w mut [f32],
    dc: &'w mut [f32],
    entry_gradients: &'w mut [f32],
    starts: &'w mut [u32],
    sorted_tokens: &'w mut [u32],
    sorted_gradients: &'w mut [f32],
    pub(crate) col_sums: &'w mut [f64],
    uniform_cols: &'w mut [f32],
}

impl<'w> SampledBuffers<'w> {
    /// # Safety
    /// As for [`Carver::new`].
    pub(crate) unsafe fn new(
        regions: &SampledRegions,
        workspace: RawWorkspace,
        call: &HostCall<'_>,
    ) -> SampledBuffers<'w> {
        // SAFETY: the caller's promise, passed on.
        let mut carver = unsafe { Carver::new(workspace) };
        let records = carver.lend(regions.records);
        let counts = carver.lend(regions.counts);
        let columns = carver.lend(regions.columns);
        let weights = carver.lend(regions.weights);
        let logits = carver.lend(regions.logits);
        let (active, targets) = (carver.lend(regions.active), carver.lend(regions.targets));
        let (tokens, targets) = call.active(active, targets);
        SampledBuffers {
            records,
            counts,
            columns,
            weights,
            logits,
            tokens,
            targets,
            e: carver.lend(regions.e),
            tile: carver.lend(regions.tile),
            coefficients: carver.lend(regions.coefficients),
            values: carver.lend(regions.values),
            panel: carver.lend(regions.panel),
            emitted_keys: carver.lend(regions.emitted_keys),
            emitted_weights: carver.lend(regions.emitted_weights),
            de: carver.lend(regions.de),
            dc: carver.lend(regions.dc),
            entry_gradients: carver.lend(regions.entry_gradients),
            starts: carver.lend(regions.starts),
            sorted_tokens: carver.lend(regions.sorted_tokens),
            sorted_gradients: carver.lend(regions.sorted_gradients),
            col_sums: carver.lend(regions.col_sums),
            uniform_cols: carver.lend(regions.uniform_cols),
        }
    }
}
