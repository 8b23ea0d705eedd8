//! A plan's sources become cubins: every module on a thread of its own, through the cache on disk.

use crate::cubin_cache::{Cached, CubinCache};
use crate::error::Result;
use crate::nvrtc::{Arch, Nvrtc, Options, Resources, Source};
use cce_codegen::plan::{GpuPlan, Module};
use rayon::prelude::*;

/// One compiled module of a plan.
#[derive(Debug)]
#[non_exhaustive]
pub struct CompiledModule {
    /// The module's name in the plan.
    pub name: &'static str,
    /// The cubin, what the compiler said, and where it came from.
    pub cached: Cached,
}

impl CompiledModule {
    /// What each of its kernels uses.
    pub fn resources(&self) -> &[Resources] {
        &self.cached.compiled.kernels
    }
}

fn source<'a>(plan: &'a GpuPlan, module: &'a Module, file: &'a str) -> Source<'a> {
    Source { text: &module.source, name: file, loss: plan.program.name() }
}

fn file_name(module: &Module) -> String {
    format!("{}.cu", module.name)
}

/// Compiles every module of a plan for an architecture, in parallel, in the plan's order.
///
/// # Errors
/// The first module that does not compile.
pub fn compile(plan: &GpuPlan, nvrtc: &Nvrtc, arch: Arch, cache: &CubinCache) -> Result<Vec<CompiledModule>> {
    plan.modules
        .par_iter()
        .map(|module| {
            let file = file_name(module);
            let cached =
                cache.get_or_compile(nvrtc, &source(plan, module, &file), arch, &Options::default())?;
            Ok(CompiledModule { name: module.name, cached })
        })
        .collect()
}

/// The sources of a plan, one after the other, each under a line with its file name.
pub fn sources(plan: &GpuPlan) -> String {
    join(plan, |module| Ok(module.source.to_string())).unwrap_or_default()
}

/// The PTX of a plan, module by module.
///
/// # Errors
/// The first module that does not compile.
pub fn ptx(plan: &GpuPlan, nvrtc: &Nvrtc, arch: Arch) -> Result<String> {
    join(plan, |module| {
        let file = file_name(module);
        nvrtc.ptx(&source(plan, module, &file), arch, &Options::default())
    })
}

fn join(plan: &GpuPlan, text: impl Fn(&Module) -> Result<String>) -> Result<String> {
    let mut all = String::new();
    for module in &plan.modules {
        all.push_str(&format!("// ===== {} =====\n{}\n", file_name(module), text(module)?));
    }
    Ok(all)
}
