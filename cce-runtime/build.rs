//! Asks the code generator what kernels it emits, which takes too long for a process to do before its first launch.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=CCE_KERNELS={}", cce_codegen::generation::kernels());
}
