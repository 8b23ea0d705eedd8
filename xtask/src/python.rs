//! The tests that need Python: the PyTorch package's, with its wheel in a virtual environment under `target/python/`, on
//! the CPU device; and Kernel Tuner, in one under `target/kernel-tuner/`, which reads what cce-tune exports.
//!
//! Invariants: the versions of what is installed are those of a file of requirements in the repository; an environment
//! is used again only if it was finished, for these requirements and this interpreter; the wheel in it is the one
//! built now.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cargo;
use crate::error::{Error, Result};

/// The oldest CPython that the package is for.
const OLDEST: (u32, u32) = (3, 10);

/// Names to try, the first that is new enough is taken.
const NAMES: [&str; 6] = ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python3.10"];

const VERSION: &str = "import platform, sys; print(platform.python_implementation(), *sys.version_info[:2])";

/// An interpreter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    program: &'static str,
    version: (u32, u32),
}

/// Builds the wheel, installs it, runs pytest with these variables set.
pub fn test(environment: &[(&'static str, PathBuf)]) -> Result<()> {
    let interpreter = interpreter()?;
    let package = cargo::root().join("cce-torch");
    let folder = cargo::root().join("target").join("python");
    let python =
        provide(&interpreter, &package.join("requirements-test.txt"), &folder, "PyTorch, some 5 GB")?;

    let wheels = folder.join("wheels");
    if wheels.exists() {
        fs::remove_dir_all(&wheels).map_err(Error::io("remove", &wheels))?;
    }
    let mut build = Command::new(&python);
    build.args(["-m", "maturin", "build", "--release", "--quiet", "--interpreter"]).arg(&python);
    build.arg("--target-dir").arg(cargo::root().join("target")).arg("--out").arg(&wheels);
    cargo::run(build.current_dir(&package))?;

    let wheel = only_wheel(&wheels)?;
    println!("wheel: {}", wheel.display());
    let mut install = pip(&python);
    cargo::run(install.args(["install", "--force-reinstall", "--no-deps"]).arg(&wheel))?;

    let mut pytest = Command::new(&python);
    pytest.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]).current_dir(&package);
    cargo::run(pytest.envs(environment.iter().cloned()).env("PYTHONDONTWRITEBYTECODE", "1"))
}

/// Builds cce-tune, and lets Kernel Tuner read its exports.
pub fn test_kernel_tuner(environment: &[(&'static str, PathBuf)]) -> Result<()> {
    let interpreter = interpreter()?;
    let tests = cargo::root().join("cce-tune").join("tests").join("interchange");
    let folder = cargo::root().join("target").join("kernel-tuner");
    let python =
        provide(&interpreter, &tests.join("requirements.txt"), &folder, "Kernel Tuner, some 600 MB")?;
    let built = cargo::output(&mut cargo::cargo(&[
        "build",
        // As the tests are built, so that little is built again.
        "--workspace",
        "--profile",
        "test",
        "--bin",
        "cce-tune",
        "--message-format=json-render-diagnostics",
    ]))?;
    let built = cargo::built(&built).into_iter().find(|built| built.name == "cce-tune");
    let Some(built) = built else {
        let reason = "it built no program cce-tune".to_owned();
        return Err(Error::Output { what: "cargo build", reason });
    };
    let mut reads = Command::new(&python);
    reads.arg(tests.join("kernel_tuner_reads.py")).arg(&built.path);
    cargo::run(reads.envs(environment.iter().cloned()).env("PYTHONDONTWRITEBYTECODE", "1"))
}

/// The first interpreter on the path that is new enough.
fn interpreter() -> Result<Interpreter> {
    let mut found = Vec::new();
    for program in NAMES {
        let mut asked = Command::new(program);
        let Ok(output) = asked.args(["-c", VERSION]).stderr(Stdio::null()).output() else { continue };
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match version(&said) {
            Some(version) if version >= OLDEST => return Ok(Interpreter { program, version }),
            _ if said.is_empty() => {}
            _ => found.push(format!("{program} is {said}")),
        }
    }
    Err(Error::NoPython { found: if found.is_empty() { "none".to_owned() } else { found.join(", ") } })
}

/// The version of a CPython that said `CPython 3 11`.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut words = said.split(' ');
    (words.next()? == "CPython").then_some(())?;
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// An environment with these requirements, which are `what`; gives its interpreter.
fn provide(interpreter: &Interpreter, requirements: &Path, folder: &Path, what: &str) -> Result<PathBuf> {
    let wanted = fs::read_to_string(requirements).map_err(Error::io("read", requirements))?;
    let wanted = format!("CPython {}.{}\n{wanted}", interpreter.version.0, interpreter.version.1);
    let environment = folder.join("environment");
    let python = environment.join("bin").join("python");
    let finished = folder.join("finished.txt");
    if python.exists() && fs::read_to_string(&finished).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    // What is there was made for something else, or not to its end.
    for path in [&finished, &environment] {
        let removed = match path.is_dir() {
            true => fs::remove_dir_all(path),
            false if path.exists() => fs::remove_file(path),
            false => Ok(()),
        };
        removed.map_err(Error::io("remove", path))?;
    }
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    println!("installing {what} when installed, from PyPI into {}", environment.display());
    cargo::run(Command::new(interpreter.program).args(["-m", "venv"]).arg(&environment))?;
    // Nothing is kept besides the environment: the downloads are as large as it is.
    let mut install = pip(&python);
    cargo::run(install.args(["install", "--no-cache-dir", "--requirement"]).arg(requirements))?;
    fs::write(&finished, wanted).map_err(Error::io("write", &finished))?;
    Ok(python)
}

fn pip(python: &Path) -> Command {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]);
    pip
}

/// The wheel in a folder that holds one.
pub fn only_wheel(folder: &Path) -> Result<PathBuf> {
    let listing = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    let mut wheels: Vec<PathBuf> = listing
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .collect();
    match (wheels.pop(), wheels.len()) {
        (Some(wheel), 0) => Ok(wheel),
        (_, others) => {
            let found = if others == 0 { "none".to_owned() } else { format!("{}", others + 1) };
            let reason = format!("one is expected in {}, and there are {found}", folder.display());
            Err(Error::Output { what: "the wheel", reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpreter_says_what_it_is() {
        assert_eq!(version("CPython 3 11"), Some((3, 11)));
        assert_eq!(version("PyPy 3 11"), None);
        assert_eq!(version(""), None);
        assert!(version("CPython 3 9").unwrap() < OLDEST && version("CPython 3 10").unwrap() >= OLDEST);
    }

    #[test]
    fn an_interpreter_that_is_missing_is_a_failure_that_says_which_is_needed() {
        let error = Error::NoPython { found: "python3 is CPython 3 9".to_owned() }.to_string();
        assert!(error.starts_with("CPython 3.10 or newer is needed"), "{error}");
        assert!(error.contains("python3 is CPython 3 9"), "{error}");
    }

    #[test]
    fn every_requirement_is_pinned() {
        let files = [
            ("cce-torch/requirements-test.txt", "torch==2.11"),
            ("cce-tune/tests/interchange/requirements.txt", "kernel_tuner==1.5"),
        ];
        for (file, main) in files {
            let text = fs::read_to_string(cargo::root().join(file)).unwrap();
            let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
            assert!(lines.iter().any(|line| line.starts_with(main)), "{file}");
            assert!(lines.iter().all(|line| line.contains("==")), "{file}: {lines:?}");
        }
    }
}
