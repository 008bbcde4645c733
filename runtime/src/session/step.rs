//! One step of several sessions: some get many rows, some one.

use warpweft_plan::{Dim, OutputKind, PAGE_ROWS};

use super::ledger::Reservation;
use super::{Pool, Session};
use crate::model::{Engine, Matrix};
use crate::run::batch::Tables;
use crate::{Candidates, RuntimeError};

/// Rows that one session gets in a step.
#[derive(Debug)]
pub struct Part<'a> {
    /// The session.
    pub session: &'a mut Session,
    /// The ids of its new rows, at least one.
    pub ids: &'a [u32],
}

impl Engine {
    /// A session without rows.
    ///
    /// # Errors
    /// [`RuntimeError::NoOutput`] if the plan has no cache.
    pub fn session(&self) -> Result<Session, RuntimeError> {
        if !self.ledgers.is_empty() {
            return Ok(Session::new(&self.ledgers));
        }
        let has = |kind: &OutputKind| self.plan().programs.iter().any(|program| program.output.kind == *kind);
        let available = OutputKind::ALL.into_iter().filter(has).map(|kind| kind.name().to_owned()).collect();
        Err(RuntimeError::NoOutput { wanted: "for sessions".into(), available })
    }

    /// The rows that one session can have, and what sets the limit.
    pub fn context_limit(&self) -> (u64, &'static str) {
        let positions = u64::from(self.plan().model.max_positions);
        match self.pools.iter().filter_map(|pool| pool.bounds().0).min() {
            Some(most) if most < positions => (most, "the cache has no more rows"),
            _ => (positions, "the model has no more positions"),
        }
    }

    /// Rows that the sessions can still have together, see [`Engine::cache_rows`].
    pub fn free_rows(&self) -> u64 {
        self.pools.first().map_or(0, |pool| pool.free_pages() as u64 * PAGE_ROWS)
    }

    /// Rows that the sessions can have together in layers that keep all rows. If all layers have sliding windows, the
    /// rows of those: [`Engine::window_rows`].
    pub fn cache_rows(&self) -> u64 {
        self.pools.first().map_or(0, |pool| pool.most)
    }

    /// Rows that the sessions can still have together in layers with sliding windows, see [`Engine::window_rows`].
    pub fn free_window_rows(&self) -> u64 {
        self.windows().map_or(0, |pool| pool.free_pages() as u64 * PAGE_ROWS)
    }

    /// Rows that the sessions can have together in layers with sliding windows; 0 if there are none. A session has no
    /// more there than a row sees, about 64 beside those, and those of a step.
    pub fn window_rows(&self) -> u64 {
        self.windows().map_or(0, |pool| pool.most)
    }

    fn windows(&self) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.ledger.window().is_some())
    }

    /// Pages of each pool that the sessions can still take.
    pub(crate) fn free_pages(&self) -> Vec<usize> {
        self.pools.iter().map(Pool::free_pages).collect()
    }

    /// That one of the pools has too few pages for these.
    pub(crate) fn full(&self, needed: &[usize]) -> RuntimeError {
        let short = |(pool, needed): &(&Pool, &usize)| pool.free_pages() < **needed;
        let pair = self.pools.iter().zip(needed).find(short).or_else(|| self.pools.iter().zip(needed).next());
        let none = RuntimeError::CacheFull { cache: "the cache", needed: 0, free: 0, limit: 0 };
        pair.map_or(none, |(pool, &needed)| pool.full(needed))
    }

    /// Rows that the next step should have at the most, so that it does not keep the device too long and that a session
    /// alone has room for them.
    pub fn step_rows(&self, output: OutputKind) -> usize {
        let room = self.pools.iter().map(|pool| pool.bounds().1).min().unwrap_or(u64::MAX);
        self.prepared(output).map_or(1, |p| usize::try_from(p.pace.rows().min(room)).unwrap_or(usize::MAX))
    }

    /// Of `rows` rows of a session those that the next step should have, as [`Engine::step_rows`], but with regard to
    /// what other sessions hold. At least one.
    pub(crate) fn piece(&self, output: OutputKind, session: &Session, rows: usize) -> usize {
        session.fitting(self.step_rows(output).min(rows), &self.free_pages()).max(1)
    }

    /// Adds rows to sessions in one step. Returns a row for each id or each part, as the output has it.
    /// If it fails, all sessions are as before.
    ///
    /// # Errors
    /// [`RuntimeError`]: no or unknown ids, a context that is too long, a cache that is full, trouble with the device.
    pub async fn advance(&mut self, output: OutputKind, parts: &mut [Part<'_>]) -> Result<Matrix, RuntimeError> {
        self.submissions.clear();
        let mut matrix = Matrix { rows: 0, width: self.width(output), values: Vec::new() };
        self.add(output, parts, Some(&mut matrix.values)).await?;
        matrix.rows = matrix.values.len() / matrix.width.max(1);
        Ok(matrix)
    }

    /// Adds rows to sessions in one step and computes nothing of what may come after them, as for all pieces of a prompt
    /// but its last one. If it fails, all sessions are as before.
    ///
    /// # Errors
    /// As [`Engine::advance`].
    pub async fn append(&mut self, parts: &mut [Part<'_>]) -> Result<(), RuntimeError> {
        self.submissions.clear();
        self.add(OutputKind::Candidates, parts, None).await
    }

    /// Adds rows and appends what `output` has of them to `values`, if it is wanted.
    async fn add(
        &mut self,
        output: OutputKind,
        parts: &mut [Part<'_>],
        values: Option<&mut Vec<f32>>,
    ) -> Result<(), RuntimeError> {
        self.prepare(output, &mut |_| ()).await?;
        if parts.is_empty() {
            return Ok(());
        }
        for (index, part) in parts.iter().enumerate() {
            self.check_part(index, part)?;
        }
        let reservations = self.reserve(parts).await?;
        let mut tables = Tables::default();
        for (part, reservation) in parts.iter().zip(&reservations) {
            tables.push(part.ids, part.session.len() as u32, part.session.pages_with(reservation));
        }
        for (i, pool) in self.pools.iter().enumerate() {
            let copied: Vec<_> = reservations.iter().filter_map(|r| r.get(i)?.copied()).collect();
            pool.copy(&self.device, &copied).await?;
        }
        self.submit(output, &tables, values).await?;
        for (part, reservation) in parts.iter_mut().zip(reservations) {
            part.session.commit(reservation, part.ids);
        }
        Ok(())
    }

    /// The same for the tokens that may come next: a value for each part.
    ///
    /// # Errors
    /// As [`Engine::advance`].
    pub async fn advance_candidates(&mut self, parts: &mut [Part<'_>]) -> Result<Vec<Candidates>, RuntimeError> {
        let matrix = self.advance(OutputKind::Candidates, parts).await?;
        Ok(matrix.iter().map(Candidates::of_row).collect())
    }

    /// Computes the scores of all tokens after a session's last row.
    ///
    /// # Errors
    /// As [`Engine::advance`]; [`RuntimeError::Empty`] for a session without rows. The session keeps its rows.
    pub async fn whole_row(&mut self, session: &Session) -> Result<Vec<f32>, RuntimeError> {
        let Some((&last, before)) = session.ids().split_last() else {
            return Err(RuntimeError::Empty { sequence: 0 });
        };
        self.prepare(OutputKind::Next, &mut |_| ()).await?;
        self.submissions.clear();
        // The last row is computed again into its own place.
        let mut tables = Tables::default();
        tables.push(&[last], before.len() as u32, session.pages());
        let mut row = Vec::new();
        self.submit(OutputKind::Next, &tables, Some(&mut row)).await?;
        Ok(row)
    }

    /// Whether ids may be added to a session, whatever else the cache holds.
    ///
    /// # Errors
    /// [`RuntimeError`], as [`Engine::advance`] with this part at `index`.
    pub fn check_part(&self, index: usize, part: &Part<'_>) -> Result<(), RuntimeError> {
        let vocab_size = self.plan().model.vocab_size;
        if !part.session.is_in(&self.ledgers) {
            return Err(RuntimeError::Foreign { session: index });
        }
        if part.ids.is_empty() {
            return Err(RuntimeError::Empty { sequence: index });
        }
        if let Some(&id) = part.ids.iter().find(|&&id| id >= vocab_size) {
            return Err(RuntimeError::Id { sequence: index, id, vocab_size });
        }
        let (limit, why) = self.context_limit();
        let rows = part.session.len() + part.ids.len();
        if rows as u64 > limit {
            return Err(RuntimeError::Context { rows, limit, why });
        }
        Ok(())
    }

    /// Pages of each pool for each part, or none at all.
    async fn reserve(&mut self, parts: &[Part<'_>]) -> Result<Vec<Vec<Reservation>>, RuntimeError> {
        let mut needed = vec![0; self.pools.len()];
        for part in parts {
            let more = part.session.needed(part.ids.len());
            needed.iter_mut().zip(more).for_each(|(needed, more)| *needed += more);
        }
        if self.pools.iter().zip(&needed).any(|(pool, &needed)| pool.free_pages() < needed) {
            return Err(self.full(&needed));
        }
        for (pool, &needed) in self.pools.iter_mut().zip(&needed) {
            pool.ensure(&self.device, needed).await?;
        }
        let reserved: Option<Vec<_>> = parts.iter().map(|part| part.session.reserve(part.ids.len())).collect();
        reserved.ok_or_else(|| self.full(&needed))
    }

    /// The rows of whole sequences, each in a session of its own that is gone afterwards, cut into chunks.
    pub(crate) async fn run_cached<S: AsRef<[u32]>>(
        &mut self,
        output: OutputKind,
        sequences: &[S],
    ) -> Result<Matrix, RuntimeError> {
        let by_token = self.plan().programs.iter().any(|p| p.output.kind == output && p.output.rows == Dim::TOKENS);
        let mut all = Matrix { rows: 0, width: self.width(output), values: Vec::new() };
        for ids in sequences {
            let mut session = self.session()?;
            let mut rest = ids.as_ref();
            while !rest.is_empty() {
                let (ids, tail) = rest.split_at(self.piece(output, &session, rest.len()));
                let part = Part { session: &mut session, ids };
                let wanted = by_token || tail.is_empty();
                self.add(output, &mut [part], wanted.then_some(&mut all.values)).await?;
                rest = tail;
            }
        }
        all.rows = all.values.len() / all.width.max(1);
        Ok(all)
    }
}
