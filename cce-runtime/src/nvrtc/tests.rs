use super::*;
use crate::nvrtc_for_tests::{nvrtc_12, nvrtc_13, wheel_folder};

const TRIVIAL: &str = "\
extern \"C\" __global__ void copy(float* to, const float* from, int n) {
    __shared__ float tile[64];
    int i = blockIdx.x * 64 + threadIdx.x;
    tile[threadIdx.x] = i < n ? from[i] : 0.0f;
    __syncthreads();
    if (i < n) to[i] = tile[63 - threadIdx.x];
}
";

/// 40 values alive at once in 1024 threads: 65536 registers / 2048 threads leave 32 a thread.
const SPILLING: &str = "\
extern \"C\" __global__ void __launch_bounds__(1024, 2) crowd(float* p) {
    float v[40];
    #pragma unroll
    for (int i = 0; i < 40; i++) v[i] = p[i * 1024 + threadIdx.x];
    #pragma unroll
    for (int i = 0; i < 40; i++)
        #pragma unroll
        for (int j = 0; j < 40; j++) v[i] += v[j] * v[(i + j) % 40];
    #pragma unroll
    for (int i = 0; i < 40; i++) p[i * 1024 + threadIdx.x] = v[i];
}
";

fn source(text: &str) -> Source<'_> {
    Source { text, name: "sample.cu", loss: "gemma2" }
}

#[test]
fn a_kernel_compiles_for_every_architecture_with_both_nvrtcs() {
    for nvrtc in [nvrtc_13(), nvrtc_12()] {
        for arch in [Arch::SM_80, Arch::SM_89, Arch::SM_90A, Arch::SM_100A, Arch::SM_120] {
            let compiled = nvrtc.compile(&source(TRIVIAL), arch, &Options::default()).expect("it compiles");
            assert!(compiled.cubin.starts_with(b"\x7fELF"), "{arch}");
            let kernel = compiled.kernel("copy").expect("its kernel is listed");
            assert!(kernel.registers > 0 && !kernel.spills(), "{arch}: {kernel:?}");
            // From 9.0 on the system keeps 1 KiB of shared memory a block for itself, which some versions
            // count.
            assert!(kernel.static_shared_bytes >= 256 && kernel.barriers == 1, "{arch}: {kernel:?}");
        }
    }
}

#[test]
fn the_two_nvrtcs_live_in_one_process_with_their_own_versions() {
    assert_eq!(nvrtc_13().version(), CudaVersion::new(13, 0));
    assert_eq!(nvrtc_12().version(), CudaVersion::new(12, 9));
    assert_ne!(nvrtc_13().identity(), nvrtc_12().identity());
}

#[test]
fn a_kernel_that_spills_is_seen_to_spill() {
    let compiled =
        nvrtc_13().compile(&source(SPILLING), Arch::SM_90A, &Options::default()).expect("it compiles");
    let kernel = compiled.kernel("crowd").expect("its kernel is listed");
    assert!(kernel.spills() && kernel.stack_bytes > 0, "{kernel:?}\n{}", compiled.log);
    assert!(kernel.registers <= 32, "{kernel:?}");
}

#[test]
fn a_limit_on_registers_reaches_the_compiler() {
    let text = SPILLING.replace("__launch_bounds__(1024, 2) ", "");
    let free = nvrtc_13().compile(&source(&text), Arch::SM_80, &Options::default()).expect("it compiles");
    let options = Options { max_registers: Some(40), ..Options::default() };
    let bound = nvrtc_13().compile(&source(&text), Arch::SM_80, &options).expect("it compiles");
    assert!(free.kernels[0].registers > 40 && !free.kernels[0].spills(), "{:?}", free.kernels);
    assert!(bound.kernels[0].registers <= 40 && bound.kernels[0].spills(), "{:?}", bound.kernels);
}

#[test]
fn an_error_shows_the_emitted_line_and_the_loss() {
    let text = TRIVIAL.replace("tile[63 - threadIdx.x]", "tile[63 - lane]");
    let error =
        nvrtc_13().compile(&source(&text), Arch::SM_90A, &Options::default()).expect_err("lane is undefined");
    let message = error.to_string();
    for part in [
        "gemma2",
        "sample.cu, line 6",
        "\"lane\" is undefined",
        ">     6 |     if (i < n) to[i] = tile[63 - lane];",
    ] {
        assert!(message.contains(part), "no `{part}` in:\n{message}");
    }
}

#[test]
fn an_error_of_the_assembler_shows_the_line_of_ptx() {
    let text = TRIVIAL.replace("__syncthreads();", "asm volatile(\"foo.bar;\");");
    let error = nvrtc_13()
        .compile(&source(&text), Arch::SM_90A, &Options::default())
        .expect_err("no such instruction");
    let Error::Compile { excerpt, .. } = &error else { panic!("{error}") };
    assert!(excerpt.contains("the PTX, line"), "{error}");
    assert!(excerpt.lines().any(|line| line.starts_with('>') && line.contains("foo.bar;")), "{error}");
}

#[test]
fn too_much_static_shared_memory_is_explained() {
    let text = TRIVIAL.replace("tile[64]", "tile[64000]");
    let error =
        nvrtc_13().compile(&source(&text), Arch::SM_90A, &Options::default()).expect_err("256000 bytes");
    assert!(error.to_string().contains("256000 bytes of static shared memory"), "{error}");
}

#[test]
fn an_architecture_that_the_nvrtc_does_not_know_is_refused_with_those_it_knows() {
    let error = nvrtc_13()
        .compile(&source(TRIVIAL), Arch::new(7, 0), &Options::default())
        .expect_err("13.0 dropped sm_70");
    let message = error.to_string();
    assert!(message.contains("sm_70") && message.contains("sm_120"), "{message}");
}

#[test]
fn the_ptx_of_a_source_can_be_read() {
    let ptx = nvrtc_13().ptx(&source(TRIVIAL), Arch::SM_90A, &Options::default()).expect("it compiles");
    assert!(ptx.contains(".target sm_90a") && ptx.contains(".entry copy"), "{ptx}");
}

#[test]
fn the_same_source_compiles_to_the_same_bytes_in_parallel_threads() {
    let nvrtc = nvrtc_13();
    let compile = || nvrtc.compile(&source(TRIVIAL), Arch::SM_90A, &Options::default()).expect("it compiles");
    let first = compile();
    let all: Vec<Compiled> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(compile)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(all.iter().all(|compiled| *compiled == first));
}

#[test]
fn a_zero_byte_in_a_source_is_an_error() {
    let error = nvrtc_13().compile(&source("\0"), Arch::SM_80, &Options::default()).expect_err("a zero byte");
    assert!(error.to_string().contains("zero byte"), "{error}");
}

#[test]
fn an_explicit_path_that_does_not_work_says_what_was_tried() {
    let scratch = tempfile::tempdir().unwrap();
    let find = |path: PathBuf| {
        let search = Search::at(path);
        Nvrtc::find_in(&search, None, None).expect_err("nothing usable there").to_string()
    };
    let empty = find(scratch.path().to_owned());
    assert!(empty.contains("CCE_NVRTC_PATH") && empty.contains("without libnvrtc.so"), "{empty}");

    let file = scratch.path().join("libnvrtc.so.13");
    std::fs::write(&file, "no library").unwrap();
    let broken = find(file.clone());
    assert!(broken.contains("libnvrtc.so.13") && broken.contains("tried:\n  - "), "{broken}");
    let missing = find(scratch.path().join("nowhere"));
    assert!(missing.contains("nowhere"), "{missing}");
}

#[test]
fn an_explicit_path_may_be_the_file_or_its_folder() {
    let folder = wheel_folder("CCE_TEST_NVRTC_13");
    for path in [folder.join("libnvrtc.so.13"), folder] {
        let search = Search::at(path);
        let nvrtc = Nvrtc::find_in(&search, None, Some(Arch::SM_120)).expect("it is there");
        assert_eq!(nvrtc.version(), CudaVersion::new(13, 0));
    }
}

#[test]
fn among_several_the_one_that_suits_driver_and_architecture_is_taken() {
    let folders = vec![wheel_folder("CCE_TEST_NVRTC_12"), wheel_folder("CCE_TEST_NVRTC_13")];
    let search = Search { folders, ..Search::default() };
    let version = |driver: Option<CudaVersion>, arch: Option<Arch>| {
        Nvrtc::find_in(&search, driver, arch).expect("one suits").version()
    };
    assert_eq!(version(None, None), CudaVersion::new(13, 0));
    assert_eq!(version(Some(CudaVersion::new(13, 0)), None), CudaVersion::new(13, 0));
    assert_eq!(version(Some(CudaVersion::new(12, 9)), None), CudaVersion::new(12, 9));
    // Only 12.9 still compiles for 7.0.
    assert_eq!(version(Some(CudaVersion::new(13, 0)), Some(Arch::new(7, 0))), CudaVersion::new(12, 9));
    let error = Nvrtc::find_in(&search, None, Some(Arch::new(3, 5))).expect_err("neither compiles for 3.5");
    assert!(matches!(error, Error::ArchNotSupported { .. }), "{error}");
}

#[test]
fn when_nothing_is_found_every_place_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let folders = vec![scratch.path().to_owned(), scratch.path().join("absent")];
    let error =
        Nvrtc::find_in(&Search { folders, ..Search::default() }, None, None).expect_err("empty folders");
    let message = error.to_string();
    assert!(
        message.contains("absent: no such folder") && message.contains("holds no usable libnvrtc"),
        "{message}"
    );
    assert!(message.contains("pip install nvidia-cuda-nvrtc"), "{message}");
}

/// Not a test of its own: [`found_by_a_process`] runs it as a process with an environment of its own.
#[test]
#[ignore = "prints what is found, for another test"]
fn print_what_is_found() {
    let Ok(driver) = std::env::var("CCE_TEST_DRIVER") else { return };
    match Nvrtc::find(Some(CudaVersion::from_code(driver.parse().unwrap())), None) {
        Ok(nvrtc) => println!("found {} at {}", nvrtc.version(), nvrtc.path().display()),
        Err(error) => println!("error: {error}"),
    }
}

/// What a process finds whose environment is these variables and nothing else. The driver's version keeps
/// out whatever newer toolkit this machine may have.
fn found_by_a_process(driver: &str, variables: &[(&str, &Path)]) -> String {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "nvrtc::tests::print_what_is_found", "--ignored", "--nocapture"])
        .env_clear()
        .env("CCE_TEST_DRIVER", driver)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_loaders_path_a_toolkit_and_a_python_environment_are_searched() {
    let (new, old) = (wheel_folder("CCE_TEST_NVRTC_13"), wheel_folder("CCE_TEST_NVRTC_12"));
    let scratch = tempfile::tempdir().unwrap();
    let toolkit = scratch.path().join("cuda");
    std::fs::create_dir_all(&toolkit).unwrap();
    std::os::unix::fs::symlink(&old, toolkit.join("lib64")).unwrap();
    let packages = scratch.path().join("venv/lib/python3.12/site-packages/nvidia/cu13");
    std::fs::create_dir_all(&packages).unwrap();
    std::os::unix::fs::symlink(&new, packages.join("lib")).unwrap();
    let venv = scratch.path().join("venv");

    let loader = found_by_a_process("12090", &[("LD_LIBRARY_PATH", &old)]);
    assert!(loader.contains("found 12.9") && loader.contains("libnvrtc.so.12"), "{loader}");
    let by_toolkit = found_by_a_process("12090", &[("CUDA_HOME", &toolkit)]);
    assert!(by_toolkit.contains("found 12.9"), "{by_toolkit}");
    let by_python = found_by_a_process("13000", &[("VIRTUAL_ENV", &venv)]);
    assert!(by_python.contains("found 13.0"), "{by_python}");
    // The newest wins wherever it is, and what is said explicitly wins over all.
    let both = [("LD_LIBRARY_PATH", old.as_path()), ("VIRTUAL_ENV", &venv)];
    let newest = found_by_a_process("13000", &both);
    assert!(newest.contains("found 13.0"), "{newest}");
    let explicit = found_by_a_process("13000", &[both[0], both[1], ("CCE_NVRTC_PATH", &old)]);
    assert!(explicit.contains("found 12.9"), "{explicit}");
    let wrong =
        found_by_a_process("13000", &[both[0], both[1], ("CCE_NVRTC_PATH", &toolkit.join("nothing"))]);
    assert!(wrong.contains("error: CCE_NVRTC_PATH is ") && wrong.contains("nothing"), "{wrong}");
}
