//! NVIDIA's compilers and disassembler for the tests, fetched from PyPI into `target/toolchain/`.
//!
//! Invariants: a wheel is accepted only with the SHA-256 recorded here (pip checks it); a folder under
//! `target/toolchain/` is complete, because it is unpacked aside and renamed; a variable that is already
//! set is respected and nothing is fetched for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cargo;
use crate::error::{Error, Result};
use crate::python::only_wheel;

/// A wheel and what the tests need of it.
struct Wheel {
    /// The variable that tells the tests.
    variable: &'static str,
    /// The file or folder within the wheel that the variable names.
    names: &'static str,
    package: &'static str,
    version: &'static str,
    /// Of the Linux wheels for x86-64 and for Arm.
    sha256: [&'static str; 2],
    /// Files to unpack. A wheel holds more: another build of the same library, 100 MB.
    files: &'static [&'static str],
}

const WHEELS: [Wheel; 3] = [
    Wheel {
        variable: "CCE_TEST_NVRTC_13",
        names: "nvidia/cu13/lib",
        package: "nvidia-cuda-nvrtc",
        version: "13.0.88",
        sha256: [
            "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
            "d27f20a0ca67a4bb34268a5e951033496c5b74870b868bacd046b1b8e0c3267b",
        ],
        files: &["nvidia/cu13/lib/libnvrtc.so.13", "nvidia/cu13/lib/libnvrtc-builtins.so.13.0"],
    },
    Wheel {
        variable: "CCE_TEST_NVRTC_12",
        names: "nvidia/cuda_nvrtc/lib",
        package: "nvidia-cuda-nvrtc-cu12",
        version: "12.9.86",
        sha256: [
            "210cf05005a447e29214e9ce50851e83fc5f4358df8b453155d5e1918094dcb4",
            "096d4de6bda726415dfaf3198d4f5c522b8e70139c97feef5cd2ca6d4cd9cead",
        ],
        files: &["nvidia/cuda_nvrtc/lib/libnvrtc.so.12", "nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.12.9"],
    },
    Wheel {
        variable: "CCE_TEST_NVDISASM",
        names: "nvidia/cu13/bin/nvdisasm",
        package: "nvidia-cuda-nvdisasm",
        version: "13.2.78",
        sha256: [
            "b4ebcd3c5046bf8039ac52675b9dbefd843600969649ecaab0a42b0713a61dae",
            "c338282695eca43de237929c5e3963d8d04f61d578d40f01bd04aca2bc29c233",
        ],
        files: &["nvidia/cu13/bin/nvdisasm"],
    },
];

/// Unpacks the named members of a wheel (a zip file) into a folder; Python is there anyway, for pip.
const UNPACK: &str = "import sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
for name in sys.argv[3:]: wheel.extract(name, sys.argv[2])";

/// Makes everything available; gives the variables that tell the tests where it is.
pub fn provide() -> Result<Vec<(&'static str, PathBuf)>> {
    let folder = cargo::root().join("target").join("toolchain");
    WHEELS.iter().map(|wheel| Ok((wheel.variable, wheel.provide(&folder)?))).collect()
}

impl Wheel {
    fn provide(&self, toolchain: &Path) -> Result<PathBuf> {
        if let Some(given) = std::env::var_os(self.variable).filter(|value| !value.is_empty()) {
            println!("{}: {} (as set)", self.variable, Path::new(&given).display());
            return Ok(given.into());
        }
        let folder = toolchain.join(format!("{}-{}", self.package, self.version));
        if !self.is_complete(&folder) {
            self.fetch(toolchain, &folder)?;
        }
        let place = folder.join(self.names);
        println!("{}: {}", self.variable, place.display());
        Ok(place)
    }

    fn is_complete(&self, folder: &Path) -> bool {
        self.files.iter().all(|file| folder.join(file).is_file())
    }

    /// Downloads and unpacks aside, then renames: a run that is cut short leaves nothing that looks
    /// complete.
    fn fetch(&self, toolchain: &Path, folder: &Path) -> Result<()> {
        println!("fetching {} {} from PyPI", self.package, self.version);
        let aside = toolchain.join(format!("{}-{}.aside", self.package, std::process::id()));
        fs::create_dir_all(&aside).map_err(Error::io("create", &aside))?;
        let done = self.fetch_into(&aside).and_then(|()| {
            if folder.exists() {
                fs::remove_dir_all(folder).map_err(Error::io("remove", folder))?;
            }
            let unpacked = aside.join("unpacked");
            match fs::rename(&unpacked, folder) {
                // Another run was first.
                Err(_) if self.is_complete(folder) => Ok(()),
                other => other.map_err(Error::io("create", folder)),
            }
        });
        // Best effort: what stays behind is in target/ and has a name of its own.
        _ = fs::remove_dir_all(&aside);
        done
    }

    fn fetch_into(&self, aside: &Path) -> Result<()> {
        self.require_pip()?;
        let requirements = aside.join("requirements.txt");
        fs::write(&requirements, self.requirement()).map_err(Error::io("write", &requirements))?;
        let mut pip = python();
        pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
        pip.args(["--only-binary=:all:", "--require-hashes", "--requirement"]).arg(&requirements);
        pip.arg("--dest").arg(aside.join("wheels"));
        cargo::run(&mut pip)?;

        let wheel = only_wheel(&aside.join("wheels"))?;
        let unpacked = aside.join("unpacked");
        cargo::run(python().arg("-c").arg(UNPACK).arg(wheel).arg(&unpacked).args(self.files))?;
        for file in self.files.iter().filter(|file| file.contains("/bin/")) {
            make_executable(&unpacked.join(file))?;
        }
        Ok(())
    }

    /// A line of a requirements file, with which pip refuses every other wheel.
    fn requirement(&self) -> String {
        let hashes: String = self.sha256.iter().map(|hash| format!(" --hash=sha256:{hash}")).collect();
        format!("{}=={}{hashes}\n", self.package, self.version)
    }

    fn require_pip(&self) -> Result<()> {
        let missing = |reason: String| Error::NoPip {
            package: format!("{} {}", self.package, self.version),
            reason,
            variable: self.variable,
        };
        let tried =
            python().args(["-m", "pip", "--version"]).stdout(Stdio::null()).stderr(Stdio::piped()).output();
        match tried {
            Err(error) => Err(missing(format!("python3: {error}"))),
            Ok(output) if !output.status.success() => {
                Err(missing(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
            }
            Ok(_) => Ok(()),
        }
    }
}

fn python() -> Command {
    Command::new("python3")
}

/// Lets everybody run a file; does nothing where files have no such mark.
#[cfg(unix)]
pub fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(Error::io("make executable", path))
}

/// As above.
#[cfg(not(unix))]
pub fn make_executable(_path: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wheel_is_pinned_by_whole_checksums() {
        for wheel in &WHEELS {
            let requirement = wheel.requirement();
            assert!(requirement.starts_with(&format!("{}=={} --hash=sha256:", wheel.package, wheel.version)));
            assert!(wheel.sha256.iter().all(|hash| hash.len() == 64), "{}", wheel.package);
            assert!(wheel.files.iter().all(|file| file.starts_with(wheel.names)), "{}", wheel.package);
        }
    }

    #[test]
    fn a_folder_that_lacks_a_file_is_not_complete() {
        let scratch = tempfile::tempdir().unwrap();
        let wheel = &WHEELS[0];
        assert!(!wheel.is_complete(scratch.path()));
        for file in wheel.files {
            assert!(!wheel.is_complete(scratch.path()));
            let path = scratch.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        assert!(wheel.is_complete(scratch.path()));
    }
}
