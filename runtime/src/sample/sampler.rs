//! One sequence's choices.

use std::cmp::Ordering;

use super::adjust::Adjust;
use super::pick::{Tail, pick};
use super::random::Random;
use super::{Candidates, Sampling};
use crate::RuntimeError;

/// Relative error that the sum of exponentials may have: the device computes it in single precision.
const TOLERANCE: f64 = 1e-5;

/// A chosen token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its natural log-probability, as the model has it, before penalties and temperature.
    pub log_probability: f32,
    /// The most likely tokens with theirs, as many as [`Sampling::alternatives`] says.
    pub alternatives: Vec<(u32, f32)>,
}

/// Chooses the tokens of one sequence.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    seed: u64,
    random: Random,
    adjust: Adjust,
    /// A number that was drawn for a choice which waits for the whole row.
    drawn: Option<f64>,
    vocab_size: u32,
}

impl Sampler {
    /// A sampler for a sequence that has `context` already.
    ///
    /// # Errors
    /// As [`Sampling::check`].
    pub fn new(sampling: &Sampling, context: &[u32], vocab_size: u32) -> Result<Sampler, RuntimeError> {
        sampling.check()?;
        let seed = sampling.seed.unwrap_or_else(Random::any_seed);
        let mut adjust = Adjust::new(sampling);
        adjust.see(context);
        let random = Random::new(seed);
        Ok(Sampler { sampling: sampling.clone(), seed, random, adjust, drawn: None, vocab_size })
    }

    /// The seed, also where the options gave none.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The next token; `None` if that depends on scores that are not among the candidates: then
    /// [`Sampler::choose_from_all`] has to be asked.
    ///
    /// # Errors
    /// [`RuntimeError::NotFinite`] if the scores are not numbers.
    pub fn choose(&mut self, candidates: &Candidates) -> Result<Option<Token>, RuntimeError> {
        if !candidates.log_sum.is_finite() {
            return Err(RuntimeError::NotFinite);
        }
        let draw = match self.drawn.take() {
            Some(draw) => draw,
            None if self.sampling.temperature == 0.0 => 0.0,
            None => self.random.unit(),
        };
        let Some(index) = self.index(candidates, draw) else {
            self.drawn = Some(draw);
            return Ok(None);
        };
        let probability = |i: usize| candidates.scores[i] - candidates.log_sum;
        let alternatives = (0..self.sampling.alternatives.min(candidates.ids.len()))
            .map(|i| (candidates.ids[i], probability(i)))
            .collect();
        let id = candidates.ids[index];
        self.adjust.write(id);
        Ok(Some(Token { id, log_probability: probability(index), alternatives }))
    }

    /// The next token, given the scores of the whole vocabulary.
    ///
    /// # Errors
    /// [`RuntimeError::NotFinite`] if the scores are not numbers.
    pub fn choose_from_all(&mut self, scores: &[f32]) -> Result<Token, RuntimeError> {
        self.choose(&Candidates::of_all(scores))?.ok_or(RuntimeError::NotFinite)
    }

    /// Position of the choice among the candidates.
    fn index(&self, candidates: &Candidates, draw: f64) -> Option<usize> {
        let count = candidates.ids.len();
        let unknown = u64::from(self.vocab_size).saturating_sub(count as u64);
        let last = candidates.scores.last().copied()?;
        let mut ranked: Vec<(usize, f32)> = candidates
            .ids
            .iter()
            .zip(&candidates.scores)
            .map(|(&id, &s)| self.adjust.score(id, s))
            .enumerate()
            .collect();
        ranked.sort_by(|a, b| {
            let by_id = || candidates.ids[a.0].cmp(&candidates.ids[b.0]);
            match b.1.total_cmp(&a.1) {
                Ordering::Equal => by_id(),
                order => order,
            }
        });
        let tail = if unknown == 0 { Tail::default() } else { self.tail(candidates, unknown, last)? };
        // A candidate that has kept its score comes before all others even if it is the last one.
        let sure = |&(i, score): &(usize, f32)| {
            unknown == 0 || score > last || (score == last && candidates.scores[i] == score)
        };
        let split = ranked.iter().take_while(|r| sure(r)).count();
        let scores: Vec<f64> = ranked.iter().map(|r| f64::from(r.1)).collect();
        let chosen = pick(&self.sampling, &scores[..split], &scores[split..], tail, draw)?;
        Some(ranked[chosen].0)
    }

    /// What the candidates say of all others; `None` if one of those might have become greater.
    fn tail(&self, candidates: &Candidates, count: u64, last: f32) -> Option<Tail> {
        let touched = self.adjust.touched();
        let others = touched.iter().filter(|&&id| id < self.vocab_size && !candidates.ids.contains(&id));
        let mut lowered = false;
        for &id in others {
            if self.adjust.may_raise(id) {
                return None;
            }
            lowered = true;
        }
        let reference = f64::from(candidates.log_sum);
        let known: f64 = candidates.scores.iter().map(|&s| (f64::from(s) - reference).exp()).sum();
        let mass = 1.0 - known;
        let low = if lowered { 0.0 } else { (mass - TOLERANCE).max(0.0) };
        Some(Tail { count, ceiling: f64::from(last), mass: (low, mass.max(0.0) + TOLERANCE), reference })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const VOCAB: usize = 1000;

    fn row(random: &mut Random, spread: f64) -> Vec<f32> {
        (0..VOCAB).map(|_| ((random.unit() + random.unit() + random.unit() - 1.5) * spread) as f32).collect()
    }

    fn greatest(all: &Candidates, n: usize) -> Candidates {
        Candidates { log_sum: all.log_sum, scores: all.scores[..n].to_vec(), ids: all.ids[..n].to_vec() }
    }

    /// Hugging Face's way over the whole row: adjust, sort, cut, draw.
    fn reference(sampling: &Sampling, adjust: &Adjust, row: &[f32], draw: f64) -> u32 {
        let mut all: Vec<(u32, f64)> =
            (0..).zip(row).map(|(id, &score)| (id, f64::from(adjust.score(id, score)))).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if sampling.temperature == 0.0 {
            return all[0].0;
        }
        let best = all[0].1;
        all.iter_mut().for_each(|(_, s)| *s = ((*s - best) / f64::from(sampling.temperature)).exp());
        if sampling.top_k > 0 {
            all.truncate(sampling.top_k as usize);
        }
        let total: f64 = all.iter().map(|t| t.1).sum();
        let mut sum = 0.0;
        let below = |(_, w): &(u32, f64)| {
            let before = sum;
            sum += w;
            before < f64::from(sampling.top_p) * total
        };
        all = all
            .iter()
            .copied()
            .take_while({
                let mut below = below;
                move |t| below(t)
            })
            .collect();
        all.retain(|(_, w)| *w >= f64::from(sampling.min_p));
        let total: f64 = all.iter().map(|t| t.1).sum();
        let mut sum = 0.0;
        let chosen = all.iter().find(|(_, w)| {
            sum += w;
            sum > draw * total
        });
        chosen.or(all.last()).unwrap().0
    }

    /// The candidates decide as the whole row does, or say that they cannot. Returns how often they could.
    fn agree(sampling: &Sampling, spread: f64, candidates: usize) -> usize {
        let mut random = Random::new(7);
        let context: Vec<u32> = (0..20).map(|i| i * 37 % VOCAB as u32).collect();
        let seeded = Sampling { seed: Some(3), ..sampling.clone() };
        let mut sampler = Sampler::new(&seeded, &context, VOCAB as u32).unwrap();
        let mut whole = sampler.clone();
        let mut decided = 0;
        for step in 0..300 {
            let row = row(&mut random, spread);
            let all = Candidates::of_all(&row);
            let mut peek = sampler.random.clone();
            let draw = if sampling.temperature == 0.0 { 0.0 } else { peek.unit() };
            let expected = reference(sampling, &sampler.adjust, &row, draw);
            let found = match sampler.choose(&greatest(&all, candidates)).unwrap() {
                Some(token) => {
                    decided += 1;
                    token
                }
                None => sampler.choose_from_all(&row).unwrap(),
            };
            assert_eq!(found.id, expected, "step {step} of {sampling:?}");
            assert_eq!(found, whole.choose_from_all(&row).unwrap());
            let log_probability = f64::from(row[found.id as usize]) - f64::from(all.log_sum);
            assert!((f64::from(found.log_probability) - log_probability).abs() < 1e-5);
        }
        decided
    }

    #[test]
    fn greedy_is_the_first_candidate() {
        assert_eq!(agree(&Sampling::default(), 8.0, 16), 300);
    }

    #[test]
    fn candidates_decide_as_the_whole_row() {
        let base = Sampling { temperature: 1.0, ..Sampling::default() };
        let all = [
            base.clone(),
            Sampling { temperature: 0.7, ..base.clone() },
            Sampling { temperature: 1.6, ..base.clone() },
            Sampling { top_k: 40, ..base.clone() },
            Sampling { top_k: 64, temperature: 2.0, ..base.clone() },
            Sampling { top_k: 300, ..base.clone() },
            Sampling { top_p: 0.8, ..base.clone() },
            Sampling { top_p: 0.95, top_k: 50, temperature: 0.6, ..base.clone() },
            Sampling { min_p: 0.05, ..base.clone() },
            Sampling { min_p: 0.2, top_p: 0.9, temperature: 1.5, ..base.clone() },
            Sampling { repetition_penalty: 1.3, ..base.clone() },
            Sampling { repetition_penalty: 1.3, top_k: 20, ..base.clone() },
            Sampling { repetition_penalty: 0.8, temperature: 0.0, ..base.clone() },
            Sampling { frequency_penalty: 0.7, presence_penalty: 1.5, ..base.clone() },
            Sampling { presence_penalty: -2.0, top_k: 5, ..base.clone() },
            Sampling { logit_bias: vec![(3, 4.0), (5, f32::NEG_INFINITY)], ..base.clone() },
            Sampling { logit_bias: (0..900).map(|id| (id, -3.0)).collect(), top_k: 30, ..base.clone() },
        ];
        for sampling in all {
            for (spread, candidates) in [(12.0, 64), (3.0, 64), (0.5, 8), (12.0, VOCAB)] {
                let decided = agree(&sampling, spread, candidates);
                if candidates == VOCAB {
                    assert_eq!(decided, 300);
                }
            }
        }
    }

    #[test]
    fn the_whole_row_is_seldom_needed() {
        let usual = Sampling { temperature: 0.7, top_k: 40, top_p: 0.9, ..Sampling::default() };
        assert_eq!(agree(&usual, 12.0, 64), 300);
        let plain = Sampling { temperature: 1.0, ..Sampling::default() };
        assert!(agree(&plain, 16.0, 256) > 270);
        let repeated = Sampling { repetition_penalty: 1.1, ..usual };
        assert_eq!(agree(&repeated, 12.0, 64), 300);
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens() {
        let mut random = Random::new(1);
        let rows: Vec<_> = (0..50).map(|_| row(&mut random, 2.0)).collect();
        let run = |seed| -> Vec<u32> {
            let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
            let mut sampler = Sampler::new(&sampling, &[], VOCAB as u32).unwrap();
            rows.iter().map(|row| sampler.choose_from_all(row).unwrap().id).collect()
        };
        assert_eq!(run(Some(5)), run(Some(5)));
        assert_ne!(run(Some(5)), run(Some(6)));
        assert_ne!(run(None), run(None));
    }

    #[test]
    fn alternatives_are_told() {
        let sampling = Sampling { alternatives: 2, ..Sampling::default() };
        let mut sampler = Sampler::new(&sampling, &[], 3).unwrap();
        let token = sampler.choose_from_all(&[0.0, 2.0, 1.0]).unwrap();
        assert_eq!((token.id, token.alternatives[0].0, token.alternatives[1].0), (1, 1, 2));
        let sum: f32 = [0.0f32, 2.0, 1.0].iter().map(|s| s.exp()).sum();
        assert!((token.log_probability - (2.0 - sum.ln())).abs() < 1e-6);
        assert!(matches!(sampler.choose_from_all(&[f32::NAN; 3]), Err(RuntimeError::NotFinite)));
    }

    #[test]
    fn nonsense_is_refused() {
        let wrong = [
            Sampling { temperature: -1.0, ..Sampling::default() },
            Sampling { top_p: 0.0, ..Sampling::default() },
            Sampling { min_p: f32::NAN, ..Sampling::default() },
            Sampling { repetition_penalty: 0.0, ..Sampling::default() },
            Sampling { logit_bias: vec![(1, f32::INFINITY)], ..Sampling::default() },
            Sampling { stop: vec![String::new()], ..Sampling::default() },
            Sampling { alternatives: 21, ..Sampling::default() },
        ];
        for sampling in wrong {
            assert!(matches!(sampling.check(), Err(RuntimeError::Sampling { .. })), "{sampling:?}");
        }
    }
}
