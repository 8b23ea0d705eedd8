use super::*;

/// Weights of 16 rows over some columns.
struct Rows {
    weights: Vec<f32>,
    columns: usize,
}

impl Rows {
    fn new(columns: usize, of: impl Fn(usize, usize) -> f32) -> Rows {
        let weights = (0..ROWS).flat_map(|row| (0..columns).map(move |column| (row, column)));
        Rows { weights: weights.map(|(row, column)| of(row, column)).collect(), columns }
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.weights[row * self.columns..(row + 1) * self.columns]
    }

    fn walk(&self, base: f64, eps: f64, max_entries: u32, seed: u64) -> (Walked, Vec<(usize, usize, f32)>) {
        let capacity = capacity(ROWS, self.columns, max_entries);
        let (mut keys, mut weights) = (vec![0; capacity], vec![0.0; capacity]);
        let tokens: Vec<u32> = (0..ROWS as u32).collect();
        let walk = Walk {
            tokens: &tokens,
            base: &[base; ROWS],
            eps,
            max_entries,
            seed,
            tiles: self.columns.div_ceil(TILE),
        };
        let tile = |t: usize, values: &mut Weights| {
            for (row, values) in values.iter_mut().enumerate() {
                let rest = &self.row(row)[t * TILE..];
                let len = rest.len().min(TILE);
                values.fill(0.0);
                values[..len].copy_from_slice(&rest[..len]);
            }
        };
        let walked = walk.run(tile, &mut keys, &mut weights);
        let entries = keys[..walked.count].iter().zip(&weights).map(|(&key, &weight)| {
            let (row, column) = row_and_column(key);
            (row, column, weight)
        });
        (walked, entries.collect())
    }
}

/// Noise in [0, 1), of its own for every position.
fn noise(row: usize, column: usize) -> f32 {
    uniform(philox(7, [row as u32, column as u32, 0, 0])[0]) as f32
}

fn adversaries(columns: usize) -> Vec<(&'static str, f64, Rows)> {
    let last = columns.saturating_sub(TILE);
    let far = columns as f32;
    vec![
        ("uniform", 1.0, Rows::new(columns, |_, _| 1.0)),
        ("growing", 1e-6, Rows::new(columns, |_, column| (20.0 * (column as f32 / far - 1.0)).exp())),
        ("falling", 1e-6, Rows::new(columns, |_, column| (-20.0 * column as f32 / far).exp())),
        (
            "one spike",
            1e-4,
            Rows::new(columns, |row, column| if column == 99 * row % columns { 1.0 } else { 1e-9 }),
        ),
        (
            "one lane",
            1.0,
            Rows::new(columns, |row, column| if column % 8 < 2 { noise(row, column) } else { 1e-4 }),
        ),
        ("last tile", 1e-9, Rows::new(columns, |_, column| if column >= last { 1.0 } else { 1e-13 })),
        ("one row", 1.0, Rows::new(columns, |row, _| if row == 3 { 1.0 } else { 0.0 })),
        ("random", 0.5, Rows::new(columns, |row, column| (-12.0 * noise(row, column)).exp())),
        ("spikes everywhere", 1e-9, Rows::new(columns, |_, column| if column % 8 == 0 { 1.0 } else { 1e-7 })),
        ("nothing", 0.0, Rows::new(columns, |_, _| 0.0)),
    ]
}

#[test]
fn no_row_whatever_emits_more_than_the_capacity() {
    // `run` writes into buffers of exactly the capacity: one more would end the test.
    for columns in [1, 255, 257, 5000, 60_000] {
        for (name, base, rows) in adversaries(columns) {
            for (eps, max_entries) in [(1.0 / 1024.0, 384), (1.0 / 256.0, 24), (1e-9, 384), (1.0 / 1024.0, 2)]
            {
                let (walked, _) = rows.walk(base, eps, max_entries, 1);
                let quota = quota(ROWS, max_entries);
                let tiles = columns.div_ceil(TILE) as f64;
                assert!(
                    walked.count as f64 <= 1.125 * (quota + FLOOR * tiles) + 65.0,
                    "{name}, {columns} columns: {} entries",
                    walked.count
                );
            }
        }
    }
}

#[test]
fn a_peaked_row_stays_at_its_step_and_a_flat_one_fills_its_quota() {
    let columns = 60_000;
    // A Zipf-like row behind its first 4096 columns, whose sum is about 3: 120 entries are what 2^-10 asks
    // for.
    let zipf = Rows::new(columns, |_, column| 1.0 / (column as f32 + 4096.0).powf(1.2));
    let (walked, entries) = zipf.walk(3.0, 1.0 / 1024.0, 384, 3);
    assert_eq!(walked.raised, 1.0);
    let mean = entries.len() / ROWS;
    assert!((100..150).contains(&mean), "{mean} entries a token");
    let flat = Rows::new(columns, |_, _| 1.0);
    let (walked, entries) = flat.walk(1.0, 1.0 / 1024.0, 384, 3);
    assert!(walked.raised > 1.0);
    let filled = entries.len() as f64 / quota(ROWS, 384);
    assert!((0.5..1.25).contains(&filled), "{filled}");
}

#[test]
fn the_bits_follow_from_the_seed() {
    let (_, base, rows) = adversaries(3000).swap_remove(7);
    let of = |seed| rows.walk(base, 1.0 / 256.0, 64, seed).1;
    assert_eq!(of(5), of(5));
    assert_ne!(of(5), of(6));
}

/// Over many seeds, the mean weight in bins of probability against the true one. A bin's estimate has
/// variance at most the sum of `step * weight`; the entries' own squares bound it from what was drawn.
fn bins(rows: &Rows, base: f64, eps: f64, max_entries: u32, seeds: u64) -> Vec<(i32, f64, f64, f64)> {
    const BINS: usize = 45;
    let bin =
        |weight: f32, total: f64| (-(f64::from(weight) / total).log2()).floor().clamp(0.0, 44.0) as usize;
    let totals: Vec<f64> =
        (0..ROWS).map(|row| base + rows.row(row).iter().map(|&w| f64::from(w)).sum::<f64>()).collect();
    let (mut truth, mut sums, mut squares) = ([0.0; BINS], [0.0; BINS], [0.0; BINS]);
    for row in 0..ROWS {
        for &weight in rows.row(row).iter().filter(|&&weight| weight > 0.0) {
            truth[bin(weight, totals[row])] += f64::from(weight) / totals[row];
        }
    }
    for seed in 0..seeds {
        let mut of_seed = [0.0; BINS];
        for (row, column, weight) in rows.walk(base, eps, max_entries, seed).1 {
            of_seed[bin(rows.row(row)[column], totals[row])] += f64::from(weight) / totals[row];
        }
        for at in 0..BINS {
            sums[at] += of_seed[at];
            squares[at] += of_seed[at] * of_seed[at];
        }
    }
    let n = seeds as f64;
    (0..BINS)
        .filter(|&at| truth[at] > 0.0)
        .map(|at| {
            let mean = sums[at] / n;
            let error = ((squares[at] / n - mean * mean).max(0.0) / (n - 1.0)).sqrt();
            (at as i32, truth[at], mean, error)
        })
        .collect()
}

#[test]
fn kept_weights_have_the_true_expectation_from_1_down_to_1e_12() {
    // Probabilities from 1 to 2^-40, shuffled over the columns; many small ones, few large ones.
    let columns = 4096;
    let rows = Rows::new(columns, |row, column| {
        let at = noise(row, column) * 40.0;
        (-at.min(40.0)).exp2()
    });
    let seeds = 600;
    let mut seen = 0;
    for (eps, max_entries) in [(1.0 / 256.0, 384), (1.0 / 1024.0, 24)] {
        for (bin, truth, mean, error) in bins(&rows, 1e-3, eps, max_entries, seeds) {
            // A bin of which nothing was drawn says nothing unless something was expected: at most 5 errors,
            // and where draws are too rare for a standard error, the chance of none at all.
            let step = eps * 64.0;
            let rare = truth * seeds as f64 / step < 30.0;
            assert!(
                rare || (mean - truth).abs() <= 5.0 * error + 1e-7 * truth,
                "2^-{bin}: {mean:e} for {truth:e}, standard error {error:e}"
            );
            seen += usize::from(!rare);
        }
    }
    assert!(seen > 20, "{seen} bins had enough draws to say anything");
}

#[test]
fn columns_of_probability_1e_12_are_kept_as_often_as_they_should_be() {
    // A million columns of 1e-12 each beside one of almost everything: at a step of 1e-9 each seed keeps 1000
    // of them.
    let columns = 1 << 16;
    let rows = Rows::new(columns, |_, column| if column == 77 { 1.0 } else { 1e-12 });
    let (mut sum, seeds) = (0.0, 40);
    for seed in 0..seeds {
        sum += rows
            .walk(0.0, 1e-10, 4000, seed)
            .1
            .iter()
            .filter(|e| e.1 != 77)
            .map(|e| f64::from(e.2))
            .sum::<f64>();
    }
    let truth = 1e-12 * (columns - 1) as f64 * ROWS as f64;
    let mean = sum / f64::from(seeds as u32);
    assert!((mean / truth - 1.0).abs() < 0.05, "{mean:e} for {truth:e}");
}

#[test]
fn a_flat_row_spends_its_quota_evenly() {
    let columns = 45_056;
    // About normal, by a sum of four uniform numbers.
    let rows = Rows::new(columns, |row, column| {
        let normal = (0..4).map(|at| noise(row * 4 + at, column) - 0.5).sum::<f32>() * 3.0f32.sqrt();
        (1.6 * normal).exp()
    });
    let (_, entries) = rows.walk(0.0, 1.0 / 1024.0, 384, 1);
    for row in 0..ROWS {
        let total: f64 = rows.row(row).iter().map(|&weight| f64::from(weight)).sum();
        let light = entries.iter().filter(|&&(at, column, kept)| at == row && kept > rows.row(row)[column]);
        let noise = light.map(|&(.., kept)| f64::from(kept).powi(2)).sum::<f64>().sqrt() / total;
        assert!(noise < 0.05, "row {row}: {noise}");
    }
}
