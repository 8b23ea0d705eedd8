//! The pipe between a worker and its parent, out of reach of whatever prints.

use std::io::{Read, Write};

/// Standard input and output of this process for [`serve`](super::serve) alone: what a driver, a compiler or a
/// start-up file prints from now on goes to standard error, and what reads standard input finds its end.
///
/// # Errors
/// When the system gives no further file descriptors.
#[cfg(unix)]
pub fn own_streams() -> std::io::Result<(impl Read + Send + 'static, impl Write)> {
    use std::fs::File;
    use std::os::fd::AsFd;
    let requests = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let replies = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok((requests, replies))
}

/// Standard input and output of this process.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn own_streams() -> std::io::Result<(impl Read + Send + 'static, impl Write)> {
    Ok((std::io::stdin(), std::io::stdout()))
}
