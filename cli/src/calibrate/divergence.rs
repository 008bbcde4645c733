//! How far a model's predictions are from what they were: the Kullback-Leibler divergence.
//!
//! It is the loss that rounding adds on text that the model itself predicts, it is never negative, and unlike the
//! difference of two losses it has no first-order term, so a few thousand tokens measure a part in a thousand.

use rayon::prelude::*;
use warpweft_runtime::Matrix;

use super::subject::Subject;
use crate::CliError;

/// Bytes of the distributions that are kept.
const MOST: usize = 512 << 20;

/// How far predictions have moved, in nats per token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Distance {
    /// The divergence: the loss that is added on text that the model itself would write.
    pub(super) divergence: f64,
    /// The loss that was added on the text that is there. Its sign and size are uncertain by several times as much as the
    /// divergence is.
    pub(super) growth: f64,
}

impl Distance {
    /// Of a divergence, the part that costs. On text that the model would not write, predictions move more than the loss
    /// does; how much more, sums over many measurements tell. The truth for text that the model is good at lies between
    /// the two, so that half of the way is taken: never more than a factor of two from either.
    pub(super) fn cost(self) -> f64 {
        match self.divergence > 0.0 {
            true => 0.5 + 0.5 * (self.growth / self.divergence).clamp(0.0, 1.0),
            false => 1.0,
        }
    }
}

impl std::ops::AddAssign for Distance {
    fn add_assign(&mut self, other: Distance) {
        self.divergence += other.divergence;
        self.growth += other.growth;
    }
}

/// What the model predicts after each id of a text.
pub(super) struct Reference {
    ids: Vec<u32>,
    /// Logarithms of probabilities, `[ids, vocabulary]`.
    rows: Vec<f32>,
}

impl Reference {
    /// The predictions over a text, or as much of its beginning as memory allows.
    pub(super) fn of(subject: &mut Subject<'_>, ids: &[u32], vocabulary: usize) -> Result<Reference, CliError> {
        let most = (MOST / 4 / vocabulary.max(1)).max(1);
        let ids = ids[..ids.len().min(most)].to_vec();
        let mut rows = Vec::new();
        subject.scores(&ids, &mut |scores| {
            let found: Vec<Vec<f32>> = rows_of(&scores).map(log_probabilities).collect();
            found.into_iter().for_each(|row| rows.extend(row));
            Ok(())
        })?;
        Ok(Reference { ids, rows })
    }

    /// Tokens that it is measured on.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// How far the predictions of the model as it is now are from these, over so many tokens from the beginning.
    pub(super) fn distance(&self, subject: &mut Subject<'_>, tokens: usize) -> Result<Distance, CliError> {
        let ids = &self.ids[..self.ids.len().min(tokens)];
        let (mut sum, mut at) = (Distance::default(), 0);
        subject.scores(ids, &mut |scores| {
            let moved: Vec<Distance> = rows_of(&scores).enumerate().map(|(i, row)| self.moved(at + i, row)).collect();
            at += moved.len();
            moved.into_iter().for_each(|row| sum += row);
            Ok(())
        })?;
        let tokens = at.max(1) as f64;
        match sum.divergence.is_finite() && sum.growth.is_finite() {
            true => Ok(Distance { divergence: sum.divergence / tokens, growth: sum.growth / tokens }),
            false => Err(CliError::Failed("a rounded model predicts numbers that are not finite".into())),
        }
    }

    /// How far the scores after token `at` are from what they were.
    fn moved(&self, at: usize, scores: &[f32]) -> Distance {
        let known = self.rows.get(at * scores.len()..(at + 1) * scores.len()).unwrap_or_default();
        let normalizer = normalizer(scores);
        let growth = self.ids.get(at + 1).map_or(0.0, |&next| {
            let before = known.get(next as usize).map_or(0.0, |&p| f64::from(p));
            let after = scores.get(next as usize).map_or(0.0, |&score| f64::from(score) - normalizer);
            before - after
        });
        Distance { divergence: divergence(known, scores, normalizer), growth }
    }
}

/// The rows of scores, for all cores.
fn rows_of(scores: &Matrix) -> impl IndexedParallelIterator<Item = &[f32]> {
    scores.values.par_chunks_exact(scores.width.max(1))
}

/// The mean negative log-probability of the tokens of a text, but for the first one of each chunk.
#[cfg(test)]
pub(super) fn loss(subject: &mut Subject<'_>, ids: &[u32]) -> Result<f64, CliError> {
    let (mut sum, mut count, mut at) = (0.0, 0, 0);
    let context = subject.context();
    subject.scores(ids, &mut |scores| {
        for row in scores.iter() {
            at += 1;
            if let Some(&next) = ids.get(at).filter(|_| at % context != 0) {
                sum += normalizer(row) - f64::from(row[next as usize]);
                count += 1;
            }
        }
        Ok(())
    })?;
    Ok(sum / f64::from(count))
}

fn log_probabilities(scores: &[f32]) -> Vec<f32> {
    let normalizer = normalizer(scores);
    scores.iter().map(|&score| (f64::from(score) - normalizer) as f32).collect()
}

/// The logarithm of the sum of exponentials.
fn normalizer(scores: &[f32]) -> f64 {
    let greatest = f64::from(scores.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    greatest + scores.iter().map(|&score| (f64::from(score) - greatest).exp()).sum::<f64>().ln()
}

/// `Σ p (ln p - ln q)` with the logarithms of `p`, and scores whose softmax is `q`, with their normalizer.
fn divergence(known: &[f32], scores: &[f32], normalizer: f64) -> f64 {
    let of = |(&p, &score): (&f32, &f32)| {
        let p = f64::from(p);
        p.exp() * (p - (f64::from(score) - normalizer))
    };
    known.iter().zip(scores).map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_what_does_not_show_in_the_loss_counts() {
        let cost = |divergence, growth| Distance { divergence, growth }.cost();
        assert_eq!([cost(0.02, 0.02), cost(0.02, 0.01), cost(0.02, -1.0), cost(0.02, 1.0)], [1.0, 0.75, 0.5, 1.0]);
        assert_eq!(cost(0.0, 0.0), 1.0);
    }

    #[test]
    fn a_distribution_is_not_far_from_itself() {
        let (p, q) = ([1.0f32, 2.0, -3.0], [0.5f32, 2.5, 0.0]);
        let known = log_probabilities(&p);
        let divergence = |known: &[f32], scores: &[f32]| super::divergence(known, scores, normalizer(scores));
        assert!(divergence(&known, &p).abs() < 1e-7);
        let shifted = p.map(|x| x + 100.0);
        assert!(divergence(&known, &shifted).abs() < 1e-5);
        let softmax = |x: [f32; 3]| x.map(|v| f64::from(v).exp() / x.iter().map(|v| f64::from(*v).exp()).sum::<f64>());
        let expected: f64 = softmax(p).iter().zip(softmax(q)).map(|(p, q)| p * (p / q).ln()).sum();
        assert!((divergence(&known, &q) - expected).abs() < 1e-6);
    }
}
