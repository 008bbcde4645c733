//! Rates that explain measured times, and how well they do.

use serde::Serialize;
use warpweft_compiler::target::{Dispatch, Rates};
use warpweft_plan::{Cost, Sizes};

/// A kernel that was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// What it computes; samples of one operation are alternatives.
    pub(crate) operation: String,
    pub(crate) kernel: String,
    /// Measured.
    pub(crate) seconds: f64,
    #[serde(skip)]
    pub(crate) cost: Cost,
    #[serde(skip)]
    pub(crate) dispatch: Dispatch,
    #[serde(skip)]
    pub(crate) sizes: Sizes,
}

impl Sample {
    pub(crate) fn predicted(&self, rates: &Rates) -> f64 {
        rates.seconds(&self.cost, self.dispatch, self.sizes)
    }
}

/// How much a rate's distance from where it began counts, beside the samples' error.
const PRIOR: f64 = 0.02;

/// The rates that are fitted; the others are measured by themselves, or are sizes.
const FITTED: [fn(&mut Rates) -> &mut f64; 6] = [
    |r| &mut r.fmas,
    |r| &mut r.load,
    |r| &mut r.scattered_load,
    |r| &mut r.texel,
    |r| &mut r.workgroup_load,
    |r| &mut r.broadcast,
];

/// Rates near `start` under which predictions are closest to what was measured: the sum of squared logarithms of the
/// quotients is made small, one rate at a time.
pub(crate) fn fit(start: &Rates, samples: &[Sample]) -> Rates {
    if samples.is_empty() {
        return start.clone();
    }
    // All at once first: the whole device is faster or slower.
    let mut rates = start.clone();
    let mut ratios: Vec<f64> = samples.iter().map(|s| s.seconds.max(1e-9) / s.predicted(start)).collect();
    ratios.sort_by(f64::total_cmp);
    let typical = ratios[ratios.len() / 2];
    rates.fmas /= typical;
    let start = rates.clone();
    let mut error = loss(&rates, &start, samples);
    let mut step: f64 = 1.5;
    while step > 1.005 {
        let before = error;
        for rate in FITTED {
            for factor in [step, 1.0 / step] {
                let mut tried = rates.clone();
                *rate(&mut tried) *= factor;
                let found = loss(&tried, &start, samples);
                if found < error {
                    (rates, error) = (tried, found);
                }
            }
        }
        if error >= before * (1.0 - 1e-6) {
            step = step.sqrt();
        }
    }
    rates
}

fn loss(rates: &Rates, start: &Rates, samples: &[Sample]) -> f64 {
    let of_samples: f64 = samples.iter().map(|s| (s.predicted(rates) / s.seconds.max(1e-9)).ln().powi(2)).sum();
    let (mut rates, mut start) = (rates.clone(), start.clone());
    // A target without images has no rate of texels.
    let both = FITTED.iter().map(|rate| [*rate(&mut rates), *rate(&mut start)]).filter(|[_, start]| *start > 0.0);
    let moved: f64 = both.map(|[rate, start]| (rate / start).ln().powi(2)).sum();
    of_samples + PRIOR * moved
}

/// How well rates do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Quality {
    /// How far predictions are off, in the middle of all samples: the greater of both times over the lesser, less 1.
    pub(crate) median_error: f64,
    /// Pairs of alternatives whose measured times differ by more than 20 %.
    pub(crate) pairs: usize,
    /// Of those the ones that predictions order as the clock does.
    pub(crate) agreeing: usize,
    /// Operations with alternatives, and those of which the alternative predicted to be fastest is at most 20 % slower
    /// than the fastest.
    pub(crate) operations: usize,
    pub(crate) well_chosen: usize,
}

/// Measured times that differ by less are a matter of chance.
const DIFFERENT: f64 = 1.2;

/// How well predictions by `rates` agree with the clock.
pub(crate) fn quality(rates: &Rates, samples: &[Sample]) -> Quality {
    let mut errors: Vec<f64> = samples
        .iter()
        .map(|s| s.predicted(rates) / s.seconds.max(1e-9))
        .map(|ratio| ratio.max(1.0 / ratio) - 1.0)
        .collect();
    errors.sort_by(f64::total_cmp);
    let median_error = errors.get(errors.len() / 2).copied().unwrap_or(0.0);
    let mut quality = Quality { median_error, pairs: 0, agreeing: 0, operations: 0, well_chosen: 0 };
    for group in samples.chunk_by(|a, b| a.operation == b.operation) {
        let times: Vec<[f64; 2]> = group.iter().map(|s| [s.predicted(rates), s.seconds]).collect();
        for (i, a) in times.iter().enumerate() {
            for b in &times[i + 1..] {
                if a[1].max(b[1]) > DIFFERENT * a[1].min(b[1]) {
                    quality.pairs += 1;
                    quality.agreeing += usize::from((a[0] < b[0]) == (a[1] < b[1]));
                }
            }
        }
        let by = |column: usize| times.iter().min_by(|a, b| a[column].total_cmp(&b[column]));
        if let (Some(chosen), Some(fastest), true) = (by(0), by(1), times.len() > 1) {
            quality.operations += 1;
            quality.well_chosen += usize::from(chosen[1] <= DIFFERENT * fastest[1]);
        }
    }
    quality
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use warpweft_compiler::target::Target;
    use warpweft_plan::Work;

    use super::*;

    /// Kernels of three kinds of work in different parts, timed by rates that the fit does not know.
    fn samples(truth: &Rates) -> Vec<Sample> {
        let sizes = Sizes { tokens: 1, context: 1, sequences: 1 };
        let mut samples = Vec::new();
        for (i, decode) in [0.0, 1e4, 3e4].into_iter().enumerate() {
            for j in 0..6 {
                let (a, b) = (f64::from(j) + 1.0, 7.0 - f64::from(j));
                let once = Work {
                    fmas: 4e4 * a + decode,
                    loads: 300.0 * b,
                    texels: 100.0 * a * a,
                    scattered: 0.0,
                    broadcasts: 2e3 * b,
                    shared: 90.0,
                };
                let cost = Cost::of(once);
                let dispatch = Dispatch { invocations: 8, groups: 500, bytes: 1000 };
                let mut sample =
                    Sample { operation: format!("{i}"), kernel: format!("{j}"), seconds: 0.0, cost, dispatch, sizes };
                sample.seconds = sample.predicted(truth);
                samples.push(sample);
            }
        }
        samples
    }

    #[test]
    fn rates_are_found_again() {
        let start = &Target::named("subgroup8").unwrap().rates;
        let mut truth = start.clone();
        truth.fmas *= 3.0;
        truth.load *= 2.0;
        truth.texel /= 2.0;
        let samples = samples(&truth);
        let (before, after) = (quality(start, &samples), quality(&fit(start, &samples), &samples));
        assert!(before.median_error > 0.5, "{before:?}");
        assert!(after.median_error < 0.05, "{after:?}");
        assert!(after.agreeing as f64 >= 0.97 * after.pairs as f64 && after.pairs > 8, "{after:?}");
        assert_eq!((after.operations, after.well_chosen), (3, 3));
        assert_eq!(fit(start, &[]), *start);
    }
}
