//! Runs the real binary in a folder of its own.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use serde_json::Value;
use std::process::{Command, Output};
use tempfile::TempDir;

/// A folder with a database, and nothing of the user's environment.
pub struct Tuner {
    folder: TempDir,
}

/// What a run came to.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Tuner {
    pub fn new() -> Tuner {
        Tuner { folder: tempfile::tempdir().unwrap() }
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// The database's folder.
    pub fn database(&self) -> String {
        self.path("database")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cce-tune"));
        command.args(args).current_dir(self.folder.path());
        command.env("CCE_TUNING_DIR", self.database()).env("CCE_CACHE_DIR", self.path("cache"));
        command.env_remove("CCE_PROFILE").env("RAYON_NUM_THREADS", "2");
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(&mut self.command(args))
    }

    /// Tunes a problem that takes a fraction of a millisecond.
    pub fn tiny(&self, args: &[&str]) -> Ran {
        Ran::of(&mut tiny(self.command(args)))
    }
}

/// The flags of a tiny problem.
pub fn tiny(mut command: Command) -> Command {
    command.args(["--gpu", "cpu", "--tokens", "48", "--hidden", "16", "--vocab", "1500"]);
    command
}

/// The candidates of the first device in the JSON of a tuning.
pub fn candidates(value: &Value) -> Vec<Value> {
    value["devices"][0]["candidates"].as_array().unwrap().clone()
}

impl Ran {
    pub fn of(command: &mut Command) -> Ran {
        Ran::from(command.output().unwrap())
    }

    pub fn from(output: Output) -> Ran {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// It ended with 0.
    #[track_caller]
    pub fn ok(self) -> Ran {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output is JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}\n{}", self.stdout, self.stderr))
    }
}
