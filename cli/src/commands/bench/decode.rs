//! Texts that go on: prompts first, then one token after the other.

use std::time::Instant;

use serde::Serialize;
use warpweft_plan::{OutputKind, PAGE_ROWS};
use warpweft_runtime::{Account, Adapter, Done, Engine, Options, RuntimeError, Scheduler, Session, block_on};

use super::{Bench, KernelTime, kernel_table, kernel_times, measure_steps, median, random_ids};
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
    console: &mut Console<'_>,
) -> Result<(), CliError> {
    let shape = Shape {
        prompt: args.prompt_tokens.unwrap_or(SHAPE.0),
        new: args.new_tokens.unwrap_or(SHAPE.1),
        sessions: args.sessions.unwrap_or(SHAPE.2),
        repeat: args.repeat.unwrap_or(RUNS.0),
        warmup: args.warmup.unwrap_or(RUNS.1),
    };
    let BenchPlan { plan, file, random } = source;
    let context = shape.context(plan.plan().model.max_positions)?;
    let options = Options {
        output: Some(OutputKind::Candidates),
        memory: args.run.memory,
        context: Some(context),
        ..Options::default()
    };
    let start = Instant::now();
    let mut engine = open_on(adapter, plan, &options, console)?;
    measure_steps(&mut engine, args.steps, console)?;
    let open_s = start.elapsed().as_secs_f64();
    let prompts = random_ids(shape.sessions, shape.prompt, engine.plan().model.vocab_size);
    let mut rounds = Vec::new();
    let mut bar = console.bar("runs");
    for round in 0..shape.warmup + shape.repeat {
        let found = measure(&mut engine, &prompts, shape.new)?;
        if round >= shape.warmup {
            rounds.push(found);
        }
        bar.set((round + 1).into(), (shape.warmup + shape.repeat).into(), Unit::Items);
    }
    drop(bar);
    let mut report = report(&shape, &engine, &rounds);
    (report.open_s, report.random_weights) = (open_s, random);
    // Where the CPU does the work, the buffers that are copied would count too.
    report.peak_process_bytes = process::peak_bytes();
    let copied = match block_on(engine.device().copy_rate(COPIED)) {
        Ok(rate) => Some(rate / 1e9),
        Err(RuntimeError::OutOfMemory { .. }) => None,
        Err(other) => return Err(other.into()),
    };
    report.copy_gb_per_s = copied;
    report.copy_share = copied.map(|rate| report.gb_per_s / rate);
    // The plan's file may go only when nothing reads from it anymore.
    drop(engine);
    drop(file);
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

/// Prompts into the cache, then `new` tokens after the first one, for all sessions side by side.
fn measure(engine: &mut Engine, prompts: &[Vec<u32>], new: u32) -> Result<Round, CliError> {
    let mut queue = Scheduler::new();
    let start = Instant::now();
    for ids in prompts {
        submit(&mut queue, engine, engine.session()?, ids.clone())?;
    }
    let (mut first, mut ready) = (None, Vec::new());
    while !queue.is_empty() {
        interrupt::check()?;
        ready.extend(block_on(queue.step(engine))?);
        if !ready.is_empty() {
            first.get_or_insert(start.elapsed().as_secs_f64());
        }
    }
    let prompts = start.elapsed().as_secs_f64();
    let mut steps = Vec::new();
    for _ in 0..new {
        interrupt::check()?;
        let step = Instant::now();
        for Done { session, result, .. } in std::mem::take(&mut ready) {
            let id = result?.ids.first().copied().unwrap_or(0);
            submit(&mut queue, engine, session, vec![id])?;
        }
        while !queue.is_empty() {
            ready.extend(block_on(queue.step(engine))?);
        }
        steps.push(step.elapsed().as_secs_f64());
    }
    for done in ready {
        done.result?;
    }
    Ok(Round { first: first.unwrap_or(prompts), prompts, steps })
}

fn submit(queue: &mut Scheduler, engine: &Engine, session: Session, ids: Vec<u32>) -> Result<(), CliError> {
    queue.submit(engine, session, ids).map(|_| ()).map_err(|refused| CliError::Runtime(refused.error))
}

fn report(shape: &Shape, engine: &Engine, rounds: &[Round]) -> Report {
    let (plan, adapter) = (engine.plan(), &engine.device().adapter);
    let sorted = |values: Vec<f64>| {
        let mut values = values;
        values.sort_by(f64::total_cmp);
        values
    };
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
