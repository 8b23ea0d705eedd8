//! Where NVRTC may be, and which of several to take.
//!
//! The order of the places: `CCE_NVRTC_PATH` (alone, when it is set), the loader's own path, `CUDA_HOME`
//! and `CUDA_PATH`, `/usr/local/cuda*`, and the folders of Python wheels. The choice among what is there:
//! the newest that is not newer than the driver, because a driver loads no cubin of a newer major version;
//! of equal versions, the first found. Invariant: looking costs no process and, but for the loader's path,
//! loads nothing; versions are read from file names (`libnvrtc-builtins.so.13.0`), so that a warm start
//! loads one library, not all.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::driver::CudaVersion;

/// Names that the system's loader is asked for. The major version is part of the name since CUDA 12.
const LOADER_NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

/// The variables that decide where to look. Public so that a diagnosis can print what was looked at.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Search {
    /// `CCE_NVRTC_PATH`: a library or a folder; nothing else is looked at when it is set.
    pub explicit: Option<PathBuf>,
    /// Whether to ask the system's loader by name.
    pub loader: bool,
    /// Folders in order of preference among equal versions.
    pub folders: Vec<PathBuf>,
}

/// A library to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    /// As its file name says; `None` when only loading it can tell.
    pub(super) version: Option<CudaVersion>,
}

impl Search {
    /// One library or one folder, and nowhere else: what `CCE_NVRTC_PATH` does.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { explicit: Some(path.into()), ..Self::default() }
    }

    /// From this process's environment.
    pub fn from_env() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(path) = variable("CCE_NVRTC_PATH") {
            return Self::at(path);
        }
        let mut folders = Vec::new();
        for root in ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable).map(PathBuf::from) {
            folders.extend([root.join("lib64"), root.join("lib")]);
        }
        let mut toolkits = entries(Path::new("/usr/local"), |name| name.starts_with("cuda"));
        // `cuda` is a link to the version in use; the others, newest first.
        toolkits.sort_by_key(|path| (!path.ends_with("cuda"), std::cmp::Reverse(path.clone())));
        folders.extend(toolkits.into_iter().map(|root| root.join("lib64")));
        for packages in python_packages(variable) {
            folders.extend(wheel_folders(&packages));
        }
        Self { explicit: None, loader: true, folders }
    }

    /// The libraries in the folders, none twice (folders are often links to each other).
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let mut found: Vec<Candidate> = Vec::new();
        let folders: Vec<PathBuf> = match &self.explicit {
            Some(path) if path.is_dir() => vec![path.clone(), path.join("lib64"), path.join("lib")],
            Some(path) => {
                return vec![Candidate { path: path.clone(), version: None }];
            }
            None => self.folders.clone(),
        };
        for folder in folders {
            for candidate in in_folder(&folder) {
                if !found.iter().any(|other| other.path == candidate.path) {
                    found.push(candidate);
                }
            }
        }
        found
    }

    /// The names for the system's loader, if it is to be asked.
    pub(super) fn loader_names(&self) -> impl Iterator<Item = &'static Path> {
        LOADER_NAMES.into_iter().map(Path::new).filter(|_| self.loader)
    }
}

/// The position of a version in order of preference: lower is better.
pub(super) fn preference(version: CudaVersion, driver: Option<CudaVersion>) -> impl Ord {
    let newer_than_driver = driver.is_some_and(|driver| version > driver);
    // Among those newer than the driver the oldest is the likeliest to work: within a major version cubins
    // still load.
    let distance = i64::from(version.major) * 1000 + i64::from(version.minor);
    (newer_than_driver, if newer_than_driver { distance } else { -distance })
}

/// The NVRTCs of one folder by their real paths: `libnvrtc.so`, `.so.13` and `.so.13.0.88` are usually one
/// file.
fn in_folder(folder: &Path) -> Vec<Candidate> {
    let builtins: Vec<CudaVersion> = entries(folder, |name| name.starts_with("libnvrtc-builtins.so."))
        .iter()
        .filter_map(|path| version_after(path, "libnvrtc-builtins.so."))
        .collect();
    let mut names = entries(folder, |name| name == "libnvrtc.so" || name.starts_with("libnvrtc.so."));
    // The longest name is the most exact about the version, and sorts last.
    names.sort();
    names.reverse();
    let mut found: Vec<Candidate> = Vec::new();
    for path in names {
        let Ok(path) = path.canonicalize() else {
            continue;
        };
        if found.iter().any(|candidate| candidate.path == path) {
            continue;
        }
        let major = major_after(&path, "libnvrtc.so.");
        let mut fitting = builtins.iter().filter(|version| major.is_none_or(|major| version.major == major));
        // Exactly one set of builtins fits, or only loading can tell.
        let version = match (fitting.next(), fitting.next()) {
            (Some(version), None) => Some(*version),
            _ => None,
        };
        found.push(Candidate { path, version });
    }
    found
}

fn version_after(path: &Path, prefix: &str) -> Option<CudaVersion> {
    let mut parts = path.file_name()?.to_str()?.strip_prefix(prefix)?.split('.').map(str::parse::<u32>);
    Some(CudaVersion::new(parts.next()?.ok()?, parts.next()?.ok()?))
}

fn major_after(path: &Path, prefix: &str) -> Option<u32> {
    path.file_name()?.to_str()?.strip_prefix(prefix)?.split('.').next()?.parse().ok()
}

/// Wheels' library folders: `nvidia/cu13/lib` since CUDA 13, `nvidia/cuda_nvrtc/lib` before.
fn wheel_folders(packages: &Path) -> Vec<PathBuf> {
    let nvidia = packages.join("nvidia");
    let mut folders: Vec<PathBuf> = entries(&nvidia, |name| {
        name.starts_with("cu") && name[2..].bytes().all(|byte| byte.is_ascii_digit())
    });
    folders.sort();
    folders.reverse();
    folders.push(nvidia.join("cuda_nvrtc"));
    folders.into_iter().map(|folder| folder.join("lib")).collect()
}

/// The package folders of the active Python environments, worked out from paths alone: starting a Python to
/// ask it takes longer than everything else here together.
fn python_packages(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let mut prefixes: Vec<PathBuf> = Vec::new();
    prefixes.extend(["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(&variable).map(PathBuf::from));
    let on_path = variable("PATH").and_then(|path| {
        std::env::split_paths(&path).map(|folder| folder.join("python3")).find(|file| file.is_file())
    });
    if let Some(python) = on_path {
        // As found, which is a virtual environment's own prefix, and behind its links, which is the base's.
        for file in [Some(python.clone()), python.canonicalize().ok()].into_iter().flatten() {
            let bin = file.parent();
            prefixes.extend(bin.and_then(Path::parent).map(Path::to_owned));
            if bin.is_some_and(|bin| bin.ends_with("shims")) {
                prefixes.extend(pyenv_prefix(bin.and_then(Path::parent), variable("PYENV_VERSION")));
            }
        }
    }
    prefixes.extend(variable("HOME").map(|home| Path::new(&home).join(".local")));
    prefixes.extend(["/usr/local", "/usr"].map(PathBuf::from));

    let mut packages: Vec<PathBuf> = Vec::new();
    for prefix in prefixes {
        for lib in ["lib", "lib64"].map(|lib| prefix.join(lib)) {
            let mut versions = entries(&lib, |name| name.starts_with("python3"));
            versions.sort();
            versions.reverse();
            for version in versions {
                packages.extend(["site-packages", "dist-packages"].map(|name| version.join(name)));
            }
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    packages.retain(|folder| folder.is_dir() && seen.insert(folder.clone()));
    packages
}

/// pyenv's `python3` on the path is a script; the version it would start is named by a variable or a file.
fn pyenv_prefix(root: Option<&Path>, version: Option<OsString>) -> Option<PathBuf> {
    let root = root?;
    let name = match version {
        Some(name) => name.into_string().ok()?,
        None => std::fs::read_to_string(root.join("version")).ok()?,
    };
    let first = name.split([':', '\n', ' ']).next()?;
    Some(root.join("versions").join(first))
}

/// The entries of a folder whose names pass, in no order; none if the folder is not there.
fn entries(folder: &Path, accept: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(listing) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    listing
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(&accept))
        .map(|e| e.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(versions: &[(u32, u32)], driver: Option<(u32, u32)>) -> CudaVersion {
        let driver = driver.map(|(major, minor)| CudaVersion::new(major, minor));
        let versions = versions.iter().map(|&(major, minor)| CudaVersion::new(major, minor));
        versions.min_by_key(|version| preference(*version, driver)).expect("some version")
    }

    #[test]
    fn the_newest_that_is_not_newer_than_the_driver_is_preferred() {
        let there = [(12, 4), (13, 2), (13, 0), (12, 9)];
        assert_eq!(best(&there, Some((13, 0))), CudaVersion::new(13, 0));
        assert_eq!(best(&there, Some((12, 8))), CudaVersion::new(12, 4));
        assert_eq!(best(&there, None), CudaVersion::new(13, 2));
        assert_eq!(best(&there, Some((12, 2))), CudaVersion::new(12, 4));
    }

    #[test]
    fn a_folder_states_versions_by_its_file_names_and_links_count_once() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path();
        for name in ["libnvrtc.so.13.0.88", "libnvrtc-builtins.so.13.0.88", "libnvrtc.alt.so.13"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        for (link, file) in [
            ("libnvrtc.so", "libnvrtc.so.13"),
            ("libnvrtc.so.13", "libnvrtc.so.13.0.88"),
            ("libnvrtc-builtins.so.13.0", "libnvrtc-builtins.so.13.0.88"),
        ] {
            std::os::unix::fs::symlink(file, folder.join(link)).unwrap();
        }
        let search = Search { folders: vec![folder.to_owned(), folder.to_owned()], ..Search::default() };
        let found = search.candidates();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].path.ends_with("libnvrtc.so.13.0.88"));
    }

    #[test]
    fn a_wheel_is_found_and_its_version_known_without_loading_it() {
        let scratch = tempfile::tempdir().unwrap();
        let lib = scratch.path().join("nvidia/cu13/lib");
        std::fs::create_dir_all(&lib).unwrap();
        std::fs::write(lib.join("libnvrtc.so.13"), "").unwrap();
        std::fs::write(lib.join("libnvrtc-builtins.so.13.0"), "").unwrap();
        let search = Search { folders: wheel_folders(scratch.path()), ..Search::default() };
        let found = search.candidates();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].version, Some(CudaVersion::new(13, 0)));
    }

    #[test]
    fn the_python_on_the_path_is_seen_through_a_virtual_environment_and_through_pyenv() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        let (base, venv) = (root.join("versions/3.12.1"), root.join("venv"));
        for folder in ["bin", "lib/python3.12/site-packages"] {
            std::fs::create_dir_all(base.join(folder)).unwrap();
            std::fs::create_dir_all(venv.join(folder)).unwrap();
        }
        std::fs::create_dir_all(root.join("shims")).unwrap();
        std::fs::write(root.join("shims/python3"), "#!/bin/sh\n").unwrap();
        std::fs::write(root.join("version"), "3.12.1\n").unwrap();
        std::fs::write(base.join("bin/python3"), "").unwrap();
        std::os::unix::fs::symlink(base.join("bin/python3"), venv.join("bin/python3")).unwrap();
        let of_path =
            |bin: PathBuf| python_packages(|name| (name == "PATH").then(|| bin.clone().into_os_string()));

        let base_packages = base.join("lib/python3.12/site-packages");
        let found = of_path(venv.join("bin"));
        assert_eq!(found[0], venv.join("lib/python3.12/site-packages"));
        assert!(found.contains(&base_packages.canonicalize().unwrap()), "{found:?}");
        assert!(of_path(root.join("shims")).contains(&base_packages), "pyenv");
    }
}
