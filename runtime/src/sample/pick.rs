//! The choice among scores of which only the greatest are known.

use super::Sampling;

/// What is known of the tokens whose scores are not known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tail {
    /// How many there are.
    pub(crate) count: u64,
    /// No score is greater.
    pub(crate) ceiling: f64,
    /// The sum of the exponentials of their scores less `reference` is in this range.
    pub(crate) mass: (f64, f64),
    /// What the mass refers to.
    pub(crate) reference: f64,
}

impl Tail {
    /// The range of the sum of `exp((score - best) / temperature)`.
    ///
    /// With `q = 1 / temperature` and `x = exp(score)`, it is about the sum of `x^q`, where the sum of `x`, the greatest
    /// `x` and their number are known. The mean of powers bounds it on one side, the greatest `x` on the other.
    fn weight(&self, best: f64, temperature: f64) -> (f64, f64) {
        if self.count == 0 {
            return (0.0, 0.0);
        }
        let (n, q) = (self.count as f64, 1.0 / temperature);
        let scale = (self.reference - best).exp();
        let (low, high) = (self.mass.0 * scale, self.mass.1 * scale);
        let greatest = (self.ceiling - best).exp();
        let by_mean = |mass: f64| n.powf(1.0 - q) * mass.powf(q);
        let by_greatest = |mass: f64| if greatest > 0.0 { mass * greatest.powf(q - 1.0) } else { 0.0 };
        let (low, high) = match q >= 1.0 {
            true => (by_mean(low), by_greatest(high)),
            false => (by_greatest(low), by_mean(high)),
        };
        let most = n * greatest.powf(q);
        (low.min(most), high.min(most))
    }
}

/// The position in `scores` of the chosen one. `scores` descend and are all greater than those of the tail; `loose` are
/// scores that are known but may come before or after those of the tail. `draw` is from 0 to 1.
/// `None` if the choice depends on what is not known.
pub(crate) fn pick(sampling: &Sampling, scores: &[f64], loose: &[f64], tail: Tail, draw: f64) -> Option<usize> {
    let best = *scores.first()?;
    if sampling.temperature == 0.0 {
        return Some(0);
    }
    let temperature = f64::from(sampling.temperature);
    let weight = |score: &f64| ((score - best) / temperature).exp();
    let mut weights: Vec<f64> = scores.iter().map(weight).collect();
    let known: f64 = loose.iter().map(weight).sum();
    let (low, high) = tail.weight(best, temperature);
    // What comes after `weights`: its sum is in this range.
    let mut rest = (known + low, known + high);
    let mut more = loose.len() as u64 + tail.count;

    let top_k = if sampling.top_k == 0 { u64::MAX } else { u64::from(sampling.top_k) };
    if top_k < weights.len() as u64 + more {
        weights.truncate(usize::try_from(top_k).unwrap_or(usize::MAX));
        more = top_k - weights.len() as u64;
        let greatest = loose.first().map_or(0.0, weight).max(((tail.ceiling - best) / temperature).exp());
        rest = (0.0, rest.1.min(more as f64 * greatest));
    }
    let top_p = f64::from(sampling.top_p);
    if top_p < 1.0 {
        let total: f64 = weights.iter().sum();
        let enough = |all: f64| position(&weights, |sum| sum >= top_p * all);
        match (enough(total + rest.0), enough(total + rest.1)) {
            (Some(a), Some(b)) if a == b => {
                weights.truncate(a + 1);
                (rest, more) = ((0.0, 0.0), 0);
            }
            // Rounding alone can leave the sum of everything below the share of it.
            _ if more == 0 => {}
            _ => return None,
        }
    }
    let least = f64::from(sampling.min_p);
    weights.truncate(weights.iter().take_while(|w| **w >= least).count().max(1));
    if more > 0 && least > 0.0 {
        let greatest = loose.first().map_or(0.0, weight).max(((tail.ceiling - best) / temperature).exp());
        rest = if greatest < least { (0.0, 0.0) } else { (0.0, rest.1) };
    }
    let total: f64 = weights.iter().sum();
    let drawn = |all: f64| position(&weights, |sum| sum > draw * all);
    match (drawn(total + rest.0), drawn(total + rest.1)) {
        (Some(a), Some(b)) if a == b => Some(a),
        (None, _) if rest.1 == 0.0 => Some(weights.len() - 1),
        _ => None,
    }
}

/// The first position where the running sum meets a condition.
fn position(weights: &[f64], meets: impl Fn(f64) -> bool) -> Option<usize> {
    let mut sum = 0.0;
    weights.iter().position(|weight| {
        sum += weight;
        meets(sum)
    })
}
