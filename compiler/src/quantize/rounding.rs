//! Rounding the rows of a weight to codes, so that what a contraction gives changes least.

use rayon::prelude::*;

use super::moments::Factors;
use super::product::{Threads, View, add_product};
use crate::formats::{Codes, Format, FormatError, GroupFit};

/// Rows that one thread takes at once.
const SLAB: usize = 64;
/// Columns whose errors are carried on one by one; those of earlier ones come as a product of matrices.
const STEP: usize = 32;

/// Rows as codes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rounded {
    /// One byte for each value, row-major.
    pub codes: Vec<u8>,
    /// For each row, one of each group.
    pub scales: Vec<f32>,
    /// In the same order.
    pub zeros: Vec<f32>,
    /// What the rows' errors `e` cost together: `Σ e H eᵀ`, the mean square of what they change in the contraction's
    /// result, added up over its columns. Without factors, `Σ e eᵀ`.
    pub error: f64,
}

impl Rounded {
    /// The rows as `format` stores them.
    ///
    /// # Errors
    /// When codes or scales are not what the format can hold: values were not finite.
    pub fn pack(&self, format: Format, width: usize) -> Result<Vec<u8>, FormatError> {
        format.assemble(&Codes { codes: &self.codes, scales: &self.scales, zeros: Some(&self.zeros) }, width)
    }

    fn join(mut self, next: Rounded) -> Rounded {
        self.codes.extend(next.codes);
        self.scales.extend(next.scales);
        self.zeros.extend(next.zeros);
        Rounded { error: self.error + next.error, ..self }
    }
}

/// What a column is rounded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feedback {
    /// Its own value: the nearest code.
    Off,
    /// Its value and what the errors of the columns before it leave to make good. Groups get their scales when they are
    /// reached, from what they are rounded from.
    On,
}

/// Rounds rows of `width` values, on all cores.
///
/// Without `factors`, every column's error counts alone and the same, so there is nothing to feed back.
pub fn round(rows: &[f32], width: usize, format: Format, factors: Option<&Factors>, feedback: Feedback) -> Rounded {
    if width == 0 {
        return Rounded::default();
    }
    let slabs: Vec<Rounded> =
        rows.par_chunks(SLAB * width).map(|rows| Slab::new(rows, width, format, factors, feedback).round()).collect();
    slabs.into_iter().fold(Rounded::default(), Rounded::join)
}

struct Slab<'a> {
    rows: &'a [f32],
    count: usize,
    width: usize,
    format: Format,
    factors: Option<&'a Factors>,
    feedback: Feedback,
    /// What each rounded value lacks: `w - ŵ`.
    errors: Vec<f32>,
    codes: Vec<u8>,
    /// For each row, the parameters of each group.
    fits: Vec<GroupFit>,
    groups: usize,
    error: f64,
}

impl<'a> Slab<'a> {
    fn new(
        rows: &'a [f32],
        width: usize,
        format: Format,
        factors: Option<&'a Factors>,
        feedback: Feedback,
    ) -> Slab<'a> {
        let count = rows.len() / width;
        let groups = format.groups(width);
        Slab {
            rows,
            count,
            width,
            format,
            factors,
            feedback,
            errors: vec![0.0; count * width],
            codes: vec![0; count * width],
            fits: vec![GroupFit { scale: 1.0, zero: 0.0 }; count * groups],
            groups,
            error: 0.0,
        }
    }

    fn round(mut self) -> Rounded {
        let group = self.format.group_width(self.width);
        for (at, first) in (0..self.width).step_by(group).enumerate() {
            self.group(at, first, (first + group).min(self.width));
        }
        let (scales, zeros) = self.fits.into_iter().map(|fit| (fit.scale, fit.zero)).unzip();
        Rounded { codes: self.codes, scales, zeros, error: self.error }
    }

    /// Rounds the columns `first .. end`, which share parameters.
    fn group(&mut self, at: usize, first: usize, end: usize) {
        let (width, n) = (self.width, end - first);
        // What the columns would have to be, as far as columns before the group say: `w + Σ e U`.
        let mut wanted: Vec<f32> =
            (0..self.count).flat_map(|row| &self.rows[row * width + first..row * width + end]).copied().collect();
        self.carry(&mut wanted, n, 0..first, first..end);
        let ones = vec![1.0; n];
        let weights = self.factors.map_or(&ones[..], |f| &f.diagonal()[first..end]);
        for row in 0..self.count {
            let values = match self.feedback {
                Feedback::On => &wanted[row * n..][..n],
                Feedback::Off => &self.rows[row * width + first..][..n],
            };
            self.fits[row * self.groups + at] = self.format.fit(values, Some(weights));
        }
        for start in (first..end).step_by(STEP) {
            let stop = (start + STEP).min(end);
            self.carry(&mut wanted[start - first..], n, first..start, start..stop);
            self.columns(at, (&wanted[start - first..], n), start, stop);
        }
    }

    /// Adds to `wanted`, which begins at column `to.start` with `stride` values from row to row, what the errors of the
    /// columns `from` leave to those of `to`.
    fn carry(&self, wanted: &mut [f32], stride: usize, from: std::ops::Range<usize>, to: std::ops::Range<usize>) {
        let Some(factors) = self.factors.filter(|_| !from.is_empty()) else { return };
        let errors = View::of(&self.errors[from.start..], self.width);
        let upper = View::of(factors.upper(from.start, to.start), self.width);
        add_product(wanted, stride, [self.count, to.len(), from.len()], 1.0, (errors, upper), Threads::One);
    }

    /// Rounds the columns `start .. stop` of all rows one by one.
    fn columns(&mut self, group: usize, (wanted, stride): (&[f32], usize), start: usize, stop: usize) {
        // Column by column, so that the inner sum goes through memory in order.
        let n = stop - start;
        let mut upper = [0f32; STEP * STEP];
        let mut costs = [1f32; STEP];
        if let Some(factors) = self.factors {
            for j in 0..n {
                let row = factors.upper(start + j, start);
                (j + 1..n).for_each(|k| upper[k * STEP + j] = row[k]);
            }
            costs[..n].copy_from_slice(&factors.diagonal()[start..stop]);
        }
        for row in 0..self.count {
            let fit = self.fits[row * self.groups + group];
            let mut errors = [0f32; STEP];
            for k in 0..n {
                let at = row * self.width + start + k;
                let value = self.rows[at];
                let carried: f32 = errors[..k].iter().zip(&upper[k * STEP..]).map(|(e, u)| e * u).sum();
                let target = wanted[row * stride + k] + carried;
                let source = match self.feedback {
                    Feedback::On => target,
                    Feedback::Off => value,
                };
                let (code, decoded) = self.format.round(source, fit);
                errors[k] = value - decoded;
                self.codes[at] = code;
                self.error += f64::from(target - decoded).powi(2) * f64::from(costs[k]);
            }
            self.errors[row * self.width + start..][..n].copy_from_slice(&errors[..n]);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::moments::Moments;
    use super::*;
    use crate::formats::Group;

    fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as f32 / (1u64 << 30) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// Inputs with something in common between columns.
    fn inputs(rows: usize, width: usize) -> Vec<f32> {
        let noise = random(rows * width, 5);
        let common = random(rows * 3, 6);
        let mix = random(3 * width, 7);
        let shared =
            |row: usize, column: usize| -> f32 { (0..3).map(|i| common[row * 3 + i] * mix[i * width + column]).sum() };
        (0..rows * width).map(|at| 0.4 * noise[at] + shared(at / width, at % width)).collect()
    }

    fn int4(group: u32) -> Format {
        Format::Int4 { group: Group::Of(group), zeros: true }
    }

    fn decoded(rounded: &Rounded, width: usize, format: Format) -> Vec<f32> {
        format.unpack(&rounded.pack(format, width).unwrap(), width)
    }

    /// The mean square of what the errors change, for each row of `x`.
    fn measured(w: &[f32], rounded: &[f32], x: &[f32], width: usize) -> f64 {
        let mut sum = 0.0;
        for (w, r) in w.chunks(width).zip(rounded.chunks(width)) {
            for x in x.chunks(width) {
                let change: f64 = (0..width).map(|i| f64::from(w[i] - r[i]) * f64::from(x[i])).sum();
                sum += change * change;
            }
        }
        sum / (x.len() / width) as f64
    }

    #[test]
    fn the_error_is_what_the_result_changes_by_and_feedback_lowers_it() {
        let formats = [int4(32), int4(128), Format::Int8(Group::Row), Format::Mxfp4, Format::Nf4(Group::Of(64))];
        let shapes = [(40, 3), (33, 1), (100, 70), (96, 65)];
        for (format, (width, rows)) in formats.into_iter().flat_map(|f| shapes.map(|s| (f, s))) {
            let (x, w) = (inputs(200, width), random(rows * width, 9));
            let mut moments = Moments::new(width);
            moments.add(&x);
            let factors = moments.factor(1e-6).unwrap();
            let [plain, fed] = [Feedback::Off, Feedback::On].map(|f| round(&w, width, format, Some(&factors), f));
            for rounded in [&plain, &fed] {
                let found = measured(&w, &decoded(rounded, width, format), &x, width);
                assert!((rounded.error / found - 1.0).abs() < 1e-3, "{format} {width}: {} {found}", rounded.error);
            }
            // By a factor of two and more as a rule; a single row of few values has less to choose from.
            assert!(fed.error < 0.8 * plain.error, "{format} {width}: {} {}", fed.error, plain.error);
        }
    }

    #[test]
    fn values_that_are_codes_stay() {
        let format = int4(16);
        let mut w: Vec<f32> = random(48 * 5, 1).iter().map(|x| (x * 7.99).trunc()).collect();
        w.chunks_mut(16).for_each(|group| (group[0], group[1]) = (-7.0, 8.0));
        let mut moments = Moments::new(48);
        moments.add(&inputs(100, 48));
        let factors = moments.factor(0.01).unwrap();
        let rounded = round(&w, 48, format, Some(&factors), Feedback::On);
        assert_eq!(decoded(&rounded, 48, format), w);
        assert_eq!(rounded.error, 0.0);
    }

    #[test]
    fn without_factors_it_is_the_nearest_code() {
        let (format, w) = (int4(8), random(9 * 20, 2));
        let [off, on] = [Feedback::Off, Feedback::On].map(|f| round(&w, 20, format, None, f));
        assert_eq!(off, on);
        let same = round(&w, 20, format, Some(&Factors::identity(20)), Feedback::On);
        assert_eq!(same.codes, off.codes);
        let square: f64 = w.iter().zip(decoded(&off, 20, format)).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        assert!((off.error - square).abs() < 1e-9 * square);
        assert_eq!(round(&[], 20, format, None, Feedback::On), Rounded::default());
    }

    #[test]
    fn planted_outliers_cost_little_where_moments_tell_of_them() {
        // Three channels of the input are a hundred times the others, as they are in large language models.
        let (width, rows, format) = (128, 64, int4(32));
        let mut x = inputs(600, width);
        x.chunks_mut(width).for_each(|row| [5, 40, 90].into_iter().for_each(|i| row[i] *= 100.0));
        let w = random(rows * width, 3);
        let mut moments = Moments::new(width);
        moments.add(&x);
        let factors = moments.factor(1e-4).unwrap();
        let plain = measured(&w, &decoded(&round(&w, width, format, None, Feedback::Off), width, format), &x, width);
        let fed = round(&w, width, format, Some(&factors), Feedback::On);
        let fed = measured(&w, &decoded(&fed, width, format), &x, width);
        assert!(fed < plain / 10.0, "{fed} {plain}");
    }
}
