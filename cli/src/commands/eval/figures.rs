//! What rows of scores say: probabilities of softmax, and how far two rows are apart.

/// The scores of all tokens after one row, and what turns them into probabilities.
#[derive(Clone, Copy, Debug)]
struct Distribution<'r> {
    scores: &'r [f32],
    /// ln Σ exp(score)
    log_sum: f64,
}

impl<'r> Distribution<'r> {
    fn of(scores: &'r [f32]) -> Distribution<'r> {
        let greatest = f64::from(scores.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = scores.iter().map(|&score| (f64::from(score) - greatest).exp()).sum();
        Distribution { scores, log_sum: greatest + sum.ln() }
    }

    /// -ln p of a token, infinite for one that is not in the vocabulary.
    fn loss(&self, id: u32) -> f64 {
        self.log_sum - self.scores.get(id as usize).map_or(f64::NEG_INFINITY, |&score| f64::from(score))
    }

    /// The token with the highest score, the first of several.
    fn first(&self) -> Option<usize> {
        let higher = |best: Option<(usize, f32)>, (id, &score): (usize, &f32)| match best {
            Some((_, most)) if most >= score => best,
            _ => Some((id, score)),
        };
        self.scores.iter().enumerate().fold(None, higher).map(|(id, _)| id)
    }

    /// KL(self ‖ other) = Σ p (ln p - ln q) in nats.
    fn divergence(&self, other: &Distribution<'_>) -> f64 {
        let term = |(&p, &q): (&f32, &f32)| {
            let (p, q) = (f64::from(p) - self.log_sum, f64::from(q) - other.log_sum);
            // What never comes counts nothing, whatever the other one says of it.
            if p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) }
        };
        self.scores.iter().zip(other.scores).map(term).sum()
    }
}

/// Added up over the tokens that are scored.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) scored: usize,
    nll: f64,
    baseline_nll: f64,
    divergence: f64,
    agreed: usize,
}

impl Sums {
    /// Counts a token, `next`, with the scores that the row before it gave, and the baseline's scores if there is one.
    pub(super) fn add(&mut self, model: &[f32], baseline: Option<&[f32]>, next: u32) {
        let model = Distribution::of(model);
        self.scored += 1;
        self.nll += model.loss(next);
        if let Some(baseline) = baseline.map(Distribution::of) {
            self.baseline_nll += baseline.loss(next);
            self.divergence += baseline.divergence(&model);
            self.agreed += usize::from(baseline.first() == model.first());
        }
    }

    /// Nats per token.
    pub(super) fn nll(&self) -> f64 {
        self.mean(self.nll)
    }

    /// The same for the baseline.
    pub(super) fn baseline_nll(&self) -> f64 {
        self.mean(self.baseline_nll)
    }

    /// Mean KL(baseline ‖ model) in nats.
    pub(super) fn divergence(&self) -> f64 {
        self.mean(self.divergence)
    }

    /// The share of tokens for which both give the same one the highest score.
    pub(super) fn agreement(&self) -> f64 {
        self.mean(self.agreed as f64)
    }

    fn mean(&self, sum: f64) -> f64 {
        sum / self.scored.max(1) as f64
    }
}

/// The cosine of the angle between two vectors. A vector of zeros has no direction: it is like another one, and unlike
/// all others.
pub(super) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    match (dot(a, a), dot(b, b)) {
        (a, b) if a == 0.0 || b == 0.0 => f64::from(u8::from(a == b)),
        (aa, bb) => dot(a, b) / (aa.sqrt() * bb.sqrt()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Sums, cosine};

    const P: [f32; 3] = [1.0, 3.0, -2.0];
    const Q: [f32; 3] = [0.5, -1.0, 7.0];

    fn softmax(scores: [f32; 3]) -> [f64; 3] {
        let sum: f64 = scores.iter().map(|s| f64::from(*s).exp()).sum();
        scores.map(|s| f64::from(s).exp() / sum)
    }

    fn sums(model: &[f32], baseline: &[f32], next: u32) -> Sums {
        let mut sums = Sums::default();
        sums.add(model, Some(baseline), next);
        sums
    }

    #[test]
    fn probabilities_are_those_of_softmax() {
        for (id, p) in (0..).zip(softmax(P)) {
            assert!((sums(&P, &Q, id).nll() + p.ln()).abs() < 1e-12);
        }
        assert!(sums(&P, &P, 9).nll().is_infinite());
    }

    #[test]
    fn divergence_is_that_of_the_definition() {
        let (p, q) = (softmax(P), softmax(Q));
        let expected: f64 = p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum();
        let found = sums(&Q, &P, 0);
        assert!((found.divergence() - expected).abs() < 1e-12, "{} {expected}", found.divergence());
        assert_eq!((found.agreement(), sums(&Q, &Q, 0).agreement()), (0.0, 1.0));
        assert_eq!(sums(&Q, &Q, 0).divergence(), 0.0);
        // A token that the baseline excludes adds nothing; one that only the model excludes is infinitely far.
        let masked = [1.0, 3.0, f32::NEG_INFINITY];
        assert!((sums(&P, &masked, 0).divergence() - (1.0 - p[2]).ln().abs()).abs() < 1e-12);
        assert!(sums(&masked, &P, 0).divergence().is_infinite());
    }

    #[test]
    fn means_are_over_tokens() {
        let mut sums = Sums::default();
        sums.add(&P, Some(&P), 0);
        sums.add(&P, Some(&Q), 0);
        assert_eq!((sums.scored, sums.agreement()), (2, 0.5));
        let [p, q] = [P, Q].map(|scores| -softmax(scores)[0].ln());
        assert!((sums.nll() - p).abs() < 1e-12 && (sums.baseline_nll() - (p + q) / 2.0).abs() < 1e-12);
        assert_eq!(Sums::default().nll(), 0.0);
    }

    #[test]
    fn cosines() {
        assert!((cosine(&[1.0, 2.0], &[2.0, 4.0]) - 1.0).abs() < 1e-15);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 3.0]), 0.0);
        assert_eq!((cosine(&[0.0; 2], &[0.0; 2]), cosine(&[0.0; 2], &[1.0; 2])), (1.0, 0.0));
        let large = [f32::MAX, -f32::MAX];
        assert!((cosine(&large, &large) - 1.0).abs() < 1e-15);
    }
}
