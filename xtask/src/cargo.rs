//! Calling cargo, and the workspace it works on.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::error::{Error, Result};

/// The workspace's folder.
pub fn root() -> &'static Path {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.parent().unwrap_or(crate_folder)
}

/// A cargo command in the workspace's folder: the cargo that runs this task.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    command
}

/// Runs a command with its output shown; an error unless it succeeds.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|source| start_error(command, source))?;
    if status.success() { Ok(()) } else { Err(Error::Failed { command: line(command), status }) }
}

/// Runs a command with its errors shown, and gives its standard output; an error unless it succeeds.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output().map_err(|source| start_error(command, source))?;
    if !output.status.success() {
        return Err(Error::Failed { command: line(command), status: output.status });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn start_error(command: &Command, source: std::io::Error) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    Error::Start { program, source, advice: "is it installed and on the PATH?" }
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// A target of a workspace package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its package's name.
    pub package: String,
    /// cargo's word: `bin`, `test`, `bench`, `lib`, ...
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// Every target of the workspace.
pub fn targets() -> Result<Vec<Target>> {
    read_targets(&output(&mut cargo(&["metadata", "--no-deps", "--format-version", "1"]))?)
}

fn read_targets(metadata: &str) -> Result<Vec<Target>> {
    let unreadable = |reason: String| Error::Output { what: "`cargo metadata`", reason };
    let metadata: Value = serde_json::from_str(metadata).map_err(|error| unreadable(error.to_string()))?;
    let packages = metadata["packages"].as_array().ok_or_else(|| unreadable("no packages".to_owned()))?;
    let mut targets = Vec::new();
    for package in packages {
        for target in package["targets"].as_array().into_iter().flatten() {
            targets.push(Target {
                package: text(&package["name"]),
                kind: text(&target["kind"][0]),
                name: text(&target["name"]),
            });
        }
    }
    Ok(targets)
}

/// An executable that cargo built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// cargo's word for its target's kind.
    pub kind: String,
    /// Its target's name.
    pub name: String,
    /// The file.
    pub path: PathBuf,
}

/// The executables named by cargo's `--message-format=json` output.
pub fn built(messages: &str) -> Vec<Built> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let artifacts = messages.filter(|message| message["reason"] == "compiler-artifact");
    artifacts
        .filter_map(|artifact| {
            Some(Built {
                path: artifact["executable"].as_str()?.into(),
                kind: text(&artifact["target"]["kind"][0]),
                name: text(&artifact["target"]["name"]),
            })
        })
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_read_from_messages_and_other_lines_are_passed_over() {
        let messages = concat!(
            "{\"reason\":\"compiler-artifact\",\"target\":{\"kind\":[\"lib\"],\"name\":\"cce\"},",
            "\"executable\":null}\n",
            "warning: something\n",
            "{\"reason\":\"compiler-artifact\",\"target\":{\"kind\":[\"test\"],\"name\":\"gpu_all\"},",
            "\"executable\":\"/t/gpu_all-1\"}\n",
            "{\"reason\":\"build-finished\",\"success\":true}\n",
        );
        let expected = Built { kind: "test".into(), name: "gpu_all".into(), path: "/t/gpu_all-1".into() };
        assert_eq!(built(messages), [expected]);
    }

    #[test]
    fn this_workspace_has_this_package() {
        let this = Target { package: "xtask".into(), kind: "bin".into(), name: "xtask".into() };
        assert!(targets().expect("cargo metadata works").contains(&this));
    }

    #[test]
    fn a_command_that_fails_is_an_error_with_its_line() {
        let error = output(&mut cargo(&["no-such-command"])).expect_err("it fails");
        assert!(error.to_string().contains("no-such-command"), "{error}");
    }
}
