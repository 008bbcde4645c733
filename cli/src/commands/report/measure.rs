//! The steps of a plan's programs, measured on an adapter.

use std::collections::BTreeMap;

use serde::Serialize;
use warpweft_plan::{OutputKind, Plan, Sizes};
use warpweft_runtime::{Adapter, Done, Engine, Options, Scheduler, Session, Submission, block_on};

use crate::args::RunOptions;
use crate::commands::bench::random_ids;
use crate::console::Console;
use crate::load::open_on;
use crate::progress::Unit;
use crate::{CliError, clock, cpu, interrupt, load};

/// Rows of the longest step that is measured: enough for the kernels of many rows, and short on a software driver.
const MANY: u32 = 128;
/// Rows of a step for the program of a few.
const FEW: u32 = 16;
/// Rounds that count, and one before them in which drivers do what they put off.
const ROUNDS: u32 = 3;
/// Bytes of the buffers that are copied to learn the bandwidth.
const COPIED: u64 = 256 << 20;

/// What was measured.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    adapter: String,
    driver: String,
    clock: &'static str,
    rates: Rates,
    programs: Vec<MeasuredProgram>,
}

/// How fast the adapter is.
#[derive(Debug, Serialize)]
struct Rates {
    /// Bytes per second.
    bandwidth: f64,
    /// Floating-point operations per second; none where nothing tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    flops: Option<f64>,
}

/// A program as it ran.
#[derive(Debug, Serialize)]
struct MeasuredProgram {
    program: usize,
    #[serde(skip)]
    sizes: Sizes,
    /// Seconds of each step.
    steps: Vec<f64>,
}

impl Measured {
    /// The sizes of the step in which a program was measured.
    pub(super) fn sizes(&self, program: usize) -> Option<Sizes> {
        self.programs.iter().find(|p| p.program == program).map(|p| p.sizes)
    }
}

/// Runs the plan on the adapter, a step for each range of rows, and measures all dispatches.
///
/// # Errors
/// Trouble with the device.
pub(super) fn measure(
    adapter: &Adapter,
    path: &std::path::Path,
    run: &RunOptions,
    console: &mut Console<'_>,
) -> Result<Measured, CliError> {
    let file = load::open_plan(path)?;
    let output = wanted(file.plan());
    let context = Some(4 * MANY.min(file.plan().model.max_positions));
    let options = Options { context, ..run.opened_for(output) };
    let mut engine = open_on(adapter, file, &options, console)?;
    let clock = clock::choose(engine.device(), console)?;
    engine.set_clock(Some(clock))?;
    let mut found = Found::default();
    let mut bar = console.bar("measuring");
    for round in 0..=ROUNDS {
        found.counts = round > 0;
        match output {
            OutputKind::Candidates => sessions(&mut engine, &mut found)?,
            OutputKind::Hidden | OutputKind::Embedding | OutputKind::Logits | OutputKind::Next => {
                batches(&mut engine, output, &mut found)?;
            }
        }
        bar.set((round + 1).into(), (ROUNDS + 1).into(), Unit::Items);
    }
    drop(bar);
    let bandwidth = block_on(engine.device().copy_rate(COPIED))?;
    let flops = adapter.is_software().then(|| cpu::gflop_per_s() * 1e9);
    let program = |(program, run): (usize, Submission)| MeasuredProgram {
        program,
        sizes: run.sizes(),
        steps: run.steps.iter().map(|time| time.seconds).collect(),
    };
    Ok(Measured {
        adapter: adapter.name.clone(),
        driver: adapter.driver.clone(),
        clock: clock.name(),
        rates: Rates { bandwidth, flops },
        programs: found.best.into_iter().map(program).collect(),
    })
}

/// What a model is for: text, vectors, or what else it computes.
fn wanted(plan: &Plan) -> OutputKind {
    let has = |kind: &OutputKind| plan.programs.iter().any(|p| p.output.kind == *kind);
    let order = [OutputKind::Candidates, OutputKind::Embedding, OutputKind::Hidden];
    order.into_iter().find(has).unwrap_or(OutputKind::Logits)
}

/// The fastest run of each program, of those with the most steps and then the most rows: pieces of a prompt that others
/// follow leave the last steps out.
#[derive(Default)]
struct Found {
    counts: bool,
    best: BTreeMap<usize, Submission>,
}

impl Found {
    fn take(&mut self, engine: &Engine) {
        let extent = |run: &Submission| (run.dispatches, run.rows);
        let total = |run: &Submission| run.steps.iter().map(|time| time.seconds).sum::<f64>();
        for run in engine.submissions().iter().filter(|run| self.counts && !run.steps.is_empty()) {
            let better = |best: &Submission| {
                extent(run) > extent(best) || extent(run) == extent(best) && total(run) < total(best)
            };
            if self.best.get(&run.program).is_none_or(better) {
                self.best.insert(run.program, run.clone());
            }
        }
    }
}

/// A prompt of many rows, one row on top of it, and a prompt of a few rows.
fn sessions(engine: &mut Engine, found: &mut Found) -> Result<(), CliError> {
    let positions = engine.plan().model.max_positions;
    let vocabulary = engine.plan().model.vocab_size;
    let prompt = |tokens: u32| random_ids(1, tokens, vocabulary).concat();
    let session = engine.session()?;
    let session = feed(engine, session, prompt(MANY.min(positions.saturating_sub(1)).max(1)), found)?;
    if positions > 1 {
        feed(engine, session, vec![0], found)?;
    }
    let session = engine.session()?;
    feed(engine, session, prompt(FEW.min(positions)), found)?;
    Ok(())
}

fn feed(engine: &mut Engine, session: Session, ids: Vec<u32>, found: &mut Found) -> Result<Session, CliError> {
    let mut queue = Scheduler::new();
    queue.submit(engine, session, ids).map_err(|refused| CliError::Runtime(refused.error))?;
    loop {
        interrupt::check()?;
        let done = block_on(queue.step(engine))?;
        found.take(engine);
        if let Some(Done { session, result, .. }) = done.into_iter().next() {
            result?;
            return Ok(session);
        }
    }
}

/// Sequences of many rows, of a few, of one.
fn batches(engine: &mut Engine, output: OutputKind, found: &mut Found) -> Result<(), CliError> {
    let plan = engine.plan();
    let (positions, vocabulary) = (plan.model.max_positions, plan.model.vocab_size);
    for rows in [MANY, FEW, 1] {
        interrupt::check()?;
        let ids = random_ids(1, rows.min(positions), vocabulary);
        block_on(engine.run(output, &ids))?;
        found.take(engine);
    }
    Ok(())
}
