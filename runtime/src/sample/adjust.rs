//! Penalties and biases: what is done to the scores of single tokens.

use std::collections::{HashMap, HashSet};

use super::Sampling;

/// Which tokens get other scores, and which.
#[derive(Clone, Debug)]
pub(crate) struct Adjust {
    repetition: f32,
    frequency: f32,
    presence: f32,
    bias: HashMap<u32, f32>,
    /// Tokens of the context, as far as the repetition penalty wants them.
    seen: HashSet<u32>,
    /// How often each token has been written.
    written: HashMap<u32, u32>,
}

impl Adjust {
    pub(crate) fn new(sampling: &Sampling) -> Adjust {
        let mut bias = HashMap::new();
        sampling.logit_bias.iter().for_each(|&(id, value)| *bias.entry(id).or_insert(0.0) += value);
        Adjust {
            repetition: sampling.repetition_penalty,
            frequency: sampling.frequency_penalty,
            presence: sampling.presence_penalty,
            bias,
            seen: HashSet::new(),
            written: HashMap::new(),
        }
    }

    /// These tokens are in the context.
    pub(crate) fn see(&mut self, ids: &[u32]) {
        if self.repetition != 1.0 {
            self.seen.extend(ids);
        }
    }

    /// This token has been written.
    pub(crate) fn write(&mut self, id: u32) {
        self.see(&[id]);
        if self.frequency != 0.0 || self.presence != 0.0 {
            *self.written.entry(id).or_insert(0) += 1;
        }
    }

    /// The score that counts.
    pub(crate) fn score(&self, id: u32, score: f32) -> f32 {
        let repeated = match self.seen.contains(&id) {
            true if score < 0.0 => score * self.repetition,
            true => score / self.repetition,
            false => score,
        };
        let times = self.written.get(&id).copied().unwrap_or(0);
        let fresh = repeated - self.frequency * times as f32 - if times > 0 { self.presence } else { 0.0 };
        fresh + self.bias.get(&id).copied().unwrap_or(0.0)
    }

    /// Tokens whose scores may be changed.
    pub(crate) fn touched(&self) -> HashSet<u32> {
        self.seen.iter().chain(self.written.keys()).chain(self.bias.keys()).copied().collect()
    }

    /// Whether a token's score may become greater.
    pub(crate) fn may_raise(&self, id: u32) -> bool {
        let written = self.written.contains_key(&id);
        self.bias.get(&id).is_some_and(|&b| b > 0.0)
            || (written && (self.frequency < 0.0 || self.presence < 0.0))
            || (self.seen.contains(&id) && self.repetition < 1.0)
    }
}
