//! Batches of sequences through an encoder.

use std::time::Instant;

use serde::Serialize;
use warpweft_plan::{OutputKind, PlanFile, Program, Sizes};
use warpweft_runtime::{Adapter, Engine, block_on};

use super::{Bench, KernelTime, kernel_table, kernel_times, measure_steps, median, random_ids, ratio, sorted};
use crate::CliError;
use crate::console::Console;
use crate::cpu;
use crate::load::open_on;
use crate::report::Table;
use crate::work::{self, Flops};
use crate::{interrupt, units};

/// Sequences of a run, unless the arguments say otherwise.
const BATCH: u32 = 32;
/// Tokens of a sequence.
const TOKENS: u32 = 128;
/// Runs that are measured, and those before.
const RUNS: (u32, u32) = (5, 2);

/// What is measured.
struct Shape {
    batch: u32,
    tokens: u32,
    repeat: u32,
    warmup: u32,
}

#[derive(Serialize)]
struct Report {
    model: String,
    adapter: String,
    driver: String,
    target: String,
    output: String,
    batch: u32,
    tokens: u32,
    repeat: u32,
    open_s: f64,
    first_ms: f64,
    median_ms: f64,
    min_ms: f64,
    max_ms: f64,
    sequences_per_s: f64,
    rows_per_s: f64,
    gflop_per_s: f64,
    gb_per_s: f64,
    submissions: usize,
    dispatches: usize,
    /// What `gemm` reaches on all cores; `None` where the CPU does not do the work.
    cpu_gflop_per_s: Option<f64>,
    cpu_share: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kernels: Vec<KernelTime>,
    baseline: Option<Baseline>,
}

/// The same batches by another plan, in turns with this one's.
#[derive(Serialize)]
struct Baseline {
    /// As it was given.
    model: String,
    median_ms: f64,
    min_ms: f64,
    /// How many times as fast as the baseline this plan is, in the middle of all pairs of runs.
    ratio: f64,
}

pub(super) fn run(
    args: &Bench,
    kind: OutputKind,
    adapter: &Adapter,
    plan: PlanFile,
    baseline: Option<PlanFile>,
    console: &mut Console<'_>,
) -> Result<(), CliError> {
    let shape = Shape {
        batch: args.batch.unwrap_or(BATCH),
        tokens: args.tokens.unwrap_or(TOKENS),
        repeat: args.repeat.unwrap_or(RUNS.0),
        warmup: args.warmup.unwrap_or(RUNS.1),
    };
    let options = args.run.opened_for(kind);
    let start = Instant::now();
    let mut engine = open_on(adapter, plan, &options, console)?;
    measure_steps(&mut engine, args.steps, console)?;
    let open_s = start.elapsed().as_secs_f64();
    let mut engines = vec![engine];
    if let Some(plan) = baseline {
        engines.push(open_on(adapter, plan, &options, console)?);
    }
    let ids = random_ids(shape.batch, shape.tokens, engines[0].plan().model.vocab_size);
    let mut times: Vec<Vec<f64>> = engines.iter().map(|_| Vec::new()).collect();
    let mut first_ms = None;
    let mut bar = console.bar("runs");
    for round in 0..shape.warmup + shape.repeat {
        // In turns: what else the machine does then falls upon all of them.
        for (engine, times) in engines.iter_mut().zip(&mut times) {
            interrupt::check()?;
            let start = Instant::now();
            block_on(engine.run(kind, &ids))?;
            let ms = start.elapsed().as_secs_f64() * 1e3;
            first_ms.get_or_insert(ms);
            if round >= shape.warmup {
                times.push(ms);
            }
        }
        bar.set((round + 1).into(), (shape.warmup + shape.repeat).into(), crate::progress::Unit::Items);
    }
    drop(bar);
    let against = match (&args.baseline, &times[..]) {
        (Some(path), [own, others]) => {
            let ratio = ratio(own, others);
            let others = sorted(others.clone());
            let min_ms = others.first().copied().unwrap_or(f64::NAN);
            Some(Baseline { model: path.display().to_string(), median_ms: median(&others), min_ms, ratio })
        }
        _ => None,
    };
    let (engine, times) = (&engines[0], sorted(times.swap_remove(0)));
    let cpu_gflop_per_s = engine.device().adapter.is_software().then(cpu::gflop_per_s);
    let timing = Timing { open_s, first_ms: first_ms.unwrap_or(f64::NAN), times, cpu_gflop_per_s };
    let mut report = report(&shape, engine, kind, &timing);
    report.baseline = against;
    if console.json { console.print_json(&report) } else { console.print(&table(&report)) }
}

/// What the clock said; times of runs in rising order.
struct Timing {
    open_s: f64,
    first_ms: f64,
    times: Vec<f64>,
    cpu_gflop_per_s: Option<f64>,
}

fn report(shape: &Shape, engine: &Engine, kind: OutputKind, timing: &Timing) -> Report {
    let plan = engine.plan();
    let adapter = &engine.device().adapter;
    let flops_of = Flops::new(plan);
    let (mut flops, mut bytes, mut dispatches) = (0.0, 0, 0);
    for submission in engine.submissions() {
        let sizes = Sizes { tokens: submission.rows, context: shape.tokens.into(), sequences: submission.sequences };
        if let Some(program) = plan.programs.get(submission.program) {
            let steps = program.steps.iter().take(submission.dispatches).cloned().collect();
            let ran = Program { steps, ..program.clone() };
            flops += flops_of.of(&ran, sizes);
            bytes += work::bytes(&ran, sizes);
            dispatches += submission.dispatches;
        }
    }
    let times = &timing.times;
    let at = |index: usize| times.get(index).copied().unwrap_or(f64::NAN);
    let median_ms = median(times);
    let per_second = |n: f64| n / (median_ms / 1e3);
    let gflop_per_s = per_second(flops / 1e9);
    Report {
        model: plan.model.name.clone(),
        adapter: adapter.name.clone(),
        driver: adapter.driver.clone(),
        target: engine.program(kind, 1).map_or(String::new(), |program| program.target.clone()),
        output: kind.name().to_owned(),
        batch: shape.batch,
        tokens: shape.tokens,
        repeat: shape.repeat,
        open_s: timing.open_s,
        first_ms: timing.first_ms,
        median_ms,
        min_ms: at(0),
        max_ms: at(times.len().saturating_sub(1)),
        sequences_per_s: per_second(shape.batch.into()),
        rows_per_s: per_second(f64::from(shape.batch) * f64::from(shape.tokens)),
        gflop_per_s,
        gb_per_s: per_second(bytes as f64 / 1e9),
        submissions: engine.submissions().len(),
        dispatches,
        cpu_gflop_per_s: timing.cpu_gflop_per_s,
        cpu_share: timing.cpu_gflop_per_s.map(|cpu| gflop_per_s / cpu),
        kernels: kernel_times(engine),
        baseline: None,
    }
}

fn table(report: &Report) -> String {
    let Report { batch, tokens, repeat, median_ms, min_ms, max_ms, .. } = report;
    let mut text = format!(
        "{}, {} × {tokens} tokens, {} on {} ({}), {}\n\n",
        report.model, batch, report.output, report.adapter, report.driver, report.target
    );
    let mut table = Table::new(&["", ">", ""]);
    let spread = format!("{min_ms:.2} to {max_ms:.2} in {repeat} runs; the very first took {:.0}", report.first_ms);
    let number = units::significant;
    table.row(["median".into(), format!("{median_ms:.2} ms"), spread]);
    table.row(["sequences/s".into(), number(report.sequences_per_s), String::new()]);
    table.row(["rows/s".into(), number(report.rows_per_s), String::new()]);
    let share = match (report.cpu_gflop_per_s, report.cpu_share) {
        (Some(cpu), Some(share)) => {
            format!("{:.0} % of the {} that the CPU reaches in matrix products", share * 100.0, number(cpu))
        }
        _ => String::new(),
    };
    table.row(["GFLOP/s".into(), number(report.gflop_per_s), share]);
    let work = format!("{} dispatches in {} submissions", report.dispatches, report.submissions);
    table.row(["GB/s".into(), number(report.gb_per_s), work]);
    table.row(["open".into(), units::seconds(report.open_s), "plan, device, kernels, weights".into()]);
    if let Some(Baseline { model, median_ms, ratio, .. }) = &report.baseline {
        let times = format!("the median of {model}; this one is {ratio:.2} times as fast");
        table.row(["baseline".into(), format!("{median_ms:.2} ms"), times]);
    }
    text.push_str(table.text().trim_start());
    text.push_str(&kernel_table(&report.kernels));
    text
}
