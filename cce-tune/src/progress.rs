//! How far the work is: a bar with the time left on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Where the search says how far it is. May be called from any thread.
pub trait Progress: Sync {
    /// The number of steps ahead.
    fn begin(&self, steps: u64);
    /// Further steps ahead.
    fn more(&self, steps: u64);
    /// Steps done.
    fn step(&self, steps: u64);
    /// What is being done.
    fn say(&self, text: &str);
    /// A line that stays.
    fn note(&self, line: &str);
    /// Done.
    fn end(&self);
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: u64) {}
    fn more(&self, _: u64) {}
    fn step(&self, _: u64) {}
    fn say(&self, _: &str) {}
    fn note(&self, _: &str) {}
    fn end(&self) {}
}

/// Work in parts that is shown as one, from here to its drop: the parts' beginnings and ends are not shown.
pub struct Whole<'a>(&'a dyn Progress);

impl Whole<'_> {
    /// Begins, with the steps of all parts.
    pub fn begin(shown: &dyn Progress, steps: usize) -> Whole<'_> {
        shown.begin(steps as u64);
        Whole(shown)
    }
}

impl Progress for Whole<'_> {
    fn begin(&self, _: u64) {}
    fn more(&self, steps: u64) {
        self.0.more(steps);
    }
    fn step(&self, steps: u64) {
        self.0.step(steps);
    }
    fn say(&self, text: &str) {
        self.0.say(text);
    }
    fn note(&self, line: &str) {
        self.0.note(line);
    }
    fn end(&self) {}
}

impl Drop for Whole<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// On standard error: a bar if that is a terminal, else a line every few seconds.
#[derive(Debug)]
pub struct Console {
    bar: Option<ProgressBar>,
    lines: Mutex<Lines>,
}

#[derive(Debug)]
struct Lines {
    total: u64,
    done: u64,
    started: Instant,
    last: Instant,
}

/// The pause between two plain lines.
const PAUSE: Duration = Duration::from_secs(5);

impl Console {
    /// On standard error.
    pub fn new() -> Console {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len}{left}  {wide_msg}").map(|style| {
                style.with_key("left", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                    // A line that cannot be formatted is not worth failing for.
                    let _ = out.write_str(&left(state.eta()));
                })
            });
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        let now = Instant::now();
        Console { bar, lines: Mutex::new(Lines { total: 0, done: 0, started: now, last: now }) }
    }
}

impl Default for Console {
    fn default() -> Console {
        Console::new()
    }
}

impl Progress for Console {
    fn begin(&self, steps: u64) {
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_length(steps);
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        *lines = Lines { total: steps, done: 0, started: now, last: now };
    }

    fn more(&self, steps: u64) {
        if let Some(bar) = &self.bar {
            bar.inc_length(steps);
        }
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).total += steps;
    }

    fn step(&self, steps: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(steps);
            return;
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.done += steps;
        if lines.last.elapsed() >= PAUSE && lines.done > 0 {
            lines.last = Instant::now();
            let left = lines.total.saturating_sub(lines.done) as f64 / lines.done as f64;
            let left = lines.started.elapsed().mul_f64(left);
            eprintln!("{} of {} steps{}", lines.done, lines.total, self::left(left));
        }
    }

    fn say(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The time left, behind a count of steps: nothing below a second, which is no news.
fn left(time: Duration) -> String {
    match time.as_secs() {
        0 => String::new(),
        seconds @ 1..120 => format!(", about {seconds} s left"),
        seconds => format!(", about {} min left", seconds.div_ceil(60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_a_second_left_is_not_said() {
        assert_eq!(left(Duration::from_millis(900)), "");
        assert_eq!(left(Duration::from_secs(7)), ", about 7 s left");
        assert_eq!(left(Duration::from_secs(601)), ", about 11 min left");
    }
}
