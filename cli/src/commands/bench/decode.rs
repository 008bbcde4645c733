//! Texts that go on: prompts first, then one token after the other.

use std::time::Instant;

use serde::Serialize;
use warpweft_plan::{OutputKind, PAGE_ROWS};
use warpweft_runtime::{Account, Adapter, Done, Engine, Options, RuntimeError, Scheduler, Session, block_on};

use super::{Bench, KernelTime, kernel_table, kernel_times, measure_steps, median, random_ids, ratio, sorted};
use crate::CliError;
use crate::console::Console;
use crate::load::{BenchPlan, open_on};
use crate::progress::Unit;
use crate::report::Table;
use crate::work::{self, Traffic};
use crate::{interrupt, process, units};

/// Tokens of a prompt, tokens after the first, and texts, unless the arguments say otherwise.
const SHAPE: (u32, u32, u32) = (128, 32, 1);
/// Runs that are measured, and those before.
const RUNS: (u32, u32) = (3, 1);
/// Bytes of the buffer whose copying is measured: more than the caches of GPUs and, where the CPU does the work, of CPUs.
const COPIED: u64 = 256 << 20;

/// What is measured.
struct Shape {
    prompt: u32,
    new: u32,
    sessions: u32,
    repeat: u32,
    warmup: u32,
}

/// What the clock said of one run, in seconds.
struct Round {
    first: f64,
    prompts: f64,
    /// Of each step after the prompts.
    steps: Vec<f64>,
}

#[derive(Serialize)]
struct Report {
    model: String,
    adapter: String,
    driver: String,
    target: String,
    random_weights: bool,
    prompt_tokens: u32,
    new_tokens: u32,
    sessions: u32,
    repeat: u32,
    open_s: f64,
    /// Of all sessions together.
    prompt_tokens_per_s: f64,
    time_to_first_token_s: f64,
    /// Of all sessions together.
    decode_tokens_per_s: f64,
    step_median_ms: f64,
    step_min_ms: f64,
    step_max_ms: f64,
    /// Weights that a step reads, shared by its tokens.
    weight_bytes_per_token: f64,
    /// Cached rows that a token reads, halfway through the answer.
    cache_bytes_per_token: f64,
    dispatches_per_token: f64,
    gb_per_s: f64,
    /// `None` if the device had no room for the buffers.
    copy_gb_per_s: Option<f64>,
    copy_share: Option<f64>,
    /// Of this process; `None` where the system does not tell.
    peak_process_bytes: Option<u64>,
    device_bytes: DeviceBytes,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kernels: Vec<KernelTime>,
    baseline: Option<Baseline>,
}

/// The same work by another plan, in turns with this one's.
#[derive(Serialize)]
struct Baseline {
    /// As it was given.
    model: String,
    prompt_tokens_per_s: f64,
    decode_tokens_per_s: f64,
    step_min_ms: f64,
    /// How many times as fast as the baseline this plan is, in the middle of all pairs of runs and of steps.
    prompt_ratio: f64,
    decode_ratio: f64,
}

#[derive(Serialize)]
struct DeviceBytes {
    weights: u64,
    cache: u64,
    activations: u64,
    transfers: u64,
    total: u64,
}

impl From<Account> for DeviceBytes {
    fn from(account: Account) -> DeviceBytes {
        let Account { weights, activations, transfers, cache } = account;
        DeviceBytes { weights, cache, activations, transfers, total: account.total() }
    }
}

pub(super) fn run(
    args: &Bench,
    adapter: &Adapter,
    source: BenchPlan,
    baseline: Option<BenchPlan>,
    console: &mut Console<'_>,
) -> Result<(), CliError> {
    let shape = Shape {
        prompt: args.prompt_tokens.unwrap_or(SHAPE.0),
        new: args.new_tokens.unwrap_or(SHAPE.1),
        sessions: args.sessions.unwrap_or(SHAPE.2),
        repeat: args.repeat.unwrap_or(RUNS.0),
        warmup: args.warmup.unwrap_or(RUNS.1),
    };
    let (mut texts, mut files, mut open_s, mut random) = (Vec::new(), Vec::new(), 0.0, false);
    for (index, BenchPlan { plan, file, random: weights }) in [source].into_iter().chain(baseline).enumerate() {
        let context = shape.context(plan.plan().model.max_positions)?;
        let options = Options { context: Some(context), ..args.run.opened_for(OutputKind::Candidates) };
        let start = Instant::now();
        let mut engine = open_on(adapter, plan, &options, console)?;
        if index == 0 {
            measure_steps(&mut engine, args.steps, console)?;
            (open_s, random) = (start.elapsed().as_secs_f64(), weights);
        }
        texts.push(Texts::new(engine, &shape));
        files.push(file);
    }
    let mut rounds: Vec<Vec<Round>> = texts.iter().map(|_| Vec::new()).collect();
    let mut bar = console.bar("runs");
    for round in 0..shape.warmup + shape.repeat {
        let found = in_turns(&mut texts, shape.new)?;
        if round >= shape.warmup {
            rounds.iter_mut().zip(found).for_each(|(rounds, found)| rounds.push(found));
        }
        bar.set((round + 1).into(), (shape.warmup + shape.repeat).into(), Unit::Items);
    }
    drop(bar);
    // Where the CPU does the work, the buffers that are copied below would count too.
    let peak_process_bytes = process::peak_bytes();
    let mut reports = texts.iter().zip(&rounds).map(|(texts, rounds)| report(&shape, &texts.engine, rounds));
    let (Some(mut report), baseline) = (reports.next(), reports.next()) else { return Ok(()) };
    (report.open_s, report.random_weights, report.peak_process_bytes) = (open_s, random, peak_process_bytes);
    if let (Some(baseline), Some(path), [own, others]) = (baseline, &args.baseline, &rounds[..]) {
        let steps = |rounds: &[Round]| rounds.iter().flat_map(|round| round.steps.clone()).collect::<Vec<_>>();
        let prompts = |rounds: &[Round]| rounds.iter().map(|round| round.prompts).collect::<Vec<_>>();
        report.baseline = Some(Baseline {
            model: path.display().to_string(),
            prompt_tokens_per_s: baseline.prompt_tokens_per_s,
            decode_tokens_per_s: baseline.decode_tokens_per_s,
            step_min_ms: baseline.step_min_ms,
            prompt_ratio: ratio(&prompts(own), &prompts(others)),
            decode_ratio: ratio(&steps(own), &steps(others)),
        });
    }
    let Some(engine) = texts.first().map(|texts| &texts.engine) else { return Ok(()) };
    let copied = match block_on(engine.device().copy_rate(COPIED)) {
        Ok(rate) => Some(rate / 1e9),
        Err(RuntimeError::OutOfMemory { .. }) => None,
        Err(other) => return Err(other.into()),
    };
    report.copy_gb_per_s = copied;
    report.copy_share = copied.map(|rate| report.gb_per_s / rate);
    // The plans' files may go only when nothing reads from them anymore.
    drop(texts);
    drop(files);
    if console.json { console.print_json(&report) } else { console.print(&table(&report)) }
}

impl Shape {
    /// Rows of the cache that all sessions need together.
    fn context(&self, max_positions: u32) -> Result<u32, CliError> {
        let rows = u64::from(self.prompt) + u64::from(self.new);
        if rows > u64::from(max_positions) {
            return Err(CliError::Failed(format!(
                "{} prompt tokens and {} new ones are {rows} rows, but the model has {max_positions} positions; give \
                 smaller --prompt-tokens or --new-tokens",
                self.prompt, self.new
            )));
        }
        let all = rows.next_multiple_of(PAGE_ROWS) * u64::from(self.sessions);
        u32::try_from(all).map_err(|_| CliError::Failed(format!("{all} rows are more than a cache can have")))
    }
}

/// Texts that one engine writes, side by side.
struct Texts {
    engine: Engine,
    prompts: Vec<Vec<u32>>,
    queue: Scheduler,
    /// Sessions whose next id is known.
    ready: Vec<Done>,
}

impl Texts {
    fn new(engine: Engine, shape: &Shape) -> Texts {
        let prompts = random_ids(shape.sessions, shape.prompt, engine.plan().model.vocab_size);
        Texts { engine, prompts, queue: Scheduler::new(), ready: Vec::new() }
    }

    /// Prompts into the cache of new sessions.
    fn begin(&mut self) -> Result<Round, CliError> {
        let start = Instant::now();
        for ids in self.prompts.clone() {
            let session = self.engine.session()?;
            self.submit(session, ids)?;
        }
        let mut first = None;
        while !self.queue.is_empty() {
            interrupt::check()?;
            self.ready.extend(block_on(self.queue.step(&mut self.engine))?);
            if !self.ready.is_empty() {
                first.get_or_insert(start.elapsed().as_secs_f64());
            }
        }
        let prompts = start.elapsed().as_secs_f64();
        Ok(Round { first: first.unwrap_or(prompts), prompts, steps: Vec::new() })
    }

    /// One more token for every session; the seconds that took.
    fn step(&mut self) -> Result<f64, CliError> {
        interrupt::check()?;
        let start = Instant::now();
        for Done { session, result, .. } in std::mem::take(&mut self.ready) {
            let id = result?.ids.first().copied().unwrap_or(0);
            self.submit(session, vec![id])?;
        }
        while !self.queue.is_empty() {
            self.ready.extend(block_on(self.queue.step(&mut self.engine))?);
        }
        Ok(start.elapsed().as_secs_f64())
    }

    fn end(&mut self) -> Result<(), CliError> {
        for done in self.ready.drain(..) {
            done.result?;
        }
        Ok(())
    }

    fn submit(&mut self, session: Session, ids: Vec<u32>) -> Result<(), CliError> {
        let queued = self.queue.submit(&self.engine, session, ids);
        queued.map(|_| ()).map_err(|refused| CliError::Runtime(refused.error))
    }
}

/// Prompts and `new` tokens after the first one, by each engine in its turn, one step at a time: what else the machine does
/// then falls upon all of them.
fn in_turns(texts: &mut [Texts], new: u32) -> Result<Vec<Round>, CliError> {
    let mut rounds = texts.iter_mut().map(Texts::begin).collect::<Result<Vec<Round>, _>>()?;
    for _ in 0..new {
        for (texts, round) in texts.iter_mut().zip(&mut rounds) {
            round.steps.push(texts.step()?);
        }
    }
    texts.iter_mut().try_for_each(Texts::end)?;
    Ok(rounds)
}

fn report(shape: &Shape, engine: &Engine, rounds: &[Round]) -> Report {
    let (plan, adapter) = (engine.plan(), &engine.device().adapter);
    let steps = sorted(rounds.iter().flat_map(|round| round.steps.iter().map(|s| s * 1e3)).collect());
    let prompts = median(&sorted(rounds.iter().map(|round| round.prompts).collect()));
    let step_median_ms = median(&steps);
    let sessions = f64::from(shape.sessions);
    let rows = u64::from(shape.sessions);
    let program = engine.program(OutputKind::Candidates, rows);
    // Halfway through the answer.
    let context = u64::from(shape.prompt) + u64::from(shape.new).div_ceil(2);
    let traffic = program.map_or_else(Traffic::default, |program| work::traffic(plan, program, rows, context));
    Report {
        model: plan.model.name.clone(),
        adapter: adapter.name.clone(),
        driver: adapter.driver.clone(),
        target: program.map_or(String::new(), |program| program.target.clone()),
        random_weights: false,
        prompt_tokens: shape.prompt,
        new_tokens: shape.new,
        sessions: shape.sessions,
        repeat: shape.repeat,
        open_s: 0.0,
        prompt_tokens_per_s: sessions * f64::from(shape.prompt) / prompts,
        time_to_first_token_s: median(&sorted(rounds.iter().map(|round| round.first).collect())),
        decode_tokens_per_s: sessions * 1e3 / step_median_ms,
        step_median_ms,
        step_min_ms: steps.first().copied().unwrap_or(f64::NAN),
        step_max_ms: steps.last().copied().unwrap_or(f64::NAN),
        weight_bytes_per_token: traffic.weights as f64 / sessions,
        cache_bytes_per_token: traffic.cache as f64 / sessions,
        dispatches_per_token: traffic.dispatches as f64 / sessions,
        gb_per_s: (traffic.weights + traffic.cache) as f64 / 1e6 / step_median_ms,
        copy_gb_per_s: None,
        copy_share: None,
        peak_process_bytes: None,
        device_bytes: engine.held().into(),
        kernels: kernel_times(engine),
        baseline: None,
    }
}

fn table(report: &Report) -> String {
    let Report { prompt_tokens, new_tokens, sessions, device_bytes: device, .. } = report;
    let (number, bytes) = (units::significant, |n: f64| units::bytes(n as u64));
    let weights = if report.random_weights { ", random weights" } else { "" };
    let mut text = format!(
        "{}{weights}, {sessions} × {prompt_tokens} + {new_tokens} tokens on {} ({}), {}\n\n",
        report.model, report.adapter, report.driver, report.target
    );
    let mut table = Table::new(&["", ">", ""]);
    let first = format!("the first token after {}", units::seconds(report.time_to_first_token_s));
    table.row(["prompt tokens/s".into(), number(report.prompt_tokens_per_s), first]);
    let spread = format!(
        "a step takes {}, {} to {} in {} runs",
        units::seconds(report.step_median_ms / 1e3),
        units::seconds(report.step_min_ms / 1e3),
        units::seconds(report.step_max_ms / 1e3),
        report.repeat
    );
    table.row(["decode tokens/s".into(), number(report.decode_tokens_per_s), spread]);
    let moved = format!(
        "per token {} of weights and {} of cache in {} dispatches",
        bytes(report.weight_bytes_per_token),
        bytes(report.cache_bytes_per_token),
        number(report.dispatches_per_token)
    );
    table.row(["GB/s".into(), number(report.gb_per_s), moved]);
    let share = match (report.copy_gb_per_s, report.copy_share) {
        (Some(copy), Some(share)) => {
            let share = number(share * 100.0);
            [number(copy), format!("what copying a buffer reaches, read and written; decoding has {share} % of it")]
        }
        _ => ["–".into(), "no room on the device to measure how fast it copies".into()],
    };
    table.row([vec!["copy GB/s".to_owned()], share.into()].concat());
    let parts = format!(
        "weights {}, cache {}, activations {}, inputs and outputs {}",
        units::bytes(device.weights),
        units::bytes(device.cache),
        units::bytes(device.activations),
        units::bytes(device.transfers)
    );
    table.row(["device memory".into(), units::bytes(device.total), parts]);
    let peak = report.peak_process_bytes.map_or("–".into(), units::bytes);
    table.row(["process".into(), peak, "resident at its peak".into()]);
    table.row(["open".into(), units::seconds(report.open_s), "device, kernels, weights".into()]);
    if let Some(baseline) = &report.baseline {
        for (what, rate, ratio) in [
            ("baseline prompt", baseline.prompt_tokens_per_s, baseline.prompt_ratio),
            ("baseline decode", baseline.decode_tokens_per_s, baseline.decode_ratio),
        ] {
            let times = format!("tokens/s of {}; this one is {ratio:.2} times as fast", baseline.model);
            table.row([what.into(), number(rate), times]);
        }
    }
    text.push_str(table.text().trim_start());
    text.push_str(&kernel_table(&report.kernels));
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_context_is_whole_pages_for_each_session() {
        let shape = Shape { prompt: 30, new: 3, sessions: 3, repeat: 1, warmup: 0 };
        assert_eq!(shape.context(33).unwrap(), 192);
        let refused = shape.context(32).unwrap_err().to_string();
        assert!(refused.contains("33 rows") && refused.contains("32 positions"), "{refused}");
    }
}
