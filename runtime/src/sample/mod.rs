//! From scores to tokens.
//!
//! The device hands over the greatest scores only, and the logarithm of the sum of exponentials of all of them. The
//! token is nevertheless the one that the scores of the whole vocabulary give: where a few scores cannot tell, the
//! whole row is asked for.

mod adjust;
mod candidates;
mod pick;
mod random;
mod sampler;

pub use candidates::Candidates;
pub use sampler::{Sampler, Token};

use crate::RuntimeError;

/// How the next token is chosen. The default takes the most likely one, up to 256 tokens.
///
/// The order is that of Hugging Face: repetition penalty, frequency and presence penalties, bias, temperature, `top_k`,
/// `top_p`, `min_p`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token; 1 draws from the model's distribution; higher is more even.
    pub temperature: f32,
    /// Only the so many most likely tokens; 0 is all.
    pub top_k: u32,
    /// Only the most likely tokens that together have this probability; 1 is all.
    pub top_p: f32,
    /// Only tokens that are at least this many times as likely as the most likely one; 0 is all.
    pub min_p: f32,
    /// Scores of tokens in the context are divided by this if positive, else multiplied; 1 does nothing.
    pub repetition_penalty: f32,
    /// Taken from a new token's score for each time that it has been written.
    pub frequency_penalty: f32,
    /// Taken from a token's score once it has been written.
    pub presence_penalty: f32,
    /// Added to the scores of single tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// The same seed gives the same text on the same device. If `None`, each run has its own.
    pub seed: Option<u64>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Tokens that are written at the most.
    pub max_tokens: usize,
    /// Whether to write on after an id that ends a text.
    pub ignore_eos: bool,
    /// How many alternatives are told with their log-probabilities, at most 20.
    pub alternatives: usize,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
            stop: Vec::new(),
            max_tokens: 256,
            ignore_eos: false,
            alternatives: 0,
        }
    }
}

impl Sampling {
    /// Alternatives that can be told.
    pub const MOST_ALTERNATIVES: usize = 20;

    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// [`RuntimeError::Sampling`] with the option, what it is and what it may be.
    pub fn check(&self) -> Result<(), RuntimeError> {
        let refuse = |name, found: String, expected| Err(RuntimeError::Sampling { name, found, expected });
        let finite = |value: f32| value.is_finite();
        let numbers = [
            ("temperature", self.temperature, finite(self.temperature) && self.temperature >= 0.0, "0 or more"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0, at most 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                finite(self.repetition_penalty) && self.repetition_penalty > 0.0,
                "above 0",
            ),
            ("frequency_penalty", self.frequency_penalty, finite(self.frequency_penalty), "a number"),
            ("presence_penalty", self.presence_penalty, finite(self.presence_penalty), "a number"),
        ];
        for (name, value, good, expected) in numbers {
            if !good {
                return refuse(name, value.to_string(), expected);
            }
        }
        if let Some((id, bias)) = self.logit_bias.iter().find(|(_, bias)| bias.is_nan() || *bias == f32::INFINITY) {
            return refuse("logit_bias", format!("{bias} for {id}"), "a number or -inf");
        }
        if self.stop.iter().any(String::is_empty) {
            return refuse("stop", "an empty text".into(), "texts that are not empty");
        }
        if self.alternatives > Sampling::MOST_ALTERNATIVES {
            return refuse("alternatives", self.alternatives.to_string(), "at most 20");
        }
        Ok(())
    }
}
