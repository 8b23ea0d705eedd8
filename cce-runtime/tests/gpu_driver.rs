//! The driver layer on a real GPU: memory, launches, events, graphs, and errors that leave the device usable.
//!
//! Run through `cargo xtask gpu-bundle`; without a GPU every test here is left out.
#![expect(clippy::undocumented_unsafe_blocks, reason = "every pointer is to a live buffer of the test")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "the functions that tests share may panic too")]

use std::sync::Arc;

use cce_runtime::driver::{
    Context, DevicePtr, Devices, Driver, Function, LaunchArgs, LaunchConfig, RawStream, Stream,
};
use cce_runtime::error::Error;
use cce_runtime::nvrtc::{Nvrtc, Options, Source};

const KERNELS: &str = "\
struct Pair { float scale; float shift; };

extern \"C\" __global__ void affine(float* to, const float* from, Pair pair, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) to[i] = pair.scale * from[i] + pair.shift;
}

extern \"C\" __global__ void reverse(int* to) {
    extern __shared__ int tile[];
    tile[threadIdx.x] = threadIdx.x;
    __syncthreads();
    to[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

extern \"C\" __global__ void rank(unsigned* to) {
    unsigned r, n;
    asm(\"mov.u32 %0, %%cluster_ctarank;\" : \"=r\"(r));
    asm(\"mov.u32 %0, %%cluster_nctarank;\" : \"=r\"(n));
    if (threadIdx.x == 0) to[blockIdx.x] = r + 100 * n;
}

extern \"C\" __global__ void spin(long long cycles) {
    long long start = clock64();
    while (clock64() - start < cycles) { }
}
";

fn device() -> Context {
    Context::new(0).expect("a GPU")
}

fn kernel(context: &Context, name: &str) -> Function {
    let arch = context.info().arch();
    let driver = Driver::get().expect("a driver").version();
    let nvrtc: Arc<Nvrtc> = Nvrtc::find(Some(driver), Some(arch)).expect("an NVRTC for this GPU");
    // Before 9.0 there are no clusters.
    let text = if context.info().compute_capability.0 >= 9 {
        KERNELS.to_owned()
    } else {
        KERNELS.replace("%%cluster_ctarank", "%%laneid").replace("%%cluster_nctarank", "%%laneid")
    };
    let source = Source { text: &text, name: "gpu_driver.cu", loss: "none" };
    let compiled = nvrtc.compile(&source, arch, &Options::default()).expect("it compiles");
    let module = context.load_module(&compiled.cubin).expect("it loads");
    let function = module.function(name).expect("it is there");
    assert_eq!(function.attributes().registers, compiled.kernel(name).expect("listed").registers);
    function
}

/// Runs `affine` on `from` in the buffers of the caller's choice and gives the result.
fn affine(stream: &Stream, function: &Function, from: &[f32], scale: f32, shift: f32) -> Vec<f32> {
    let context = stream.context();
    let bytes = size_of_val(from);
    let (to, source) = (context.alloc(bytes, "to").unwrap(), context.alloc(bytes, "from").unwrap());
    stream.poison(&to, 0xffff_ffff).unwrap();
    stream.upload(&source, 0, from).unwrap();
    let mut args = LaunchArgs::new();
    args.push(to.ptr()).push(source.ptr()).push([scale, shift]).push(from.len() as i32);
    let config = LaunchConfig::linear((from.len() as u32).div_ceil(128), 128);
    unsafe { function.launch(stream, &config, &args) }.unwrap();
    let mut result = vec![0.0; from.len()];
    stream.download(&to, 0, &mut result).unwrap();
    result
}

#[test]
#[ignore = "needs a GPU"]
fn the_devices_are_listed_with_what_they_are() {
    for info in Devices::list().expect("a driver") {
        println!("{info:?}");
        assert!(info.multiprocessors > 0 && info.memory_bytes > 1 << 30 && info.l2_bytes > 1 << 20);
        assert!(info.shared_per_block >= 48 << 10 && info.shared_per_block <= info.shared_per_multiprocessor);
        assert!(!info.name.is_empty() && info.uuid.0 != [0; 16]);
        assert!(info.registers_per_multiprocessor >= 65536 && info.threads_per_multiprocessor >= 1024);
    }
}

#[test]
#[ignore = "needs a GPU"]
fn a_kernel_computes_with_a_struct_by_value() {
    let context = device();
    let function = kernel(&context, "affine");
    let from: Vec<f32> = (0..1000).map(|value| value as f32).collect();
    for stream in [context.new_stream().unwrap(), context.default_stream()] {
        let result = affine(&stream, &function, &from, 2.0, -1.0);
        assert!(from.iter().zip(&result).all(|(x, y)| *y == 2.0 * x - 1.0));
    }
}

#[test]
#[ignore = "needs a GPU"]
fn wrong_arguments_and_shapes_are_refused_and_the_device_stays_usable() {
    let context = device();
    let function = kernel(&context, "affine");
    let stream = context.new_stream().unwrap();
    if let Some(sizes) = function.parameters() {
        assert_eq!(sizes, [8, 8, 8, 4]);
        let mut args = LaunchArgs::new();
        args.push(DevicePtr::NULL).push(DevicePtr::NULL).push(1.0f32).push(1i32);
        let error = unsafe { function.launch(&stream, &LaunchConfig::linear(1, 32), &args) }.unwrap_err();
        assert!(error.to_string().contains("[8, 8, 4, 4]"), "{error}");
    }
    let mut args = LaunchArgs::new();
    args.push(DevicePtr::NULL).push(DevicePtr::NULL).push([1.0f32, 0.0]).push(0i32);
    let error = unsafe { function.launch(&stream, &LaunchConfig::linear(1, 2048), &args) }.unwrap_err();
    assert!(error.to_string().contains("2048 threads"), "{error}");
    let error = unsafe { function.launch(&stream, &LaunchConfig::linear(0, 32), &args) }.unwrap_err();
    assert!(error.to_string().contains("empty"), "{error}");
    assert_eq!(affine(&stream, &function, &[1.0], 3.0, 0.5), [3.5]);
}

#[test]
#[ignore = "needs a GPU"]
fn an_allocation_that_does_not_fit_says_what_was_asked_and_what_is_free() {
    let context = device();
    let error = context.alloc(1 << 46, "a workspace").expect_err("64 TiB");
    let Error::OutOfMemory { asked, free, total, .. } = &error else { panic!("{error}") };
    assert!(*asked == 1 << 46 && *free > 0 && *free <= *total, "{error}");
    assert!(!error.is_sticky());
    assert_eq!(affine(&context.new_stream().unwrap(), &kernel(&context, "affine"), &[1.0], 1.0, 1.0), [2.0]);
}

#[test]
#[ignore = "needs a GPU"]
fn fills_and_copies_reach_every_byte_and_no_other() {
    let context = device();
    let stream = context.new_stream().unwrap();
    let (a, b) = (context.alloc(103, "a").unwrap(), context.alloc(103, "b").unwrap());
    stream.poison(&a, 0x0403_0201).unwrap();
    stream.poison(&b, 0).unwrap();
    unsafe {
        stream.copy_async(b.ptr().offset(3), a.ptr(), 50).unwrap();
        stream.fill_async(b.ptr().offset(10), 9, 2).unwrap();
    }
    let (mut of_a, mut of_b) = ([0u8; 103], [7u8; 103]);
    stream.download(&a, 0, &mut of_a).unwrap();
    stream.download(&b, 0, &mut of_b).unwrap();
    assert!(of_a.iter().enumerate().all(|(index, byte)| usize::from(*byte) == index % 4 + 1), "{of_a:?}");
    let mut expected = [0u8; 103];
    expected[3..53].copy_from_slice(&of_a[..50]);
    expected[10..12].fill(9);
    assert_eq!(of_b, expected);

    stream.upload(&b, 100, &[5u8, 6, 7]).unwrap();
    assert!(matches!(stream.upload(&b, 101, &[5u8, 6, 7]), Err(Error::WrongSize { .. })));
    assert!(matches!(stream.download(&b, usize::MAX, &mut [0u8]), Err(Error::WrongSize { .. })));
    let empty = context.alloc(0, "nothing").unwrap();
    stream.upload::<f32>(&empty, 0, &[]).unwrap();
    stream.poison(&empty, 1).unwrap();
}

#[test]
#[ignore = "needs a GPU"]
fn dynamic_shared_memory_has_to_be_allowed_and_fits_the_device() {
    let context = device();
    let mut function = kernel(&context, "reverse");
    let stream = context.new_stream().unwrap();
    let to = context.alloc(4 * 1024, "to").unwrap();
    let most = context.info().shared_per_block - function.attributes().static_shared_bytes;
    let config = LaunchConfig::linear(1, 1024).with_dynamic_shared(most);
    let mut args = LaunchArgs::new();
    args.push(to.ptr());
    assert!(unsafe { function.launch(&stream, &config, &args) }.is_err());
    assert!(function.allow_dynamic_shared(most + 1).is_err());
    function.allow_dynamic_shared(most).unwrap();
    unsafe { function.launch(&stream, &config, &args) }.unwrap();
    let mut values = [0i32; 1024];
    stream.download(&to, 0, &mut values).unwrap();
    assert!(values.iter().enumerate().all(|(index, value)| *value == 1023 - index as i32));
    assert_eq!(function.blocks_per_multiprocessor(1024, most).unwrap(), 1);
    assert!(function.blocks_per_multiprocessor(128, 0).unwrap() > 1);
}

#[test]
#[ignore = "needs a GPU"]
fn clusters_launch_where_the_device_has_them() {
    let context = device();
    if context.info().compute_capability.0 < 9 {
        return;
    }
    let function = kernel(&context, "rank");
    let stream = context.new_stream().unwrap();
    let to = context.alloc(4 * 8, "to").unwrap();
    let config = LaunchConfig::linear(8, 32).with_cluster(4);
    let mut args = LaunchArgs::new();
    args.push(to.ptr());
    unsafe { function.launch(&stream, &config, &args) }.unwrap();
    let mut ranks = [0u32; 8];
    stream.download(&to, 0, &mut ranks).unwrap();
    assert_eq!(ranks, [400, 401, 402, 403, 400, 401, 402, 403]);
    let clusters = function.max_active_clusters(&config).unwrap();
    assert!(clusters >= context.info().multiprocessors / 8, "{clusters}");
    assert!(function.max_active_clusters(&LaunchConfig::linear(7, 32).with_cluster(2)).is_err());
}

#[test]
#[ignore = "needs a GPU"]
fn a_captured_graph_replays_and_capturing_runs_nothing() {
    let context = device();
    let function = kernel(&context, "affine");
    let stream = context.new_stream().unwrap();
    let values = context.alloc(4, "value").unwrap();
    stream.upload(&values, 0, &[1.0f32]).unwrap();
    let mut args = LaunchArgs::new();
    args.push(values.ptr()).push(values.ptr()).push([2.0f32, 1.0]).push(1i32);
    let graph = stream
        .capture(|stream| {
            assert!(stream.is_capturing()?);
            for _ in 0..3 {
                unsafe { function.launch(stream, &LaunchConfig::linear(1, 32), &args) }?;
            }
            Ok(())
        })
        .unwrap();
    assert!(!stream.is_capturing().unwrap());
    assert_eq!(graph.nodes(), 3);
    let mut value = [0.0f32];
    stream.download(&values, 0, &mut value).unwrap();
    assert_eq!(value, [1.0], "capturing ran something");
    for expected in [15.0, 127.0] {
        unsafe { graph.launch(&stream) }.unwrap();
        stream.download(&values, 0, &mut value).unwrap();
        assert_eq!(value, [expected]);
    }
}

#[test]
#[ignore = "needs a GPU"]
fn a_capture_that_fails_leaves_the_stream_usable() {
    let context = device();
    let stream = context.new_stream().unwrap();
    let refused =
        stream.capture(|_| Err(Error::FilterNotAllowed { filter: "none".into(), reason: "a test".into() }));
    assert!(matches!(refused, Err(Error::FilterNotAllowed { .. })));
    // Synchronising is what a capture cannot hold.
    assert!(stream.capture(|stream| stream.synchronize()).is_err());
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        stream.capture(|_| panic!("a test")).map(|_| ())
    }));
    assert!(unwound.is_err() && !stream.is_capturing().unwrap());
    assert_eq!(affine(&stream, &kernel(&context, "affine"), &[1.0], 1.0, 1.0), [2.0]);
}

#[test]
#[ignore = "needs a GPU"]
fn events_take_the_time_and_order_streams() {
    let context = device();
    let function = kernel(&context, "spin");
    let (stream, other) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let (start, end, after) =
        (context.new_event().unwrap(), context.new_event().unwrap(), context.new_event().unwrap());
    let mut args = LaunchArgs::new();
    args.push(20_000_000i64);
    start.record(&stream).unwrap();
    unsafe { function.launch(&stream, &LaunchConfig::linear(1, 1), &args) }.unwrap();
    end.record(&stream).unwrap();
    other.wait(&end).unwrap();
    after.record(&other).unwrap();
    assert!(!end.is_reached().unwrap() && !after.is_reached().unwrap(), "launching waited");
    after.synchronize().unwrap();
    assert!(end.is_reached().unwrap());
    let milliseconds = end.elapsed_ms_since(&start).unwrap();
    assert!((4.0..200.0).contains(&milliseconds), "20 million cycles took {milliseconds} ms");
    context.synchronize().unwrap();
}

#[test]
#[ignore = "needs a GPU"]
fn threads_share_a_kernel_with_a_stream_each() {
    let context = device();
    let function = kernel(&context, "affine");
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (context, function) = (&context, &function);
            scope.spawn(move || {
                let stream = context.new_stream().unwrap();
                for round in 0..20 {
                    let result = affine(&stream, function, &[1.0; 777], number as f32, round as f32);
                    assert!(result.iter().all(|value| *value == (number + round) as f32));
                }
            });
        }
    });
}

#[test]
#[ignore = "needs a GPU"]
fn a_callers_stream_is_used_and_not_destroyed() {
    let context = device();
    let function = kernel(&context, "affine");
    let theirs = context.new_stream().unwrap();
    for _ in 0..2 {
        let ours = unsafe { context.stream_from_raw(theirs.raw()) }.unwrap();
        assert_eq!(affine(&ours, &function, &[2.0], 2.0, 0.0), [4.0]);
    }
    // The handle of the legacy default stream.
    let legacy = unsafe { context.stream_from_raw(RawStream(std::ptr::without_provenance_mut(1))) }.unwrap();
    assert_eq!(affine(&legacy, &function, &[2.0], 2.0, 1.0), [5.0]);
    assert_eq!(affine(&theirs, &function, &[2.0], 3.0, 0.0), [6.0]);
}

#[test]
#[ignore = "needs a GPU"]
fn an_address_tells_its_device() {
    let context = device();
    let buffer = context.alloc(64, "a buffer").unwrap();
    assert_eq!(buffer.ptr().offset(8).device().unwrap(), Some(0));
    assert!(buffer.ptr().is_aligned_to(256));
    let host = 1u64;
    assert_eq!(DevicePtr(&raw const host as u64).device().unwrap(), None);
}

#[test]
#[ignore = "needs a GPU"]
fn every_call_leaves_the_callers_context_as_it_was() {
    fn current() -> usize {
        let mut context = std::ptr::null_mut();
        let result = unsafe { cudarc::driver::sys::cuCtxGetCurrent(&raw mut context) };
        assert_eq!(result, cudarc::driver::sys::CUresult::CUDA_SUCCESS);
        context as usize
    }
    let context = device();
    let function = kernel(&context, "affine");
    // Nothing is current on a fresh thread.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(current(), 0);
            let stream = context.new_stream().unwrap();
            assert_eq!(affine(&stream, &function, &[1.0], 2.0, 0.0), [2.0]);
            drop(stream);
            assert_eq!(current(), 0, "a context was left behind");
            let outer = context.bind().unwrap();
            let ours = current();
            assert_ne!(ours, 0);
            drop(context.bind().unwrap());
            let memory = context.memory_info().unwrap();
            assert!(memory.free <= memory.total);
            assert_eq!(current(), ours, "the caller's context was taken away");
            drop(outer);
            assert_eq!(current(), 0);
        });
    });
}

#[test]
#[ignore = "needs a GPU"]
fn what_is_no_cubin_or_of_another_architecture_is_refused() {
    let context = device();
    assert!(context.load_module(b"not a cubin").is_err());
    let (major, _) = context.info().compute_capability;
    let other = if major == 8 { "sm_90" } else { "sm_80" }.parse().expect("an architecture");
    let nvrtc = Nvrtc::find(None, Some(other)).expect("an NVRTC");
    let source = Source { text: KERNELS, name: "other.cu", loss: "none" };
    let text = KERNELS.replace("%%cluster_ctarank", "%%laneid").replace("%%cluster_nctarank", "%%laneid");
    let compiled = nvrtc.compile(&Source { text: &text, ..source }, other, &Options::default()).unwrap();
    let error = context.load_module(&compiled.cubin).unwrap_err();
    assert!(error.to_string().contains("another architecture"), "{error}");
    let missing = kernel_missing(&context);
    assert!(missing.to_string().contains("no kernel of this name"), "{missing}");
}

fn kernel_missing(context: &Context) -> Error {
    let arch = context.info().arch();
    let nvrtc = Nvrtc::find(None, Some(arch)).expect("an NVRTC");
    let source = Source { text: "extern \"C\" __global__ void k() {}", name: "k.cu", loss: "none" };
    let compiled = nvrtc.compile(&source, arch, &Options::default()).unwrap();
    let module = context.load_module(&compiled.cubin).unwrap();
    module.function("absent").map(|_| ()).unwrap_err()
}
