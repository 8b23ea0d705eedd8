//! The yardstick: cuBLASLt's product of hidden states and classifier, `E C^T` in their own type.
//!
//! cuBLASLt is loaded at run time: `CCE_CUBLASLT_PATH` (a file), else the loader's path. Types and constants:
//! cublasLt.h of CUDA 12 and 13.

use cce_codegen::problem::DType;
use cce_runtime::driver::{Context, Event, Stream};
use std::ffi::c_void;
use std::ptr::null_mut;

type Status = i32;
type Handle = *mut c_void;

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Heuristic {
    algo: [u64; 8],
    workspace: usize,
    state: Status,
    waves: f32,
    reserved: [i32; 4],
}

type Create = unsafe extern "C" fn(*mut Handle) -> Status;
type DescCreate = unsafe extern "C" fn(*mut Handle, i32, i32) -> Status;
type SetAttribute = unsafe extern "C" fn(Handle, i32, *const c_void, usize) -> Status;
type LayoutCreate = unsafe extern "C" fn(*mut Handle, i32, u64, u64, i64) -> Status;
type GetHeuristic = unsafe extern "C" fn(
    Handle,
    Handle,
    Handle,
    Handle,
    Handle,
    Handle,
    Handle,
    i32,
    *mut Heuristic,
    *mut i32,
) -> Status;
type Matmul = unsafe extern "C" fn(
    Handle,
    Handle,
    *const c_void,
    *const c_void,
    Handle,
    *const c_void,
    Handle,
    *const c_void,
    *const c_void,
    Handle,
    *mut c_void,
    Handle,
    *const Heuristic,
    *mut c_void,
    usize,
    *mut c_void,
) -> Status;

const COMPUTE_32F: i32 = 68;
const R_32F: i32 = 0;
const R_16F: i32 = 2;
const R_16BF: i32 = 14;
const DESC_TRANSA: i32 = 3;
const OP_T: i32 = 1;
const PREF_MAX_WORKSPACE_BYTES: i32 = 1;
const CANDIDATES: usize = 8;

/// Workspace that the product may use, in bytes.
pub const WORKSPACE: usize = 64 << 20;

/// One product, ready to run: by cuBLASLt's first proposal, which is what PyTorch takes, or by the fastest of
/// its first eight.
pub struct Product {
    _library: libloading::Library,
    matmul: Matmul,
    handle: Handle,
    desc: Handle,
    layouts: [Handle; 3],
    first: Heuristic,
    fastest: Heuristic,
    /// Addresses: classifier, hidden states, logits, workspace.
    places: [u64; 4],
}

fn ok(what: &str, status: Status) -> Result<(), String> {
    if status == 0 { Ok(()) } else { Err(format!("{what} returned status {status}")) }
}

impl Product {
    /// `logits [tokens, vocab] = hidden [tokens, width] * classifier [vocab, width]^T`, addresses on the
    /// device.
    pub fn new(
        context: &Context,
        stream: &Stream,
        dtype: DType,
        [tokens, width, vocab]: [usize; 3],
        places: [u64; 4],
    ) -> Result<Product, String> {
        let kind = match dtype {
            DType::F32 => R_32F,
            DType::F16 => R_16F,
            DType::Bf16 => R_16BF,
        };
        let library = load()?;
        // SAFETY: the symbols have these signatures in cublasLt.h; every pointer is to a live local; the
        // library outlives its handles.
        unsafe {
            let symbol = |name: &str| format!("{name}\0");
            macro_rules! get {
                ($name:literal, $kind:ty) => {
                    *library.get::<$kind>(symbol($name).as_bytes()).map_err(|error| error.to_string())?
                };
            }
            let create = get!("cublasLtCreate", Create);
            let desc_create = get!("cublasLtMatmulDescCreate", DescCreate);
            let desc_set = get!("cublasLtMatmulDescSetAttribute", SetAttribute);
            let layout_create = get!("cublasLtMatrixLayoutCreate", LayoutCreate);
            let preference_create = get!("cublasLtMatmulPreferenceCreate", Create);
            let preference_set = get!("cublasLtMatmulPreferenceSetAttribute", SetAttribute);
            let get_heuristic = get!("cublasLtMatmulAlgoGetHeuristic", GetHeuristic);
            let matmul = get!("cublasLtMatmul", Matmul);

            let (mut handle, mut desc, mut preference) = (null_mut(), null_mut(), null_mut());
            ok("cublasLtCreate", create(&raw mut handle))?;
            ok("cublasLtMatmulDescCreate", desc_create(&raw mut desc, COMPUTE_32F, R_32F))?;
            let transpose = OP_T;
            ok("transa", desc_set(desc, DESC_TRANSA, (&raw const transpose).cast(), 4))?;
            // Column-major: the logits' transpose [vocab, tokens] is classifier^T of [width, vocab], times
            // [width, tokens].
            let mut layouts = [null_mut(); 3];
            for (layout, (rows, cols)) in
                layouts.iter_mut().zip([(width, vocab), (width, tokens), (vocab, tokens)])
            {
                let status = layout_create(layout, kind, rows as u64, cols as u64, rows as i64);
                ok("cublasLtMatrixLayoutCreate", status)?;
            }
            ok("cublasLtMatmulPreferenceCreate", preference_create(&raw mut preference))?;
            let bytes: u64 = WORKSPACE as u64;
            let status = preference_set(preference, PREF_MAX_WORKSPACE_BYTES, (&raw const bytes).cast(), 8);
            ok("workspace preference", status)?;
            let empty = Heuristic { algo: [0; 8], workspace: 0, state: 0, waves: 0.0, reserved: [0; 4] };
            let mut found = [empty; CANDIDATES];
            let mut count = 0;
            let [a, b, c] = layouts;
            let status = get_heuristic(
                handle,
                desc,
                a,
                b,
                c,
                c,
                preference,
                CANDIDATES as i32,
                found.as_mut_ptr(),
                &raw mut count,
            );
            ok("cublasLtMatmulAlgoGetHeuristic", status)?;
            let first = found[0];
            let mut product =
                Product { _library: library, matmul, handle, desc, layouts, first, fastest: first, places };
            let mut best = (f32::MAX, first);
            for candidate in found.iter().take(count as usize) {
                product.fastest = *candidate;
                let ms = product.time(context, stream)?;
                if ms < best.0 {
                    best = (ms, *candidate);
                }
            }
            product.fastest = best.1;
            Ok(product)
        }
    }

    fn time(&self, context: &Context, stream: &Stream) -> Result<f32, String> {
        let text = |error: cce_runtime::Error| error.to_string();
        let marks: [Event; 2] = [context.new_event().map_err(text)?, context.new_event().map_err(text)?];
        self.run_fastest(stream)?;
        marks[0].record(stream).map_err(text)?;
        for _ in 0..3 {
            self.run_fastest(stream)?;
        }
        marks[1].record(stream).map_err(text)?;
        marks[1].synchronize().map_err(text)?;
        marks[1].elapsed_ms_since(&marks[0]).map_err(text)
    }

    /// Puts the product on the stream, by the first proposal.
    pub fn run(&self, stream: &Stream) -> Result<(), String> {
        self.run_by(&self.first, stream)
    }

    /// The same by the fastest proposal.
    pub fn run_fastest(&self, stream: &Stream) -> Result<(), String> {
        self.run_by(&self.fastest, stream)
    }

    fn run_by(&self, algo: &Heuristic, stream: &Stream) -> Result<(), String> {
        let (alpha, beta) = (1.0f32, 0.0f32);
        let [c, e, z, workspace] =
            self.places.map(|address| std::ptr::without_provenance_mut(address as usize));
        let [a_layout, b_layout, c_layout] = self.layouts;
        // SAFETY: handles are live, addresses are of buffers of the sizes that the layouts state.
        ok("cublasLtMatmul", unsafe {
            (self.matmul)(
                self.handle,
                self.desc,
                (&raw const alpha).cast(),
                c,
                a_layout,
                e,
                b_layout,
                (&raw const beta).cast(),
                z,
                c_layout,
                z,
                c_layout,
                std::ptr::from_ref(algo),
                workspace,
                WORKSPACE,
                stream.raw().0.cast(),
            )
        })
    }
}

fn load() -> Result<libloading::Library, String> {
    let named = std::env::var("CCE_CUBLASLT_PATH").ok();
    let mut tried = Vec::new();
    let names = named.into_iter().chain(["libcublasLt.so.13", "libcublasLt.so.12"].map(str::to_owned));
    for name in names {
        // SAFETY: loading cuBLASLt runs its initialisers, which ask nothing of the process.
        match unsafe { libloading::Library::new(&name) } {
            Ok(library) => return Ok(library),
            Err(error) => tried.push(format!("{name}: {error}")),
        }
    }
    Err(format!(
        "no cuBLASLt was found; set CCE_CUBLASLT_PATH to libcublasLt.so. Tried: {}",
        tried.join("; ")
    ))
}
