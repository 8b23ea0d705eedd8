//! Lock files. The lock is on an open file, so the system releases it when its holder dies: a lock file
//! that is left behind means nothing.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// An exclusive lock, released when dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

impl Lock {
    /// Takes the lock at `path`, trying for `patience`.
    ///
    /// # Errors
    /// [`Error::Busy`] when another process holds it all the time.
    pub(crate) fn wait(path: &Path, patience: Duration) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(Error::io("open the lock file", path))?;
        let begin = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
                Err(TryLockError::WouldBlock) if begin.elapsed() >= patience => {
                    return Err(Error::Busy { path: path.into(), waited: patience });
                }
                Err(TryLockError::WouldBlock) => {
                    std::thread::sleep(pause.min(patience.saturating_sub(begin.elapsed())));
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
            }
        }
    }
}
