use super::*;
use crate::nvrtc_for_tests::{nvrtc_12, nvrtc_13};
use std::os::unix::fs::PermissionsExt as _;

const KERNEL: &str = "extern \"C\" __global__ void twice(float* p) { p[threadIdx.x] *= 2.0f; }\n";

fn source(text: &str) -> Source<'_> {
    Source { text, name: "sample.cu", loss: "gemma2" }
}

fn get(cache: &CubinCache, text: &str) -> Cached {
    cache.get_or_compile(&nvrtc_13(), &source(text), Arch::SM_90A, &Options::default()).expect("it compiles")
}

fn entries(cache: &CubinCache) -> Vec<PathBuf> {
    let listing = fs::read_dir(cache.folder().expect("a folder")).expect("it was created");
    listing.map(|file| file.expect("an entry").path()).collect()
}

#[test]
fn what_was_compiled_once_is_read_back_bit_for_bit() {
    let scratch = tempfile::tempdir().unwrap();
    let cache = CubinCache::at(scratch.path());
    let first = get(&cache, KERNEL);
    let second = get(&cache, KERNEL);
    assert_eq!((first.origin, second.origin), (Origin::Compiled, Origin::Cache));
    assert_eq!(first.compiled, second.compiled);
    assert!(first.compiled.cubin.starts_with(b"\x7fELF") && !first.compiled.kernels.is_empty());
    assert_eq!((first.warning, second.warning), (None, None));
}

#[test]
fn every_part_of_the_key_makes_another_entry() {
    let scratch = tempfile::tempdir().unwrap();
    let cache = CubinCache::at(scratch.path());
    let options = Options { line_info: true, ..Options::default() };
    let plain = Options::default();
    let (new, old) = (nvrtc_13(), nvrtc_12());
    let other = format!("{KERNEL}// another\n");
    for (nvrtc, text, arch, options) in [
        (&new, KERNEL, Arch::SM_90A, &plain),
        (&old, KERNEL, Arch::SM_90A, &plain),
        (&new, &other, Arch::SM_90A, &plain),
        (&new, KERNEL, Arch::SM_80, &plain),
        (&new, KERNEL, Arch::SM_90A, &options),
    ] {
        let got = cache.get_or_compile(nvrtc, &source(text), arch, options).expect("it compiles");
        assert_eq!(got.origin, Origin::Compiled, "{arch} {options:?}");
    }
    assert_eq!(entries(&cache).len(), 5);
}

#[test]
fn an_entry_damaged_anywhere_is_noticed_and_rebuilt() {
    let scratch = tempfile::tempdir().unwrap();
    let cache = CubinCache::at(scratch.path());
    let good = get(&cache, KERNEL).compiled;
    let path = entries(&cache).remove(0);
    let bytes = fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let damages = [flipped(0), flipped(15), flipped(40), flipped(bytes.len() / 2), flipped(bytes.len() - 1)];
    let cuts = [vec![], bytes[..20].to_vec(), bytes[..bytes.len() - 1].to_vec(), [&bytes[..], b"x"].concat()];
    for (number, damage) in damages.into_iter().chain(cuts).enumerate() {
        fs::write(&path, damage).unwrap();
        let rebuilt = get(&cache, KERNEL);
        assert_eq!((rebuilt.origin, &rebuilt.compiled), (Origin::Rebuilt, &good), "damage {number}");
        assert!(rebuilt.warning.is_some_and(|text| text.contains("compiled anew")), "damage {number}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "damage {number} is repaired on disk");
    }
}

#[test]
fn an_entry_under_another_name_is_not_believed() {
    let scratch = tempfile::tempdir().unwrap();
    let cache = CubinCache::at(scratch.path());
    get(&cache, KERNEL);
    let right = entries(&cache).remove(0);
    let other = KERNEL.replace("2.0f", "3.0f");
    get(&cache, &other);
    let wrong = entries(&cache).into_iter().find(|path| *path != right).expect("two entries");
    fs::copy(&right, &wrong).unwrap();
    assert_eq!(get(&cache, &other).origin, Origin::Rebuilt);
}

#[test]
fn writers_at_the_same_time_leave_one_whole_entry_and_no_rubbish() {
    let scratch = tempfile::tempdir().unwrap();
    let cache = CubinCache::at(scratch.path());
    let barrier = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                barrier.wait();
                for _ in 0..20 {
                    let got = get(&cache, KERNEL);
                    assert!(got.warning.is_none(), "{:?}", got.warning);
                    // Gone under the readers' feet: they compile it again, and never see half of it.
                    for path in entries(&cache).into_iter().filter(|path| path.extension().is_none()) {
                        _ = fs::remove_file(path);
                    }
                }
            });
        }
    });
    get(&cache, KERNEL);
    assert_eq!(entries(&cache).len(), 1);
    assert_eq!(get(&cache, KERNEL).origin, Origin::Cache);
}

#[test]
fn a_folder_that_cannot_be_written_warns_and_works() {
    let scratch = tempfile::tempdir().unwrap();
    // A file where the folder should be fails for every user; a mode alone does not stop root.
    let blocked = scratch.path().join("blocked");
    fs::write(&blocked, "").unwrap();
    let got = get(&CubinCache::at(&blocked), KERNEL);
    assert_eq!(got.origin, Origin::Compiled);
    assert!(got.warning.is_some_and(|text| text.contains("blocked")));

    let locked = scratch.path().join("locked");
    fs::create_dir_all(locked.join("cubins-1")).unwrap();
    fs::set_permissions(locked.join("cubins-1"), fs::Permissions::from_mode(0o555)).unwrap();
    assert!(get(&CubinCache::at(&locked), KERNEL).compiled.cubin.starts_with(b"\x7fELF"));
    fs::set_permissions(locked.join("cubins-1"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn without_a_folder_everything_is_compiled_and_the_reason_is_given() {
    let got = get(&CubinCache::disabled("HOME is not set"), KERNEL);
    assert_eq!(got.origin, Origin::Compiled);
    assert!(got.warning.is_some_and(|text| text.contains("HOME is not set")));
}

#[test]
fn the_size_stays_below_the_limit() {
    let scratch = tempfile::tempdir().unwrap();
    let size = {
        let cache = CubinCache::at(scratch.path());
        get(&cache, KERNEL);
        fs::metadata(entries(&cache).remove(0)).unwrap().len()
    };
    let cache = CubinCache::at(scratch.path()).with_limit(size * 5 / 2);
    for factor in 3..8 {
        get(&cache, &KERNEL.replace("2.0f", &format!("{factor}.0f")));
    }
    assert_eq!(entries(&cache).len(), 2);
    assert_eq!(get(&cache, &KERNEL.replace("2.0f", "7.0f")).origin, Origin::Cache);
}

#[test]
fn the_folder_comes_from_the_first_variable_that_is_set() {
    let folder = |set: &[(&str, &str)]| {
        let set: Vec<(String, OsString)> =
            set.iter().map(|(name, value)| ((*name).into(), value.into())).collect();
        default_folder(|name| set.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()))
    };
    let (cce, xdg, home) = (("CCE_CACHE_DIR", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c"));
    assert_eq!(folder(&[cce, xdg, home]), Some("/a".into()));
    assert_eq!(folder(&[xdg, home]), Some("/b/cce".into()));
    assert_eq!(folder(&[home]), Some("/c/.cache/cce".into()));
    assert_eq!(folder(&[]), None);
}
