//! `cargo xtask gpu-bundle`: what has to run on a GPU, in one folder that needs no Rust there.
//!
//! ```text
//! .bundle/run           lists and runs the rest
//! .bundle/cce-tune
//! .bundle/tests/NAME    tests that need a GPU; a test among them is `#[ignore = "needs a GPU"]`, and `run`
//! includes those .bundle/benches/NAME
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo::{Built, Target, built, cargo, output, root, run as run_command, targets};
use crate::error::{Error, Result};
use crate::run_script::RUN;
use crate::toolchain::make_executable;

/// Bytes that the whole folder may have.
const LIMIT: u64 = 20_000_000;

/// What goes in: all targets of a package and a kind whose names begin with a prefix, and the folder they
/// go to.
const CONTENTS: [Entry; 4] = [
    Entry { package: "cut-cross-entropy", kind: "test", prefix: "gpu", folder: "tests" },
    Entry { package: "cce-runtime", kind: "test", prefix: "gpu", folder: "tests" },
    Entry { package: "cut-cross-entropy", kind: "bench", prefix: "gpu", folder: "benches" },
    Entry { package: "cce-tune", kind: "bin", prefix: "cce-tune", folder: "" },
];

struct Entry {
    package: &'static str,
    kind: &'static str,
    prefix: &'static str,
    folder: &'static str,
}

impl Entry {
    fn of(target: &Target) -> Option<&'static Self> {
        CONTENTS.iter().find(|entry| {
            target.package == entry.package
                && target.kind == entry.kind
                && target.name.starts_with(entry.prefix)
        })
    }
}

/// Builds the bundle.
pub fn run() -> Result<()> {
    let chosen: Vec<(Target, &Entry)> =
        targets()?.into_iter().filter_map(|target| Entry::of(&target).map(|entry| (target, entry))).collect();
    let executables = build(&chosen)?;

    let bundle = root().join(".bundle");
    if bundle.exists() {
        fs::remove_dir_all(&bundle).map_err(Error::io("remove", &bundle))?;
    }
    let mut files: Vec<(u64, PathBuf)> = Vec::new();
    for (target, entry) in &chosen {
        let folder = bundle.join(entry.folder);
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let to = folder.join(&target.name);
        let from = executables.iter().find(|one| one.kind == target.kind && one.name == target.name);
        let from = from.ok_or_else(|| Error::Output {
            what: "cargo's build messages",
            reason: format!("they name no executable for {} {}", target.kind, target.name),
        })?;
        strip(&from.path, &to)?;
        files.push((size(&to)?, to));
    }
    let script = bundle.join("run");
    fs::create_dir_all(&bundle).map_err(Error::io("create", &bundle))?;
    fs::write(&script, RUN).map_err(Error::io("write", &script))?;
    make_executable(&script)?;
    files.push((size(&script)?, script));
    report(&bundle, &mut files)
}

fn build(chosen: &[(Target, &Entry)]) -> Result<Vec<Built>> {
    const JSON: &str = "--message-format=json-render-diagnostics";
    let mut arguments = vec!["test", "--no-run", "--profile", "bundle", JSON];
    let mut programs = vec!["build", "--profile", "bundle", JSON];
    let (tests, binaries) = (arguments.len(), programs.len());
    for (target, _) in chosen {
        let (list, flag) = match target.kind.as_str() {
            "bin" => (&mut programs, "--bin"),
            "bench" => (&mut arguments, "--bench"),
            _ => (&mut arguments, "--test"),
        };
        if !list.contains(&target.package.as_str()) {
            list.extend(["--package", &target.package]);
        }
        list.extend([flag, &target.name]);
    }
    let mut messages = String::new();
    if arguments.len() > tests {
        messages += &output(&mut cargo(&arguments))?;
    }
    if programs.len() > binaries {
        messages += &output(&mut cargo(&programs))?;
    }
    Ok(built(&messages))
}

/// A copy without symbols. `strip` belongs to the tools that linked the executable.
fn strip(from: &Path, to: &Path) -> Result<()> {
    run_command(Command::new("strip").arg("-o").arg(to).arg(from))
}

fn size(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).map_err(Error::io("read", path))?.len())
}

fn report(bundle: &Path, files: &mut [(u64, PathBuf)]) -> Result<()> {
    files.sort();
    files.reverse();
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let names: Vec<String> = files
        .iter()
        .map(|(bytes, path)| {
            let name = path.strip_prefix(bundle).unwrap_or(path);
            format!("{} {:.2} MB", name.display(), megabytes(*bytes))
        })
        .collect();
    let total = files.iter().map(|(bytes, _)| bytes).sum();
    println!("{}\n{}: {:.2} MB", names.join("\n"), bundle.display(), megabytes(total));
    if total > LIMIT {
        return Err(Error::TooLarge { found: total, limit: LIMIT, largest: names.join(", ") });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(package: &str, kind: &str, name: &str) -> Option<&'static str> {
        let target = Target { package: package.into(), kind: kind.into(), name: name.into() };
        Entry::of(&target).map(|entry| entry.folder)
    }

    #[test]
    fn the_table_chooses_gpu_tests_benchmarks_and_the_tuner() {
        assert_eq!(folder("cut-cross-entropy", "test", "gpu_tests"), Some("tests"));
        assert_eq!(folder("cut-cross-entropy", "test", "ui"), None);
        assert_eq!(folder("cut-cross-entropy", "bench", "gpu"), Some("benches"));
        assert_eq!(folder("cce-tune", "bin", "cce-tune"), Some(""));
        assert_eq!(folder("xtask", "bin", "xtask"), None);
    }

    #[test]
    fn a_bundle_above_the_limit_is_refused() {
        let path = PathBuf::from("/b/cce-tune");
        assert!(report(Path::new("/b"), &mut [(LIMIT, path.clone())]).is_ok());
        let error = report(Path::new("/b"), &mut [(LIMIT + 1, path)]).expect_err("too large");
        assert!(error.to_string().contains("cce-tune 20.00 MB"), "{error}");
    }
}
