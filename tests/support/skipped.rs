//! The filter that skips tiles, against a reference that leaves out exactly those.

use super::compare::{check_with, distance};
use super::expected::Expected;
use super::run::{Buffers, Found, stream};
use super::{Bench, Case, Choice, Data, Mode, Report};
use cce::{Filter, Schedule};
use cce_codegen::interp::reference::Tiles;

/// The tile that a choice of schedule skips.
fn tiles_of(bench: &Bench, case: &Case, choice: Choice) -> Tiles {
    match choice.schedule(bench, &case.program, &case.problem()) {
        Some(Schedule::Gpu(schedule)) => {
            let (rows, columns) = schedule.skipped_tile();
            Tiles { rows: rows as usize, columns: columns as usize }
        }
        Some(Schedule::Cpu(schedule)) => {
            Tiles { rows: schedule.token_block as usize, columns: schedule.strip as usize }
        }
        None => panic!("a schedule that says what is skipped"),
    }
}

/// Data whose tiles differ: rows and columns of some are smaller (by powers of two, which every type has), and
/// nearly all targets fall into the first columns.
fn uneven(case: &Case, tiles: Tiles) -> Data {
    let mut data = case.data();
    let scale = |values: &mut [f64], each: usize, by: &[f64]| {
        for (at, row) in values.chunks_mut(case.hidden).enumerate() {
            row.iter_mut().for_each(|x| *x *= by[at / each % by.len()]);
        }
    };
    scale(&mut data.hidden, tiles.rows.div_ceil(2), &[1.0, 0.5, 0.25]);
    scale(&mut data.classifier, tiles.columns, &[1.0, 0.25, 0.5, 1.0]);
    let near = tiles.columns.min(case.vocab) as i64;
    for (_, target) in data.targets.iter_mut().enumerate().filter(|(at, y)| at % 97 != 5 && **y >= 0) {
        *target %= near;
    }
    data
}

/// A threshold between two tiles' largest probabilities that lie as far apart as any among the upper half, so that
/// much is skipped, and rounding decides about nothing; `None` if there are not two without a target.
fn threshold(largest: &[Vec<f64>]) -> Option<f32> {
    let mut finite: Vec<f64> = largest.iter().flatten().copied().filter(|p| p.is_finite()).collect();
    finite.sort_by(f64::total_cmp);
    let ratio = |pair: &&[f64]| pair[1] / pair[0];
    let half = finite.len().saturating_sub(2) / 2;
    let pairs = finite[half..].windows(2).filter(|pair| pair[0] > 2f64.powi(-60) && ratio(pair) > 1.01);
    let pair = pairs.max_by(|a, b| ratio(a).total_cmp(&ratio(b)))?;
    Some((pair[0] * pair[1]).sqrt() as f32)
}

/// Checks a case of the filter at a threshold that skips some tiles and keeps others.
pub fn check_skipping(bench: &Bench, case: &Case, choice: Choice) -> Report {
    let tiles = tiles_of(bench, &case.clone().with(|case| case.filter = Filter::BLOCKS), choice);
    let data = uneven(case, tiles);
    let mut report = Report::default();
    let label = format!("{} {case}, tiles of {} x {}", choice.name(), tiles.rows, tiles.columns);
    let Some(eps) = threshold(&Expected::largest_by_tile(case, &data, tiles)) else {
        report.fail(&label, "the data leave no choice of a threshold");
        return report;
    };
    let case = case.clone().with(|case| case.filter = Filter::Blocks { eps });
    let exact = Expected::of(&case, &data);
    let expected = Expected::skipping(&case, &data, tiles, f64::from(eps));
    // No tolerance hides it: of a row of dC, which is checked by itself, much is missing.
    let rows = expected.classifier.chunks(case.hidden).zip(exact.classifier.chunks(case.hidden));
    let missing =
        rows.map(|(skipped, exact)| distance(skipped, exact, f64::MIN_POSITIVE)).fold(0.0, f64::max);
    if missing < 0.1 && case.classifier_gradient.is_some_and(|out| !out.accumulate) {
        report.fail(&label, format!("too little is skipped to be seen: {missing:e}"));
    }
    report.add(check_with(bench, &case, choice, &data, &expected));
    report
}

/// What a case gives under a filter, forward and backward apart.
fn found(bench: &Bench, case: &Case, choice: Choice, data: &Data) -> Result<Found, String> {
    let plan = case.plan(bench, choice)?;
    let stream = stream(bench)?;
    let mut buffers = Buffers::new(bench, case, data, &plan)?;
    buffers.put(stream.as_ref())?;
    let called = buffers.call(bench, case, &plan, Mode::Apart, stream.as_ref(), |call| call);
    called.map_err(|error| error.to_string())?;
    buffers.found(stream.as_ref())
}

/// With a threshold below every probability the bits are those of `Exact` under the same schedule; with one above
/// all, only tiles with targets are left.
pub fn check_extremes(bench: &Bench, case: &Case, choice: Choice) -> Report {
    let under = |filter: Filter| case.clone().with(|case| case.filter = filter);
    let least = under(Filter::Blocks { eps: 2f32.powi(-64) });
    let most = under(Filter::Blocks { eps: 1.0 });
    let given = choice.schedule(bench, &case.program, &least.problem()).map_or(choice, Choice::Given);
    let tiles = tiles_of(bench, &least, given);
    let data = uneven(case, tiles);
    let mut report = Report { cases: 1, ..Report::default() };
    let label = format!("{} {case}", choice.name());
    let results = found(bench, &under(Filter::Exact), given, &data)
        .and_then(|exact| Ok((exact, found(bench, &least, given, &data)?)));
    match results {
        Err(error) => report.fail(&label, error),
        Ok((exact, all)) => {
            if let Err(difference) = exact.same_bits(&all) {
                report.fail(&label, format!("with nothing skipped: {difference} from exact"));
            }
        }
    }
    let expected = Expected::skipping(&most, &data, tiles, 1.0);
    report.add(check_with(bench, &most, given, &data, &expected));
    report
}

/// Of cross entropy: no element of dE is further from the exact one than the skipped elements may add up to, each
/// at most `eps` times its token's upstream gradient, besides rounding.
pub fn check_bound(bench: &Bench, case: &Case, choice: Choice, eps: f32) -> Report {
    let case = case.clone().with(|case| case.filter = Filter::Blocks { eps });
    let data = uneven(&case, tiles_of(bench, &case, choice));
    let mut report = Report { cases: 1, ..Report::default() };
    let label = format!("{} {case}", choice.name());
    let hidden = match found(bench, &case, choice, &data) {
        Ok(Found { hidden: Some(hidden), .. }) => hidden,
        Ok(_) => return report,
        Err(error) => {
            report.fail(&label, error);
            return report;
        }
    };
    let exact = Expected::of(&case, &data).hidden;
    let upstreams = data.upstreams(&case);
    let column = |k: usize| data.classifier.iter().skip(k).step_by(case.hidden).map(|x| x.abs()).sum::<f64>();
    let columns: Vec<f64> = (0..case.hidden).map(column).collect();
    let (mut worst, mut furthest) = (0.0f64, 0.0f64);
    for (at, (found, exact)) in hidden.iter().zip(&exact).enumerate() {
        let (token, k) = (at / case.hidden, at % case.hidden);
        let most = f64::from(eps) * upstreams[0][token].abs() * columns[k];
        furthest = furthest.max((found - exact).abs());
        worst = worst.max((found - exact).abs() / (most + 2f64.powi(-7) * exact.abs() + f64::MIN_POSITIVE));
    }
    if furthest == 0.0 {
        report.fail(&label, "nothing is skipped");
    }
    report.check("distance from the exact dE, in bounds", worst, 1.0, &label);
    report
}
