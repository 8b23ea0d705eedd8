//! How far the work is: a bar with the best so far and the time left on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::io::IsTerminal;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where the search says how far it is. May be called from any thread.
pub trait Progress: Sync {
    /// When the time is over that the work may take, from now on; `None`: it may take any.
    fn until(&self, _end: Option<Instant>) {}
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
    /// A schedule that is faster than all before: its time in ms, and its words.
    fn best(&self, _ms: f64, _schedule: &str) {}
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
    fn until(&self, end: Option<Instant>) {
        self.0.until(end);
    }
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
    fn best(&self, ms: f64, schedule: &str) {
        self.0.best(ms, schedule);
    }
    fn end(&self) {}
}

impl Drop for Whole<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// On standard error: if that is a terminal, a bar, below it the best so far and what is being done; else a line now
/// and then, less and less often, whether or not there is news.
#[derive(Debug)]
pub struct Console {
    bar: Option<ProgressBar>,
    state: Arc<Mutex<State>>,
    work: Mutex<Work>,
}

/// What is there while work goes on.
#[derive(Debug, Default)]
struct Work {
    /// How many have begun and not ended.
    open: usize,
    /// Who writes the plain lines, where there is no bar.
    lines: Option<Lines>,
}

/// A thread that writes plain lines until this is dropped, and none afterwards.
#[derive(Debug)]
struct Lines {
    ends: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Lines {
    /// Calls `write` after a first pause, then less and less often. `None` where there can be no thread.
    fn start(first: Duration, write: impl Fn() + Send + 'static) -> Option<Lines> {
        let (ends, ended) = mpsc::channel();
        let thread = std::thread::Builder::new().name("cce-tune progress".to_owned()).spawn(move || {
            let mut pause = first;
            while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                pause = pause.mul_f64(1.5).min(LONGEST);
                write();
            }
        });
        Some(Lines { ends: Some(ends), thread: Some(thread.ok()?) })
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.ends = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked writes nothing any more.
            let _ = thread.join();
        }
    }
}

/// What is known of the work at hand.
#[derive(Debug)]
struct State {
    total: u64,
    done: u64,
    started: Instant,
    /// What is being done, and what was done when the last plain line was written.
    doing: String,
    told: u64,
    best: Option<(f64, String)>,
    /// When the time is over that all of it may take.
    until: Option<Instant>,
}

/// The first pause between two plain lines; each is half as long again, up to [`LONGEST`].
const PAUSE: Duration = Duration::from_secs(5);
/// The longest pause between two plain lines.
const LONGEST: Duration = Duration::from_secs(60);

impl State {
    fn of(total: u64) -> State {
        let doing = String::new();
        State { total, done: 0, started: Instant::now(), doing, told: 0, best: None, until: None }
    }

    /// The time left if the rest goes as what is done went, and no more than there is.
    fn left(&self, now: Instant) -> Option<Duration> {
        let rest = self.total.saturating_sub(self.done) as f64;
        let elapsed = now.saturating_duration_since(self.started);
        (self.done > 0).then(|| self.within(elapsed.mul_f64(rest / self.done as f64), now))
    }

    /// So long, or as long as there is time.
    fn within(&self, time: Duration, now: Instant) -> Duration {
        self.until.map_or(time, |until| time.min(until.saturating_duration_since(now)))
    }

    /// The plain line. Where nothing was done since the last one, it says what takes so long.
    fn line(&mut self, now: Instant) -> String {
        let elapsed = now.saturating_duration_since(self.started);
        let percent = (100 * self.done).checked_div(self.total).unwrap_or(100).min(100);
        let mut line = format!("{percent} % ({} of {} steps), {}", self.done, self.total, spent(elapsed));
        line += &self.left(now).map(left).unwrap_or_default();
        if let Some((ms, schedule)) = &self.best {
            line += &format!("; fastest run {ms:.3} ms: {schedule}");
        }
        if self.done == self.told && !self.doing.is_empty() {
            line += &format!("; {}", self.doing);
        }
        self.told = self.done;
        line
    }
}

impl Console {
    /// On standard error.
    pub fn new() -> Console {
        let state = Arc::new(Mutex::new(State::of(0)));
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(style(&state).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Console { bar, state, work: Mutex::default() }
    }

    fn work(&self) -> std::sync::MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Three lines: how far, the best so far, what is being done.
fn style(state: &Arc<Mutex<State>>) -> Result<ProgressStyle, indicatif::style::TemplateError> {
    let template = "{bar:32.green/dim} {percent:>3} %  {spent}{left}\n{best}\n{wide_msg:.dim}";
    let (best, time) = (Arc::clone(state), Arc::clone(state));
    Ok(ProgressStyle::with_template(template)?
        .progress_chars("\u{2501}\u{2578}\u{2500}")
        .with_key("spent", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // A line that cannot be formatted is not worth failing for.
            let _ = out.write_str(&spent(state.elapsed()));
        })
        .with_key("left", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let time = time.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = out.write_str(&left(time.within(state.eta(), Instant::now())));
        })
        .with_key("best", move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
            let state = best.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = match &state.best {
                Some((ms, schedule)) => write!(out, "fastest run {ms:.3} ms  {schedule}"),
                None => out.write_str("nothing timed yet"),
            };
        }))
}

impl Default for Console {
    fn default() -> Console {
        Console::new()
    }
}

impl Progress for Console {
    fn until(&self, end: Option<Instant>) {
        self.state().until = end;
    }

    fn begin(&self, steps: u64) {
        let mut work = self.work();
        work.open += 1;
        if work.open > 1 {
            // Devices of several kinds are tuned at the same time.
            return self.more(steps);
        }
        {
            let mut state = self.state();
            let (best, until) = (state.best.take(), state.until);
            *state = State { best, until, ..State::of(steps) };
        }
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_length(steps);
            // The clock goes on while a kernel compiles.
            bar.enable_steady_tick(Duration::from_millis(250));
        } else {
            let state = Arc::clone(&self.state);
            work.lines = Lines::start(PAUSE, move || {
                let line = state.lock().unwrap_or_else(PoisonError::into_inner).line(Instant::now());
                eprintln!("{line}");
            });
        }
    }

    fn more(&self, steps: u64) {
        self.state().total += steps;
        if let Some(bar) = &self.bar {
            bar.inc_length(steps);
        }
    }

    fn step(&self, steps: u64) {
        let mut state = self.state();
        state.done += steps;
        if let Some(bar) = &self.bar {
            // Drawing asks for the state.
            drop(state);
            bar.inc(steps);
        }
    }

    fn say(&self, text: &str) {
        text.clone_into(&mut self.state().doing);
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

    fn best(&self, ms: f64, schedule: &str) {
        self.state().best = Some((ms, schedule.to_owned()));
    }

    fn end(&self) {
        let mut work = self.work();
        work.open = work.open.saturating_sub(1);
        if work.open > 0 {
            return;
        }
        work.lines = None;
        self.state().best = None;
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The time left, behind the time spent: nothing below a second, which is no news.
fn left(time: Duration) -> String {
    match time.as_secs() {
        0 => String::new(),
        seconds @ 1..120 => format!(", about {seconds} s left"),
        seconds @ 120..7200 => format!(", about {} min left", seconds.div_ceil(60)),
        seconds => format!(", about {} h left", seconds.div_ceil(3600)),
    }
}

/// The time spent.
fn spent(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds => format!("{} min {:02} s", seconds / 60, seconds % 60),
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
        assert_eq!(left(Duration::from_secs(7201)), ", about 3 h left");
        assert_eq!(spent(Duration::from_secs(119)), "119 s");
        assert_eq!(spent(Duration::from_secs(185)), "3 min 05 s");
    }

    #[test]
    fn a_plain_line_says_how_far_the_work_is_the_time_left_and_the_best_so_far() {
        let mut state = State::of(200);
        state.done = 50;
        let now = state.started + Duration::from_secs(10);
        assert_eq!(state.line(now), "25 % (50 of 200 steps), 10 s, about 30 s left");
        state.best = Some((1.5, "token block 64, strip 512".to_owned()));
        state.done = 51;
        assert!(state.line(now).ends_with("; fastest run 1.500 ms: token block 64, strip 512"));
        state.doing = "run-off of the 12 best".to_owned();
        assert!(state.line(now).ends_with("strip 512; run-off of the 12 best"));
        state.done = 52;
        assert!(
            state.line(now).ends_with("strip 512"),
            "what is being done is news only where nothing is done"
        );
        let mut nothing = State::of(0);
        assert_eq!(nothing.line(nothing.started), "100 % (0 of 0 steps), 0 s");
    }

    #[test]
    fn lines_are_written_by_the_clock_and_none_after_the_end() {
        let (says, said) = mpsc::channel();
        let lines = Lines::start(Duration::from_millis(1), move || says.send(()).unwrap());
        for _ in 0..3 {
            said.recv_timeout(Duration::from_secs(60)).unwrap();
        }
        drop(lines);
        // Whoever could still write would hold the other end.
        while said.try_recv().is_ok() {}
        assert_eq!(said.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }

    #[test]
    fn work_that_ends_leaves_that_which_goes_on_beside_it() {
        let console = Console { bar: None, ..Console::new() };
        console.begin(10);
        console.begin(5);
        console.step(3);
        console.end();
        assert!(console.work().lines.is_some());
        assert!(console.state().line(Instant::now()).starts_with("20 % (3 of 15 steps)"));
        console.end();
        assert!(console.work().lines.is_none());
    }

    #[test]
    fn no_more_time_is_left_than_there_is() {
        let console = Console::new();
        let now = Instant::now();
        console.until(Some(now + Duration::from_secs(75)));
        console.begin(1000);
        let mut state = console.state();
        (state.started, state.done) = (now, 100);
        // At this pace another 270 s, or 9.
        assert!(state.line(now + Duration::from_secs(30)).ends_with(", about 45 s left"));
        assert!(state.line(now + Duration::from_secs(80)).ends_with(", 80 s"));
        state.done = 900;
        assert!(state.line(now + Duration::from_secs(45)).ends_with(", about 5 s left"));
        state.until = None;
        state.done = 100;
        assert!(state.line(now + Duration::from_secs(30)).ends_with(", about 5 min left"));
    }
}
