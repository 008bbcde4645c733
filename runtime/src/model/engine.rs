//! The model, with asynchronous calls.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use warpweft_plan::{OutputKind, Plan, PlanFile, Program};

use super::{Matrix, OnProgress, Options, Progress};
use crate::RuntimeError;
use crate::device::{Adapter, Device, Pipeline, best_target, choose};
use crate::load::job::{Job, Window};
use crate::load::memory::{self, Account};
use crate::load::{pipelines, upload};
use crate::run::arena::Arena;
use crate::run::batch::{Tables, cut};
use crate::run::pace::Pace;
use crate::run::submit::{Ready, Submission};

/// Rows of a submission unless the options say otherwise.
const MAX_ROWS: u32 = 8192;

/// An output that can be computed.
struct Prepared {
    job: Job,
    /// Rows that one submission can have.
    capacity: u64,
    pace: Pace,
}

/// A plan on a device. All calls are asynchronous; [`Model`](crate::Model) has the same without.
///
/// Outside of browsers, a device makes progress only while someone waits for it. So there a call blocks the thread
/// that polls it, and an executor should poll it where blocking is allowed.
pub struct Engine {
    file: PlanFile,
    device: Device,
    options: Options,
    weights: HashMap<Window, wgpu::Buffer>,
    pipelines: HashMap<usize, Pipeline>,
    prepared: BTreeMap<OutputKind, Prepared>,
    /// Activations of the output that ran last.
    arena: Option<(OutputKind, Arena)>,
    submissions: Vec<Submission>,
    #[cfg(feature = "text")]
    pub(super) text: Option<super::text::Text>,
}

impl Engine {
    /// Takes a plan to a device and makes one output ready.
    ///
    /// # Errors
    /// [`RuntimeError`]: no adapter, no target that it can run, not enough memory, a refused shader.
    pub async fn open(file: PlanFile, options: &Options, progress: OnProgress<'_>) -> Result<Engine, RuntimeError> {
        let adapter = choose(&options.adapter).await?;
        Engine::open_on(&adapter, file, options, progress).await
    }

    /// The same on a given adapter; the options' own choice is ignored.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn open_on(
        adapter: &Adapter,
        file: PlanFile,
        options: &Options,
        progress: OnProgress<'_>,
    ) -> Result<Engine, RuntimeError> {
        let has = |kind: &OutputKind| file.plan().programs.iter().any(|p| p.output.kind == *kind);
        let first = [OutputKind::Embedding, OutputKind::Hidden, OutputKind::Logits].into_iter().find(has);
        let output = options.output.or(first).unwrap_or(OutputKind::Embedding);
        // What cannot run is refused before the device is opened.
        best_target(file.plan(), output, adapter, options.target.as_deref())?;
        let device = Device::open(adapter).await?;
        progress(Progress::Device { adapter: &adapter.name, notice: adapter.notice().as_deref() });
        let mut engine = Engine {
            file,
            device,
            options: options.clone(),
            weights: HashMap::new(),
            pipelines: HashMap::new(),
            prepared: BTreeMap::new(),
            arena: None,
            submissions: Vec::new(),
            #[cfg(feature = "text")]
            text: None,
        };
        engine.prepare(output, progress).await?;
        Ok(engine)
    }

    /// Makes an output ready: checks its memory, uploads its weights, compiles its kernels. Does nothing the second time.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn prepare(&mut self, output: OutputKind, progress: OnProgress<'_>) -> Result<(), RuntimeError> {
        if self.prepared.contains_key(&output) {
            return Ok(());
        }
        let plan = self.file.plan();
        let adapter = &self.device.adapter;
        let target = best_target(plan, output, adapter, self.options.target.as_deref())?;
        let job = Job::new(plan, output, target);
        progress(Progress::Target { output, target });
        let windows = job.windows(plan);
        let loaded: BTreeSet<Window> = self.weights.keys().copied().collect();
        let all = &loaded | &windows;
        let limit = memory::limit(adapter, self.options.memory);
        let ceiling = u64::from(self.options.max_rows.unwrap_or(MAX_ROWS)).max(1);
        let capacity = memory::capacity(plan, &job, &all, adapter, ceiling, &limit)?;
        tracing::debug!(output = output.name(), target, capacity, "output chosen");
        if !self.options.lazy {
            pipelines::build(&self.device, plan, &job.kernels, &mut self.pipelines, progress).await?;
        }
        upload::upload(&self.device, &self.file, &windows, &mut self.weights, progress).await?;
        let pace = Pace::new(capacity.min(ceiling));
        self.prepared.insert(output, Prepared { job, capacity, pace });
        Ok(())
    }

    /// Runs sequences of ids; returns the rows of all of them in order: one per id, or one per sequence for embeddings.
    /// No sequences give no rows.
    ///
    /// # Errors
    /// [`RuntimeError`]: an id or a length that the model does not have, or trouble with the device.
    pub async fn run<S: AsRef<[u32]>>(&mut self, output: OutputKind, sequences: &[S]) -> Result<Matrix, RuntimeError> {
        self.prepare(output, &mut |_| ()).await?;
        self.submissions.clear();
        self.check(output, sequences)?;
        let mut matrix = Matrix { rows: 0, width: self.width(output), values: Vec::new() };
        let mut rest = sequences;
        while !rest.is_empty() {
            let rows = self.prepared.get(&output).map_or(1, |p| p.pace.rows());
            let (step, tail) = rest.split_at(cut(rest.iter().map(|s| s.as_ref().len()), rows));
            self.submit(output, &Tables::new(step), &mut matrix.values).await?;
            rest = tail;
        }
        matrix.rows = matrix.values.len() / matrix.width.max(1);
        Ok(matrix)
    }

    async fn submit(&mut self, output: OutputKind, tables: &Tables, values: &mut Vec<f32>) -> Result<(), RuntimeError> {
        let Some(Prepared { job, capacity, pace }) = self.prepared.get_mut(&output) else { return Ok(()) };
        let (plan, device) = (self.file.plan(), &self.device);
        let rows = tables.ids.len() as u64;
        let kernels = job.kernels_for(plan, rows);
        pipelines::build(device, plan, &kernels, &mut self.pipelines, &mut |_| ()).await?;
        let fitting = self.arena.take().filter(|(kind, arena)| *kind == output && arena.rows >= rows);
        let mut arena = match fitting {
            Some((_, arena)) => arena,
            None => {
                // Sizes double, so that growing texts don't allocate each time.
                let rows = rows.next_power_of_two().min(*capacity).max(rows);
                Arena::new(device, plan, job, rows).await?
            }
        };
        arena.bind(device, plan, job, job.position(plan, rows), &self.weights, &self.pipelines).await?;
        let ready = Ready { device, plan, job, pipelines: &self.pipelines, arena: &arena };
        let submission = ready.submit(tables, self.options.profile, values).await?;
        pace.learn(rows, submission.seconds);
        self.submissions.push(submission);
        self.arena = Some((output, arena));
        Ok(())
    }

    fn check<S: AsRef<[u32]>>(&self, output: OutputKind, sequences: &[S]) -> Result<(), RuntimeError> {
        let model = &self.plan().model;
        let positions = u64::from(model.max_positions);
        let capacity = self.prepared.get(&output).map_or(0, |p| p.capacity);
        let (limit, why) = match capacity < positions {
            true => (capacity, "the device's buffers hold no more"),
            false => (positions, "the model has no more positions"),
        };
        for (sequence, ids) in sequences.iter().map(AsRef::as_ref).enumerate() {
            if ids.is_empty() {
                return Err(RuntimeError::Empty { sequence });
            }
            if ids.len() as u64 > limit {
                return Err(RuntimeError::TooLong { sequence, rows: ids.len(), limit, why });
            }
            if let Some(&id) = ids.iter().find(|&&id| id >= model.vocab_size) {
                return Err(RuntimeError::Id { sequence, id, vocab_size: model.vocab_size });
            }
        }
        Ok(())
    }

    fn width(&self, output: OutputKind) -> usize {
        self.plan().programs.iter().find(|p| p.output.kind == output).map_or(0, |p| p.output.width as usize)
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        self.file.plan()
    }

    /// The plan's file.
    pub fn file(&self) -> &PlanFile {
        &self.file
    }

    /// The device on which it runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The submissions of the last call that ran.
    pub fn submissions(&self) -> &[Submission] {
        &self.submissions
    }

    /// The program that runs steps of `rows` rows for an output; `None` until the output is ready.
    pub fn program(&self, output: OutputKind, rows: u64) -> Option<&Program> {
        Some(self.prepared.get(&output)?.job.program(self.plan(), rows))
    }

    /// Bytes on the device for steps of up to `rows` rows; `None` until the output is ready.
    pub fn account(&self, output: OutputKind, rows: u64) -> Option<Account> {
        let job = &self.prepared.get(&output)?.job;
        Some(Account::new(self.plan(), job, &self.weights.keys().copied().collect(), rows))
    }
}
