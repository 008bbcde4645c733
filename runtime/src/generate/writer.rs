//! What is written after one sequence.

use crate::model::Engine;
use crate::{Candidates, RuntimeError, Sampler, Sampling, Token};

/// Why nothing more is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The model ended the text, or a stop text came.
    Stop,
    /// The most tokens that were asked for, or that there is room for, are written.
    Length,
    /// The caller wanted no more.
    Canceled,
}

impl Finish {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Canceled => "canceled",
        }
    }
}

/// One token that was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The token.
    pub token: Token,
    /// The text that it completes. Empty while a character is not complete or a stop text may have begun; always empty
    /// without the feature `text` or a tokenizer.
    pub text: String,
    /// Set with the last token.
    pub finish: Option<Finish>,
}

/// Chooses the tokens that follow on one sequence and knows when to end. It needs no device: a server has one for each
/// answer and asks it whenever the [`Scheduler`](crate::Scheduler) has candidates.
pub struct Writer {
    sampler: Sampler,
    eos_ids: Vec<u32>,
    /// Tokens that may still be written.
    left: usize,
    #[cfg(feature = "text")]
    text: Option<(crate::text::Stream, crate::text::Stop)>,
}

impl Writer {
    /// A writer of what follows on `context`: all ids before the answer.
    ///
    /// # Errors
    /// [`RuntimeError::Sampling`] for options that make no sense, stop texts without a tokenizer among them.
    pub fn new(engine: &mut Engine, context: &[u32], sampling: &Sampling) -> Result<Writer, RuntimeError> {
        let (limit, _) = engine.context_limit();
        // The last token is written without being fed back.
        let room = usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(context.len()) + 1;
        let model = &engine.plan().model;
        let eos_ids = if sampling.ignore_eos { Vec::new() } else { model.eos_ids.clone() };
        let sampler = Sampler::new(sampling, context, model.vocab_size)?;
        Ok(Writer {
            sampler,
            eos_ids,
            left: sampling.max_tokens.min(room),
            #[cfg(feature = "text")]
            text: Writer::text(engine, context, sampling)?,
        })
    }

    #[cfg(feature = "text")]
    fn text(
        engine: &mut Engine,
        context: &[u32],
        sampling: &Sampling,
    ) -> Result<Option<(crate::text::Stream, crate::text::Stop)>, RuntimeError> {
        if engine.file().assets().tokenizer().is_none() && sampling.stop.is_empty() {
            return Ok(None);
        }
        let tokenizer = engine.text()?.tokenizer.clone();
        Ok(Some((crate::text::Stream::new(tokenizer, context), crate::text::Stop::new(&sampling.stop))))
    }

    /// The seed of its choices.
    pub fn seed(&self) -> u64 {
        self.sampler.seed()
    }

    /// Tokens that may still be written.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Writes the next token; `None` if the candidates cannot tell which: then [`Writer::write_from_all`] has to be
    /// given what [`Engine::whole_row`] returns.
    ///
    /// # Errors
    /// As [`Sampler::choose`]; [`RuntimeError::Tokenizer`].
    pub fn write(&mut self, candidates: &Candidates) -> Result<Option<Event>, RuntimeError> {
        self.sampler.choose(candidates)?.map(|token| self.event(token)).transpose()
    }

    /// The same, given the scores of all tokens.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn write_from_all(&mut self, scores: &[f32]) -> Result<Event, RuntimeError> {
        let token = self.sampler.choose_from_all(scores)?;
        self.event(token)
    }

    fn event(&mut self, token: Token) -> Result<Event, RuntimeError> {
        self.left = self.left.saturating_sub(1);
        let finish = match (self.eos_ids.contains(&token.id), self.left) {
            (true, _) => Some(Finish::Stop),
            (false, 0) => Some(Finish::Length),
            (false, _) => None,
        };
        let (text, stopped) = self.told(token.id, finish)?;
        let finish = if stopped { Some(Finish::Stop) } else { finish };
        if finish.is_some() {
            self.left = 0;
        }
        Ok(Event { token, text, finish })
    }

    #[cfg(feature = "text")]
    fn told(&mut self, id: u32, finish: Option<Finish>) -> Result<(String, bool), RuntimeError> {
        let Some((stream, stop)) = &mut self.text else { return Ok((String::new(), false)) };
        // What ends a text is no part of it, special token or not.
        let mut text = if finish == Some(Finish::Stop) { String::new() } else { stream.push(id)? };
        if finish.is_some() {
            text += &stream.finish()?;
        }
        let (mut shown, stopped) = stop.push(&text);
        if finish.is_some() && !stopped {
            shown += &stop.finish();
        }
        Ok((shown, stopped))
    }

    #[cfg(not(feature = "text"))]
    fn told(&mut self, _: u32, _: Option<Finish>) -> Result<(String, bool), RuntimeError> {
        Ok((String::new(), false))
    }
}
