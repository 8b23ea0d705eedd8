//! The parent's side of one worker process.

use super::frame;
use super::message::{Reply, Request};
use std::ffi::OsString;
use std::io::{BufReader, BufWriter};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long a killed process may take to be gone.
const BURIAL: Duration = Duration::from_secs(10);

/// How a worker is started: a program that calls [`serve`](super::serve) on its standard input and output
/// when it is run with these arguments. It gets this process's environment, and as many threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Variables that it gets besides this process's.
    pub variables: Vec<(OsString, OsString)>,
    /// How many tunings run at the same time, and share the cores that compile.
    pub tunings: usize,
}

impl WorkerCommand {
    /// A program, run with these arguments.
    pub fn new(program: impl Into<PathBuf>, arguments: impl IntoIterator<Item = OsString>) -> WorkerCommand {
        let arguments = arguments.into_iter().collect();
        WorkerCommand { program: program.into(), arguments, variables: Vec::new(), tunings: 1 }
    }

    /// As one of so many tunings at the same time.
    #[must_use]
    pub fn among(self, tunings: usize) -> WorkerCommand {
        WorkerCommand { tunings, ..self }
    }

    /// With a variable of the environment.
    #[must_use]
    pub fn variable(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> WorkerCommand {
        self.variables.push((name.into(), value.into()));
        self
    }
}

/// Why there is no reply.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// None came in time.
    TooLate,
    /// The process ended, or said something that is no reply; in words.
    Crashed(String),
}

/// A worker process; killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    requests: Option<BufWriter<ChildStdin>>,
    replies: Receiver<Result<Reply, String>>,
}

impl Process {
    pub(super) fn start(command: &WorkerCommand) -> std::io::Result<Process> {
        let mut starting = Command::new(&command.program);
        starting.args(&command.arguments);
        // The CPU device's key holds their number, whatever has become of the environment that it came from.
        starting.env("RAYON_NUM_THREADS", rayon::current_num_threads().to_string());
        starting.envs(command.variables.iter().map(|(name, value)| (name, value)));
        starting.stdin(Stdio::piped()).stdout(Stdio::piped());
        // Ctrl-C at a terminal is for the parent, which ends its workers itself.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut starting, 0);
        let mut child = starting.spawn()?;
        let gone = || std::io::Error::other("the pipes of the worker are gone");
        let requests = BufWriter::new(child.stdin.take().ok_or_else(gone)?);
        let mut output = BufReader::new(child.stdout.take().ok_or_else(gone)?);
        let (sender, replies) = mpsc::channel();
        std::thread::spawn(move || {
            loop {
                let reply = match frame::read(&mut output) {
                    Ok(Some(reply)) => Ok(reply),
                    Ok(None) => return,
                    Err(why) => Err(why),
                };
                let bad = reply.is_err();
                if sender.send(reply).is_err() || bad {
                    return;
                }
            }
        });
        Ok(Process { child, requests: Some(requests), replies })
    }

    /// Sends a request. One that cannot be sent goes to a process that has ended, which the wait for the
    /// reply tells.
    pub(super) fn send(&mut self, request: &Request) {
        if let Some(requests) = &mut self.requests
            && frame::write(requests, request).is_err()
        {
            self.requests = None;
        }
    }

    /// Waits for the reply. After anything but a reply the process is not to be used again.
    pub(super) fn receive(&mut self, limit: Duration) -> Result<Reply, Silence> {
        match self.replies.recv_timeout(limit) {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(why)) => Err(Silence::Crashed(format!("the worker wrote {why}"))),
            Err(RecvTimeoutError::Timeout) => Err(Silence::TooLate),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.gone(Duration::from_secs(2));
                Err(Silence::Crashed(match status {
                    Some(status) => format!("the worker ended: {status}"),
                    None => "the worker closed its pipe".to_owned(),
                }))
            }
        }
    }

    /// Kills it. Returns whether it is gone.
    pub(super) fn kill(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        self.requests = None;
        // Fails only for one that has ended.
        let _ = self.child.kill();
        self.gone(BURIAL).is_some()
    }

    fn gone(&mut self, within: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if started.elapsed() < within => std::thread::sleep(Duration::from_millis(2)),
                _ => return None,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
