//! One step of several sessions: some get many rows, some one.

use warpweft_plan::{Dim, OutputKind, PAGE_ROWS};

use super::ledger::Reservation;
use super::{Session, pool};
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
        if pool::has_cache(self.plan()) {
            return Ok(Session::new(self.ledger.clone()));
        }
        let has = |kind: &OutputKind| self.plan().programs.iter().any(|program| program.output.kind == *kind);
        let available = OutputKind::ALL.into_iter().filter(has).map(|kind| kind.name().to_owned()).collect();
        Err(RuntimeError::NoOutput { wanted: "for sessions".into(), available })
    }

    /// The rows that one session can have, and what sets the limit.
    pub fn context_limit(&self) -> (u64, &'static str) {
        let positions = u64::from(self.plan().model.max_positions);
        match self.pool.as_ref().map(|pool| pool.most) {
            Some(most) if most < positions => (most, "the cache has no more rows"),
            _ => (positions, "the model has no more positions"),
        }
    }

    /// Rows that the sessions can still have together.
    pub fn free_rows(&self) -> u64 {
        let Some(pool) = &self.pool else { return 0 };
        pool.ledger.count().1 as u64 * PAGE_ROWS + (pool.most - pool.rows)
    }

    /// Rows that the sessions can have together.
    pub fn cache_rows(&self) -> u64 {
        self.pool.as_ref().map_or(0, |pool| pool.most)
    }

    /// Rows that the next step should have at the most, so that it does not keep the device too long.
    pub fn step_rows(&self, output: OutputKind) -> usize {
        self.prepared(output).map_or(1, |p| usize::try_from(p.pace.rows()).unwrap_or(usize::MAX))
    }

    /// Adds rows to sessions in one step. Returns a row for each id or each part, as the output has it.
    /// If it fails, all sessions are as before.
    ///
    /// # Errors
    /// [`RuntimeError`]: no or unknown ids, a context that is too long, a cache that is full, trouble with the device.
    pub async fn advance(&mut self, output: OutputKind, parts: &mut [Part<'_>]) -> Result<Matrix, RuntimeError> {
        self.submissions.clear();
        self.add(output, parts).await
    }

    async fn add(&mut self, output: OutputKind, parts: &mut [Part<'_>]) -> Result<Matrix, RuntimeError> {
        self.prepare(output, &mut |_| ()).await?;
        let mut matrix = Matrix { rows: 0, width: self.width(output), values: Vec::new() };
        if parts.is_empty() {
            return Ok(matrix);
        }
        for (index, part) in parts.iter().enumerate() {
            self.check_part(index, part)?;
        }
        let reservations = self.reserve(parts).await?;
        let mut tables = Tables::default();
        for (part, reservation) in parts.iter().zip(&reservations) {
            tables.push(part.ids, part.session.len() as u32, part.session.table(reservation));
        }
        if let Some(pool) = &self.pool {
            let copied: Vec<_> = reservations.iter().filter_map(Reservation::copied).collect();
            pool.copy(&self.device, &copied).await?;
        }
        self.submit(output, &tables, &mut matrix.values).await?;
        for (part, reservation) in parts.iter_mut().zip(reservations) {
            part.session.commit(reservation, part.ids);
        }
        matrix.rows = matrix.values.len() / matrix.width.max(1);
        Ok(matrix)
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
        self.submit(OutputKind::Next, &tables, &mut row).await?;
        Ok(row)
    }

    /// Whether ids may be added to a session, whatever else the cache holds.
    ///
    /// # Errors
    /// [`RuntimeError`], as [`Engine::advance`] with this part at `index`.
    pub fn check_part(&self, index: usize, part: &Part<'_>) -> Result<(), RuntimeError> {
        let vocab_size = self.plan().model.vocab_size;
        if !part.session.is_in(&self.ledger) {
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

    /// Pages for all parts, or for none.
    async fn reserve(&mut self, parts: &[Part<'_>]) -> Result<Vec<Reservation>, RuntimeError> {
        let Some(pool) = &mut self.pool else { return Ok(Vec::new()) };
        let needed = parts.iter().map(|part| part.session.needed(part.ids.len())).sum();
        pool.ensure(&self.device, needed).await?;
        let reserved: Option<Vec<_>> = parts.iter().map(|part| part.session.reserve(part.ids.len())).collect();
        let (limit, free) = (pool.most, pool.ledger.count().1 as u64 * PAGE_ROWS);
        reserved.ok_or(RuntimeError::CacheFull { needed: needed as u64 * PAGE_ROWS, free, limit })
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
                let (ids, tail) = rest.split_at(self.step_rows(output).min(rest.len()));
                let part = Part { session: &mut session, ids };
                let rows = self.add(output, &mut [part]).await?;
                rest = tail;
                if by_token || rest.is_empty() {
                    all.rows += rows.rows;
                    all.values.extend(rows.values);
                }
            }
        }
        Ok(all)
    }
}
