//! One session's answer, token by token.

use warpweft_plan::OutputKind;

use super::writer::{Event, Finish, Writer};
use crate::model::Engine;
use crate::session::{Part, Session};
use crate::{Candidates, RuntimeError, Sampling};

/// An answer being written: an iterator of [`Event`]s, or [`Generation::next_event`] for those who wait otherwise.
///
/// Dropping it ends it. The session has all rows but the last token's then; the next call on it adds that one.
pub struct Generation<'a> {
    engine: &'a mut Engine,
    session: &'a mut Session,
    writer: Writer,
    /// Ids that are not in the cache yet.
    pending: Vec<u32>,
    total: usize,
    candidates: Option<Candidates>,
    /// Whether the id that is not in the cache yet was written here.
    written: bool,
    finish: Option<Finish>,
}

impl Session {
    /// Writes what follows on the session's rows and `ids`.
    ///
    /// # Errors
    /// [`RuntimeError`]: no or unknown ids, a context that is too long, options that make no sense.
    pub fn generate_ids<'a, E: AsMut<Engine>>(
        &'a mut self,
        model: &'a mut E,
        ids: &[u32],
        sampling: &Sampling,
    ) -> Result<Generation<'a>, RuntimeError> {
        let engine = model.as_mut();
        let pending: Vec<u32> = self.unfed().into_iter().chain(ids.iter().copied()).collect();
        engine.check_part(0, &Part { session: self, ids: &pending })?;
        let context = [self.ids(), &pending].concat();
        let writer = Writer::new(engine, &context, sampling)?;
        let total = pending.len();
        Ok(Generation { engine, session: self, writer, pending, total, candidates: None, written: false, finish: None })
    }

    /// Writes what follows on a text. The tokenizer's special tokens are added if the session has no rows yet.
    ///
    /// # Errors
    /// As [`Session::generate_ids`]; [`RuntimeError::Tokenizer`] if the plan has no tokenizer.
    #[cfg(feature = "text")]
    pub fn generate<'a, E: AsMut<Engine>>(
        &'a mut self,
        model: &'a mut E,
        text: &str,
        sampling: &Sampling,
    ) -> Result<Generation<'a>, RuntimeError> {
        let special = self.is_empty() && self.unfed().is_none();
        let ids = model.as_mut().encode(text, special)?;
        self.generate_ids(model, &ids, sampling)
    }

    /// Writes the answer to a conversation. Rows that the session has from earlier turns are kept as far as they agree
    /// and [`Session::truncate`] can keep them.
    ///
    /// # Errors
    /// As [`Session::generate`]; [`RuntimeError::Template`] if the plan has no chat template or it refuses the messages.
    #[cfg(feature = "text")]
    pub fn answer<'a, E: AsMut<Engine>>(
        &'a mut self,
        model: &'a mut E,
        messages: &[crate::Message],
        sampling: &Sampling,
    ) -> Result<Generation<'a>, RuntimeError> {
        let ids = model.as_mut().encode_chat(messages)?;
        let (limit, why) = model.as_mut().context_limit();
        if ids.len() as u64 > limit {
            return Err(RuntimeError::Context { rows: ids.len(), limit, why });
        }
        // At least the last row has to be computed, to know what follows on it.
        let kept = self.common(&ids).min(ids.len().saturating_sub(1));
        let kept = self.truncate(kept);
        self.generate_ids(model, &ids[kept..], sampling)
    }
}

impl Generation<'_> {
    /// Adds the next piece of the prompt. Returns how many of its rows are in the cache, and how many there are;
    /// `None` once all are. Calling it is optional: it lets long prompts show how far they are.
    ///
    /// # Errors
    /// [`RuntimeError`]: a cache that is full, trouble with the device. It can be called again.
    pub async fn advance_prompt(&mut self) -> Result<Option<(usize, usize)>, RuntimeError> {
        if self.pending.is_empty() || self.finish.is_some() {
            return Ok(None);
        }
        self.engine.prepare(OutputKind::Candidates, &mut |_| ()).await?;
        let rows = self.engine.piece(OutputKind::Candidates, self.session, self.pending.len());
        let part = Part { session: self.session, ids: &self.pending[..rows] };
        match rows < self.pending.len() {
            true => self.engine.append(&mut [part]).await?,
            false => self.candidates = self.engine.advance_candidates(&mut [part]).await?.pop(),
        }
        self.pending.drain(..rows);
        Ok(Some((self.total - self.pending.len(), self.total)))
    }

    /// The next token; `None` after the last one.
    ///
    /// # Errors
    /// [`RuntimeError`]: a cache that is full, trouble with the device. Nothing comes after an error.
    pub async fn next_event(&mut self) -> Option<Result<Event, RuntimeError>> {
        if self.finish.is_some() {
            return None;
        }
        if self.writer.left() == 0 {
            self.finish = Some(Finish::Length);
            return None;
        }
        let event = self.event().await;
        match &event {
            Ok(event) => self.finish = event.finish,
            Err(_) => self.finish = Some(Finish::Canceled),
        }
        Some(event)
    }

    async fn event(&mut self) -> Result<Event, RuntimeError> {
        while self.advance_prompt().await?.is_some() {}
        let candidates = self.candidates.take().unwrap_or_default();
        let event = match self.writer.write(&candidates)? {
            Some(event) => event,
            None => {
                let scores = self.engine.whole_row(self.session).await?;
                self.writer.write_from_all(&scores)?
            }
        };
        self.pending.push(event.token.id);
        self.written = true;
        Ok(event)
    }

    /// Ends the answer.
    pub fn cancel(&mut self) {
        self.finish.get_or_insert(Finish::Canceled);
    }

    /// Why nothing more comes; `None` while more may come.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// Ids of the prompt that had to be computed.
    pub fn prompt_tokens(&self) -> usize {
        self.total
    }

    /// The seed of its choices, also where the options gave none.
    pub fn seed(&self) -> u64 {
        self.writer.seed()
    }

    /// The session, with the rows that it has got so far.
    pub fn session(&self) -> &Session {
        self.session
    }
}

impl Drop for Generation<'_> {
    fn drop(&mut self) {
        // A prompt that is not all there is given up, a token that was told is not.
        if let ([id], true) = (self.pending.as_slice(), self.written) {
            self.session.leave_unfed(*id);
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Iterator for Generation<'_> {
    type Item = Result<Event, RuntimeError>;

    fn next(&mut self) -> Option<Self::Item> {
        crate::device::block_on(self.next_event())
    }
}
