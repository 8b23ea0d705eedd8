//! The comparison of a result with its reference on the GPU, where both are: the gradients of a large head are
//! gigabytes, which take a hundred times longer to bring to the host than to read.

use super::Comparison;
use super::compare::Sums;
use crate::Error;
use cce_runtime::Element;
use cce_runtime::cubin_cache::CubinCache;
use cce_runtime::driver::{Buffer, Context, Function, LaunchArgs, LaunchConfig, Stream};
use cce_runtime::nvrtc::{Nvrtc, Options, Source};

const SOURCE: &str = include_str!("difference.cu");

/// Threads of a block, as the kernels have them.
const THREADS: u32 = 256;

/// Blocks at most: a few on each multiprocessor of the largest GPU.
const BLOCKS: u32 = 1024;

/// Sums of a block.
const SUMS: usize = 4;

/// The kernels, and room for their sums.
pub(super) struct Difference {
    f32: Function,
    f16: Function,
    bf16: Function,
    sums: Buffer,
}

impl Difference {
    /// Compiles and loads them.
    ///
    /// # Errors
    /// What NVRTC or the driver reports.
    pub(super) fn new(context: &Context) -> Result<Difference, Error> {
        let info = context.info();
        let nvrtc = Nvrtc::find(Some(info.driver), Some(info.arch()))?;
        let source = Source { text: SOURCE, name: "difference.cu", loss: "the tuner's comparison" };
        let cached =
            CubinCache::from_env().get_or_compile(&nvrtc, &source, info.arch(), &Options::default())?;
        let module = context.load_module(&cached.compiled.cubin)?;
        let kernel = |name: &str| module.function(name);
        Ok(Difference {
            f32: kernel("difference_f32")?,
            f16: kernel("difference_f16")?,
            bf16: kernel("difference_bf16")?,
            sums: context.alloc(BLOCKS as usize * SUMS * size_of::<f64>(), "the sums of a comparison")?,
        })
    }

    /// Compares `len` elements with a reference of as many, of the same type, after all work on the stream.
    ///
    /// # Errors
    /// What the driver reports.
    #[expect(unsafe_code, reason = "a kernel is launched")]
    pub(super) fn compare(
        &self,
        stream: &Stream,
        (result, element): (&Buffer, Element),
        reference: &Buffer,
        len: usize,
    ) -> Result<Comparison, Error> {
        let function = match element {
            Element::F32 => &self.f32,
            Element::F16 => &self.f16,
            Element::Bf16 => &self.bf16,
            Element::I32 | Element::I64 => {
                let reason =
                    "indices are not compared with a reference: expected f32, f16 or bf16".to_owned();
                return Err(Error::Usage { reason });
            }
        };
        let needed = len.div_ceil(THREADS as usize).max(1);
        let blocks = u32::try_from(needed).unwrap_or(BLOCKS).min(BLOCKS);
        let mut args = LaunchArgs::new();
        args.push(result.ptr()).push(reference.ptr()).push(len as u64).push(self.sums.ptr());
        // SAFETY: the arguments are the kernels' parameters; the caller's buffers have `len` elements, and there is
        // room for the sums of each block. The download below waits for the kernel.
        unsafe { function.launch(stream, &LaunchConfig::linear(blocks, THREADS), &args) }?;
        let mut sums = vec![0f64; blocks as usize * SUMS];
        stream.download(&self.sums, 0, &mut sums)?;
        let mut all = Sums::default();
        for of_block in sums.chunks_exact(SUMS) {
            all.add(Sums {
                difference: of_block[0],
                norm: of_block[1],
                nan: of_block[2] as usize,
                infinite: of_block[3] as usize,
            });
        }
        Ok(all.comparison())
    }
}
