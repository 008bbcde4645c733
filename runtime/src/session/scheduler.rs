//! What a server sits on: sessions come with rows to compute, leave with what may come next.

use std::collections::VecDeque;

use warpweft_plan::OutputKind;

use super::Session;
use super::room::MAX_SEQUENCES;
use super::step::Part;
use crate::model::Engine;
use crate::{Candidates, RuntimeError};

/// Names what was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A session whose rows are all in the cache, or that could not get them.
#[derive(Debug)]
pub struct Done {
    /// What [`Scheduler::submit`] returned.
    pub ticket: Ticket,
    /// The session.
    pub session: Session,
    /// What may come after its last row.
    pub result: Result<Candidates, RuntimeError>,
}

#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    session: Session,
    ids: Vec<u32>,
    /// How many of the ids are in the cache.
    done: usize,
}

/// A session that was not taken into the queue.
#[derive(Debug)]
pub struct Refused {
    /// The session, as it was.
    pub session: Session,
    /// Why it cannot have these rows.
    pub error: RuntimeError,
}

/// A queue of sessions with rows to compute. Each step takes single rows first, then pieces of prompts, until it is as
/// long as the device does in about half a second. Sessions enter and leave between steps.
#[derive(Debug, Default)]
pub struct Scheduler {
    queue: VecDeque<Waiting>,
    next: u64,
    /// Rows of one step at the most; what the device does in about half a second if `None`.
    pub step_rows: Option<usize>,
}

impl Scheduler {
    /// An empty queue.
    pub fn new() -> Scheduler {
        Scheduler::default()
    }

    /// Adds a session with the ids that are to be its next rows.
    ///
    /// # Errors
    /// [`Refused`] if there are none, one is unknown, or the session would be too long.
    pub fn submit(&mut self, engine: &Engine, mut session: Session, ids: Vec<u32>) -> Result<Ticket, Box<Refused>> {
        let checked = engine.check_part(0, &Part { session: &mut session, ids: &ids });
        if let Err(error) = checked {
            return Err(Box::new(Refused { session, error }));
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        self.queue.push_back(Waiting { ticket, session, ids, done: 0 });
        Ok(ticket)
    }

    /// Takes a session out of the queue, with the rows that it has got so far; `None` if it has left already.
    pub fn cancel(&mut self, ticket: Ticket) -> Option<Session> {
        let at = self.queue.iter().position(|w| w.ticket == ticket)?;
        self.queue.remove(at).map(|w| w.session)
    }

    /// Sessions in the queue.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether no session is in the queue.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Rows that are still to be computed.
    pub fn rows(&self) -> usize {
        self.queue.iter().map(Waiting::rest).sum()
    }

    /// Runs one step. Returns the sessions that have all their rows; the others stay. If the cache has no room for any
    /// of them, the one that has waited longest comes back with [`RuntimeError::CacheFull`].
    ///
    /// # Errors
    /// [`RuntimeError`]: trouble with the device. All sessions stay then, as they were before.
    pub async fn step(&mut self, engine: &mut Engine) -> Result<Vec<Done>, RuntimeError> {
        engine.prepare(OutputKind::Candidates, &mut |_| ()).await?;
        let taken = self.choose(engine);
        let last = self.queue.iter().zip(&taken).any(|(waiting, &rows)| rows > 0 && rows == waiting.rest());
        let mut parts = Vec::new();
        for (waiting, &rows) in self.queue.iter_mut().zip(&taken).filter(|(_, rows)| **rows > 0) {
            let ids = &waiting.ids[waiting.done..waiting.done + rows];
            parts.push(Part { session: &mut waiting.session, ids });
        }
        if parts.is_empty() {
            return Ok(self.queue.pop_front().map(|first| first.without_room(engine)).into_iter().collect());
        }
        let mut results = Vec::new();
        match last {
            true => results = engine.advance_candidates(&mut parts).await?,
            false => engine.append(&mut parts).await?,
        }
        let mut results = results.into_iter();
        let mut done = Vec::new();
        for (mut waiting, rows) in std::mem::take(&mut self.queue).into_iter().zip(taken) {
            waiting.done += rows;
            let result = if rows > 0 { results.next() } else { None };
            match result {
                Some(candidates) if waiting.rest() == 0 => {
                    let Waiting { ticket, session, .. } = waiting;
                    done.push(Done { ticket, session, result: Ok(candidates) });
                }
                _ => self.queue.push_back(waiting),
            }
        }
        Ok(done)
    }

    /// How many rows each session of the queue gets: those that need one row first, then as many as there is time and
    /// room for, in their order.
    fn choose(&self, engine: &Engine) -> Vec<usize> {
        let mut rows = self.step_rows.unwrap_or(usize::MAX).min(engine.step_rows(OutputKind::Candidates)).max(1);
        let mut free = engine.free_pages();
        let mut parts = MAX_SEQUENCES;
        let mut taken = vec![0; self.queue.len()];
        for single in [true, false] {
            for (waiting, taken) in self.queue.iter().zip(&mut taken) {
                if parts == 0 || rows == 0 || (waiting.rest() == 1) != single {
                    continue;
                }
                let wanted = waiting.session.fitting(waiting.rest().min(rows), &free);
                let needed = waiting.session.needed(wanted);
                if wanted > 0 && needed.iter().zip(&free).all(|(needed, free)| needed <= free) {
                    *taken = wanted;
                    free.iter_mut().zip(&needed).for_each(|(free, needed)| *free -= needed);
                    rows -= wanted;
                    parts -= 1;
                }
            }
        }
        taken
    }
}

impl Waiting {
    fn rest(&self) -> usize {
        self.ids.len() - self.done
    }

    fn without_room(self, engine: &Engine) -> Done {
        let result = Err(engine.full(&self.session.needed(self.rest())));
        Done { ticket: self.ticket, session: self.session, result }
    }
}
