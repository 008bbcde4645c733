//! How far a model's predictions are from what they were: the Kullback-Leibler divergence.
//!
//! It is the loss that rounding adds on text that the model itself predicts, it is never negative, and unlike the
//! difference of two losses it has no first-order term, so a few thousand tokens measure a part in a thousand.

use super::subject::Subject;
use crate::CliError;

/// Bytes of the distributions that are kept.
const MOST: usize = 512 << 20;

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
            rows.extend(scores.iter().flat_map(|row| log_probabilities(row)));
            Ok(())
        })?;
        Ok(Reference { ids, rows })
    }

    /// Tokens that it is measured on.
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The mean divergence in nats per token of the model as it is now.
    pub(super) fn divergence(&self, subject: &mut Subject<'_>) -> Result<f64, CliError> {
        let (mut sum, mut at) = (0.0, 0);
        subject.scores(&self.ids, &mut |scores| {
            for row in scores.iter() {
                let known = self.rows.get(at * scores.width..(at + 1) * scores.width).unwrap_or_default();
                sum += divergence(known, row);
                at += 1;
            }
            Ok(())
        })?;
        match sum.is_finite() {
            true => Ok(sum / at.max(1) as f64),
            false => Err(CliError::Failed("a rounded model predicts numbers that are not finite".into())),
        }
    }
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

fn log_probabilities(scores: &[f32]) -> impl Iterator<Item = f32> + '_ {
    let normalizer = normalizer(scores);
    scores.iter().map(move |&score| (f64::from(score) - normalizer) as f32)
}

/// The logarithm of the sum of exponentials.
fn normalizer(scores: &[f32]) -> f64 {
    let greatest = f64::from(scores.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    greatest + scores.iter().map(|&score| (f64::from(score) - greatest).exp()).sum::<f64>().ln()
}

/// `Σ p (ln p - ln q)` with the logarithms of `p`, and scores whose softmax is `q`.
fn divergence(known: &[f32], scores: &[f32]) -> f64 {
    let normalizer = normalizer(scores);
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
    fn a_distribution_is_not_far_from_itself() {
        let (p, q) = ([1.0f32, 2.0, -3.0], [0.5f32, 2.5, 0.0]);
        let known: Vec<f32> = log_probabilities(&p).collect();
        assert!(divergence(&known, &p).abs() < 1e-7);
        let shifted = p.map(|x| x + 100.0);
        assert!(divergence(&known, &shifted).abs() < 1e-5);
        let softmax = |x: [f32; 3]| x.map(|v| f64::from(v).exp() / x.iter().map(|v| f64::from(*v).exp()).sum::<f64>());
        let expected: f64 = softmax(p).iter().zip(softmax(q)).map(|(p, q)| p * (p / q).ln()).sum();
        assert!((divergence(&known, &q) - expected).abs() < 1e-6);
    }
}
