//! The model, with asynchronous calls.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use warpweft_plan::{OutputKind, Plan, PlanFile, Program};

use super::{Matrix, OnProgress, Options, Progress, TimedStep};
use crate::RuntimeError;
use crate::device::{Adapter, Device, Pipeline, Stored, best_target, choose};
use crate::load::job::{Job, Window};
use crate::load::memory::{self, Account, Extent};
use crate::load::{pipelines, upload};
use crate::run::arena::{Arena, Resident};
use crate::run::batch::{Tables, cut};
use crate::run::pace::Pace;
use crate::run::submit::{Ready, Submission};
use crate::run::timer::StepClock;
use crate::session::{Ledger, Pool, pool, room};

/// Rows of a submission unless the options say otherwise.
const MAX_ROWS: u32 = 8192;

/// An output that can be computed.
pub(crate) struct Prepared {
    job: Job,
    /// Rows that one submission can have.
    capacity: u64,
    pub(crate) pace: Pace,
    /// Whether it reads the rows of sessions.
    cached: bool,
}

/// A plan on a device. All calls are asynchronous; [`Model`](crate::Model) has the same without.
///
/// Outside of browsers, a device makes progress only while someone waits for it. So there a call blocks the thread
/// that polls it, and an executor should poll it where blocking is allowed.
pub struct Engine {
    file: PlanFile,
    pub(crate) device: Device,
    options: Options,
    pub(super) weights: HashMap<Window, Stored>,
    pipelines: HashMap<usize, Pipeline>,
    prepared: BTreeMap<OutputKind, Prepared>,
    /// Activations of the output that ran last.
    pub(super) arenas: BTreeMap<OutputKind, Arena>,
    /// The books of all pools.
    pub(crate) ledgers: Vec<Ledger>,
    /// In the same order; none until an output needs them.
    pub(crate) pools: Vec<Pool>,
    pub(crate) submissions: Vec<Submission>,
    #[cfg(feature = "text")]
    pub(crate) text: Option<crate::text::Text>,
}

impl AsMut<Engine> for Engine {
    fn as_mut(&mut self) -> &mut Engine {
        self
    }
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
        mut file: PlanFile,
        options: &Options,
        progress: OnProgress<'_>,
    ) -> Result<Engine, RuntimeError> {
        let tuned = if options.untuned { 0 } else { file.tune(&adapter.family) };
        tracing::debug!(family = adapter.family, tuned, "programs with kernels of the family");
        let has = |kind: &OutputKind| file.plan().programs.iter().any(|p| p.output.kind == *kind);
        let preferred = [OutputKind::Embedding, OutputKind::Candidates, OutputKind::Hidden, OutputKind::Logits];
        let first = preferred.into_iter().find(has);
        let output = options.output.or(first).unwrap_or(OutputKind::Embedding);
        // What cannot run is refused before the device is opened.
        best_target(file.plan(), output, adapter, options.target.as_deref())?;
        let device = Device::open(adapter).await?;
        options.clock.map_or(Ok(()), |clock| device.check_clock(clock))?;
        progress(Progress::Device { adapter: &adapter.name, notice: adapter.notice().as_deref() });
        let ledgers = pool::ledgers(file.plan());
        let mut engine = Engine {
            file,
            device,
            options: options.clone(),
            weights: HashMap::new(),
            pipelines: HashMap::new(),
            prepared: BTreeMap::new(),
            arenas: BTreeMap::new(),
            ledgers,
            pools: Vec::new(),
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
        let cached = pool::is_cached(plan, &job);
        let capacity = if cached {
            if self.pools.is_empty() {
                let most = room::limit_rows(plan, &job, &all, adapter, self.options.context, &limit)?;
                self.pools = Pool::all(plan, &self.ledgers, most);
            }
            for pool in self.pools.iter_mut().filter(|pool| pool.rows == 0) {
                pool.ensure(&self.device, 1).await?;
            }
            room::capacity(plan, &job, &all, adapter, ceiling, &limit)?
        } else {
            memory::capacity(plan, &job, &all, adapter, ceiling, &limit)?
        };
        tracing::debug!(output = output.name(), target, capacity, "output chosen");
        let (device, file, weights) = (&self.device, &self.file, &mut self.weights);
        let copy = self.options.copy_weights;
        let mut upload =
            async |progress: OnProgress<'_>| upload::upload(device, file, &windows, copy, weights, progress).await;
        match self.options.lazy {
            true => upload(progress).await?,
            false => {
                let kernels = &job.kernels_for(plan, 1) | &job.kernels_for(plan, u64::MAX);
                let built = &mut self.pipelines;
                pipelines::build_beside(device, plan, &kernels, built, progress, upload).await?;
            }
        }
        let pace = Pace::new(capacity.min(ceiling));
        self.prepared.insert(output, Prepared { job, capacity, pace, cached });
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
        if self.prepared.get(&output).is_some_and(|p| p.cached) {
            return self.run_cached(output, sequences).await;
        }
        let mut matrix = Matrix { rows: 0, width: self.width(output), values: Vec::new() };
        let mut rest = sequences;
        while !rest.is_empty() {
            let rows = self.prepared.get(&output).map_or(1, |p| p.pace.rows());
            let (step, tail) = rest.split_at(cut(rest.iter().map(|s| s.as_ref().len()), rows));
            self.submit(output, &Tables::new(step), Some(&mut matrix.values)).await?;
            rest = tail;
        }
        matrix.rows = matrix.values.len() / matrix.width.max(1);
        Ok(matrix)
    }

    /// Runs one step and appends its result to `values`; without them, no more of it than adds rows to the caches.
    pub(crate) async fn submit(
        &mut self,
        output: OutputKind,
        tables: &Tables,
        values: Option<&mut Vec<f32>>,
    ) -> Result<(), RuntimeError> {
        let Some(Prepared { job, capacity, pace, cached }) = self.prepared.get_mut(&output) else { return Ok(()) };
        let (plan, device) = (self.file.plan(), &self.device);
        let rows = tables.ids.len() as u64;
        let kernels = job.kernels_for(plan, rows);
        pipelines::build(device, plan, &kernels, &mut self.pipelines, &mut |_| ()).await?;
        let pool = pool::rows(&self.pools);
        let extent = |rows| match room::extent(plan, rows, pool) {
            _ if !*cached => Extent::whole(rows),
            usual => Extent {
                sequences: tables.sequences.len().next_power_of_two() as u64,
                pages: usual.pages.max(tables.pages.len().next_power_of_two() as u64),
                ..usual
            },
        };
        let fitting = self.arenas.remove(&output).filter(|arena| arena.extent.covers(&extent(rows)));
        let mut arena = match fitting {
            Some(arena) => arena,
            None => {
                // One token after the other may need both; anything else would hold memory for nothing.
                let pair = |kind: &OutputKind| matches!(kind, OutputKind::Next | OutputKind::Candidates);
                self.arenas.retain(|kind, _| pair(kind) && pair(&output));
                // Sizes double, so that growing texts don't allocate each time.
                let rows = rows.next_power_of_two().min(*capacity).max(rows);
                Arena::new(device, plan, job, extent(rows)).await?
            }
        };
        let resident = Resident { weights: &self.weights, pools: &self.pools, pipelines: &self.pipelines };
        arena.bind(device, plan, job, job.position(plan, rows), resident).await?;
        let ready = Ready { device, plan, job, pipelines: &self.pipelines, arena: &arena };
        let submission = ready.submit(tables, self.options.clock, values).await?;
        // Few rows on top of many cached ones say nothing about many rows.
        if !*cached || rows >= pace.rows() / 2 {
            pace.learn(rows, submission.seconds);
        }
        self.submissions.push(submission);
        self.arenas.insert(output, arena);
        Ok(())
    }

    fn check<S: AsRef<[u32]>>(&self, output: OutputKind, sequences: &[S]) -> Result<(), RuntimeError> {
        let model = &self.plan().model;
        let positions = u64::from(model.max_positions);
        let capacity = self.prepared.get(&output).map_or(0, |p| p.capacity);
        let cached = self.prepared.get(&output).is_some_and(|p| p.cached);
        let (limit, why) = match (cached, capacity < positions) {
            (true, _) => self.context_limit(),
            (false, true) => (capacity, "the device's buffers hold no more"),
            (false, false) => (positions, "the model has no more positions"),
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

    /// A buffer between the kernels of an output that ran last.
    pub(super) fn arena_buffer(&self, output: OutputKind, index: usize) -> Option<&wgpu::Buffer> {
        self.arenas.get(&output)?.buffer(index)
    }

    pub(crate) fn prepared(&self, output: OutputKind) -> Option<&Prepared> {
        self.prepared.get(&output)
    }

    pub(crate) fn width(&self, output: OutputKind) -> usize {
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

    /// When each step of the last call that ran took place, if [`Options::clock`] says that steps are measured.
    pub fn timed_steps(&self) -> impl Iterator<Item = TimedStep> {
        self.submissions.iter().enumerate().flat_map(|(at, submission)| {
            let steps = self.plan().programs.get(submission.program).map_or(&[][..], |program| &program.steps);
            steps.iter().zip(&submission.steps).enumerate().map(move |(step, (dispatch, &time))| TimedStep {
                submission: at,
                program: submission.program,
                step,
                kernel: dispatch.kernel,
                layer: dispatch.layer,
                time,
            })
        })
    }

    /// Chooses whether and how the steps of the next calls are measured.
    ///
    /// # Errors
    /// [`RuntimeError::NoClock`] if the device has no such clock. A clock that contradicts itself or the wall clock is an
    /// error ([`RuntimeError::Clock`]) of the call that it measures; [`StepClock::Waits`] works then, too.
    pub fn set_clock(&mut self, clock: Option<StepClock>) -> Result<(), RuntimeError> {
        clock.map_or(Ok(()), |clock| self.device.check_clock(clock))?;
        self.options.clock = clock;
        Ok(())
    }

    /// The program that runs steps of `rows` rows for an output; `None` until the output is ready.
    pub fn program(&self, output: OutputKind, rows: u64) -> Option<&Program> {
        Some(self.prepared.get(&output)?.job.program(self.plan(), rows))
    }

    /// Bytes on the device for steps of up to `rows` rows, with the cache as it is; `None` until the output is ready.
    pub fn account(&self, output: OutputKind, rows: u64) -> Option<Account> {
        let Prepared { job, cached, .. } = self.prepared.get(&output)?;
        let pool = pool::rows(&self.pools);
        let extent = if *cached { room::extent(self.plan(), rows, pool) } else { Extent::whole(rows) };
        Some(Account::new(self.plan(), job, &self.weights.keys().copied().collect(), extent))
    }
}
