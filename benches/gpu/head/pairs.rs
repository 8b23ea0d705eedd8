//! Two pieces of work by turns: their times, and the clock they ran at.

use super::Bench;
use cce_runtime::driver::Event;
use cce_runtime::nvml::{ClockLimits, Reading, Sensors};
use std::time::Duration;

/// Pairs that are run before any counts.
const WARM_UP: usize = 4;
/// So many pairs are timed to one more that is not, in which the sensors are read: that keeps the GPU's own
/// controller busy, which must not be seen in a time.
const PAIRS_A_READING: usize = 3;
/// Between two readings of the sensors.
const BETWEEN_READINGS: Duration = Duration::from_millis(1);

/// Medians over the pairs.
pub struct Pairs {
    /// Time of the first over that of the second, pair by pair.
    pub ratio: f32,
    /// Of the first, in milliseconds.
    pub first_ms: f32,
    /// Of the second.
    pub second_ms: f32,
    /// While the first ran, in pairs between those that were timed.
    pub clock: Clock,
}

/// What the GPU's sensors said; `None`: they could not be read.
#[derive(Default)]
pub struct Clock {
    /// Median clock of the multiprocessors in MHz.
    pub sm_mhz: Option<f32>,
    /// Median power of the board in watts.
    pub watts: Option<f32>,
    /// Whatever held the clock down at any time.
    pub limits: Option<ClockLimits>,
}

impl Clock {
    fn of(readings: &[Reading]) -> Clock {
        Clock {
            sm_mhz: median(readings.iter().filter_map(|reading| reading.sm_mhz.map(|mhz| mhz as f32))),
            watts: median(readings.iter().filter_map(|reading| reading.watts)),
            limits: readings.iter().filter_map(|reading| reading.limits).reduce(ClockLimits::with),
        }
    }
}

fn median(values: impl Iterator<Item = f32>) -> Option<f32> {
    let mut values: Vec<f32> = values.collect();
    values.sort_by(f32::total_cmp);
    values.get(values.len() / 2).copied()
}

impl Bench<'_> {
    /// Runs both by turns. Each gets the number of the set of inputs to use, which alternates.
    pub fn pairs(&self, mut first: impl FnMut(usize), mut second: impl FnMut(usize)) -> Pairs {
        let marks: [Event; 3] = std::array::from_fn(|_| self.context.new_event().unwrap());
        let (mut times, mut readings) = (Vec::new(), Vec::new());
        let mut sets = [0, 1].into_iter().cycle();
        let mut run = || {
            let set = sets.next().unwrap_or(0);
            marks[0].record(self.stream).unwrap();
            first(set);
            marks[1].record(self.stream).unwrap();
            second(set);
            marks[2].record(self.stream).unwrap();
        };
        for _ in 0..WARM_UP {
            run();
            marks[2].synchronize().unwrap();
        }
        for at in 0..self.arguments.pairs as usize {
            if let Some(sensors) = self.sensors.filter(|_| at % PAIRS_A_READING == 0) {
                run();
                read_until(sensors, &marks[1], &mut readings);
                marks[2].synchronize().unwrap();
            }
            run();
            marks[2].synchronize().unwrap();
            let ms = |end: usize| marks[end].elapsed_ms_since(&marks[end - 1]).unwrap();
            times.push((ms(1), ms(2)));
        }
        let of = |value: fn(&(f32, f32)) -> f32| median(times.iter().map(value)).unwrap();
        Pairs {
            ratio: of(|(first, second)| first / second),
            first_ms: of(|pair| pair.0),
            second_ms: of(|pair| pair.1),
            clock: Clock::of(&readings),
        }
    }
}

/// Reads the sensors until the mark is reached, at least once.
fn read_until(sensors: Sensors, mark: &Event, readings: &mut Vec<Reading>) {
    loop {
        readings.push(sensors.read().unwrap());
        if mark.is_reached().unwrap() {
            return;
        }
        std::thread::sleep(BETWEEN_READINGS);
    }
}
