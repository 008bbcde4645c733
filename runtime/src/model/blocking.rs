//! The model, with calls that wait.

use std::path::Path;

use warpweft_plan::{OutputKind, PlanFile};

use super::{Engine, Matrix, OnProgress, Options};
use crate::device::block_on;
use crate::run::timer::StepClock;
use crate::{RuntimeError, Session};

/// A plan on a device.
///
/// ```no_run
/// # fn main() -> Result<(), warpweft_runtime::RuntimeError> {
/// let mut model = warpweft_runtime::Model::open("minilm.weft")?;
/// let vectors = model.embed_ids(&[[101, 7592, 102]])?;
/// assert_eq!(vectors.rows, 1);
/// # Ok(())
/// # }
/// ```
pub struct Model {
    engine: Engine,
}

impl Model {
    /// Opens a plan file on the best adapter.
    ///
    /// # Errors
    /// As [`Engine::open`]; [`RuntimeError::Plan`] if the file is not a plan.
    pub fn open(path: impl AsRef<Path>) -> Result<Model, RuntimeError> {
        Model::open_with(path, &Options::default(), &mut |_| ())
    }

    /// Opens a plan file with options and is told of progress.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open_with(
        path: impl AsRef<Path>,
        options: &Options,
        progress: OnProgress<'_>,
    ) -> Result<Model, RuntimeError> {
        Model::from_plan(PlanFile::open(path)?, options, progress)
    }

    /// Takes a plan from anywhere.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_plan(file: PlanFile, options: &Options, progress: OnProgress<'_>) -> Result<Model, RuntimeError> {
        Ok(Model { engine: block_on(Engine::open(file, options, progress))? })
    }

    /// The vector of each sequence of ids.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub fn embed_ids<S: AsRef<[u32]>>(&mut self, sequences: &[S]) -> Result<Matrix, RuntimeError> {
        block_on(self.engine.run(OutputKind::Embedding, sequences))
    }

    /// The last hidden state: a row for each id of each sequence.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub fn hidden_ids<S: AsRef<[u32]>>(&mut self, sequences: &[S]) -> Result<Matrix, RuntimeError> {
        block_on(self.engine.run(OutputKind::Hidden, sequences))
    }

    /// Scores over the vocabulary: a row for each id of each sequence.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub fn logits_ids<S: AsRef<[u32]>>(&mut self, sequences: &[S]) -> Result<Matrix, RuntimeError> {
        block_on(self.engine.run(OutputKind::Logits, sequences))
    }

    /// A session without rows, which [`Session::generate_ids`] and its kin fill.
    ///
    /// # Errors
    /// As [`Engine::session`].
    pub fn session(&self) -> Result<Session, RuntimeError> {
        self.engine.session()
    }

    /// Chooses whether and how the steps of the next calls are measured; [`Engine::timed_steps`] gives the times.
    ///
    /// # Errors
    /// As [`Engine::set_clock`].
    pub fn set_clock(&mut self, clock: Option<StepClock>) -> Result<(), RuntimeError> {
        self.engine.set_clock(clock)
    }

    /// Makes an output ready before it is asked for.
    ///
    /// # Errors
    /// As [`Engine::prepare`].
    pub fn prepare(&mut self, output: OutputKind, progress: OnProgress<'_>) -> Result<(), RuntimeError> {
        block_on(self.engine.prepare(output, progress))
    }

    /// The model with asynchronous calls, and all that can be asked about it.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The same, to call it.
    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }
}

impl AsMut<Engine> for Model {
    fn as_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }
}

#[cfg(feature = "text")]
impl Model {
    /// The vector of each text. A text that is longer than the model's texts is cut.
    ///
    /// # Errors
    /// As [`Engine::embed`].
    pub fn embed<S: AsRef<str> + Sync>(&mut self, texts: &[S]) -> Result<super::Embeddings, RuntimeError> {
        block_on(self.engine.embed(texts))
    }

    /// The ids of each text.
    ///
    /// # Errors
    /// As [`Engine::tokenize`].
    pub fn tokenize<S: AsRef<str> + Sync>(&mut self, texts: &[S]) -> Result<Vec<Vec<u32>>, RuntimeError> {
        self.engine.tokenize(texts)
    }
}
