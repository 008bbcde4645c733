//! `compile-model bench`

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use warpweft_plan::{OutputKind, Sizes};
use warpweft_runtime::{Engine, Options, block_on};

use crate::CliError;
use crate::args::RunOptions;
use crate::console::Console;
use crate::cpu;
use crate::load::open_with;
use crate::report::Table;
use crate::work::{self, Flops};
use crate::{interrupt, units};

/// Measure how fast a model runs.
///
/// Runs a batch of random token ids, all sequences of the same length, and measures each run from the ids in memory to the
/// results in memory. Bytes and floating-point operations are those that the program's steps need at the least.
/// Where the CPU does the work, its own f32 matrix rate is measured in the same process, with the `gemm` crate on all
/// cores, and the model's rate is given as a share of it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  compile-model bench minilm.weft
  compile-model bench minilm.weft --batch 1 --tokens 16 --repeat 50
  compile-model bench minilm.weft --steps
  compile-model bench minilm.weft --json | jq .sequences_per_s")]
pub(crate) struct Bench {
    /// A plan, or a checkpoint folder.
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// Sequences in a run.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,

    /// Tokens of each sequence; at most as many as the model has positions.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    tokens: u32,

    /// Runs that are measured.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    repeat: u32,

    /// Runs before those, in which drivers do what they put off and step sizes settle.
    #[arg(long, value_name = "N", default_value_t = 2)]
    warmup: u32,

    /// What is computed.
    #[arg(long, value_name = "OUTPUT", default_value = "embedding", value_parser = ["embedding", "hidden", "logits"])]
    output: String,

    /// Show the device time of each kernel, from one more run in which every dispatch is measured by itself.
    #[arg(long)]
    steps: bool,

    #[command(flatten)]
    run: RunOptions,
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
}

#[derive(Serialize)]
struct KernelTime {
    kernel: String,
    dispatches: usize,
    ms: f64,
    share: f64,
}

pub(crate) fn run(args: &Bench, console: &mut Console<'_>) -> Result<(), CliError> {
    let kind = OutputKind::ALL.into_iter().find(|kind| kind.name() == args.output).unwrap_or(OutputKind::Embedding);
    let options = Options { output: Some(kind), memory: args.run.memory, profile: args.steps, ..Options::default() };
    let start = Instant::now();
    let mut engine = open_with(&args.model, &args.run, &options, console)?;
    let open_s = start.elapsed().as_secs_f64();
    let ids = random_ids(args, engine.plan().model.vocab_size);
    let mut times = Vec::new();
    let mut first_ms = 0.0;
    let mut bar = console.bar("runs");
    for round in 0..args.warmup + args.repeat {
        interrupt::check()?;
        let start = Instant::now();
        block_on(engine.run(kind, &ids))?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        if round == 0 {
            first_ms = ms;
        }
        if round >= args.warmup {
            times.push(ms);
        }
        bar.set((round + 1).into(), (args.warmup + args.repeat).into(), crate::progress::Unit::Items);
    }
    drop(bar);
    times.sort_by(f64::total_cmp);
    let cpu_gflop_per_s = engine.device().adapter.is_software().then(cpu::gflop_per_s);
    let timing = Timing { open_s, first_ms, times, cpu_gflop_per_s };
    let report = report(args, &engine, kind, &timing);
    if console.json { console.print_json(&report) } else { console.print(&table(&report)) }
}

/// What the clock said; times of runs in rising order.
struct Timing {
    open_s: f64,
    first_ms: f64,
    times: Vec<f64>,
    cpu_gflop_per_s: Option<f64>,
}

fn report(args: &Bench, engine: &Engine, kind: OutputKind, timing: &Timing) -> Report {
    let plan = engine.plan();
    let adapter = &engine.device().adapter;
    let flops_of = Flops::new(plan);
    let (mut flops, mut bytes, mut dispatches) = (0.0, 0, 0);
    for submission in engine.submissions() {
        let sizes = Sizes { tokens: submission.rows, context: args.tokens.into(), sequences: submission.sequences };
        if let Some(program) = plan.programs.get(submission.program) {
            flops += flops_of.of(program, sizes);
            bytes += work::bytes(program, sizes);
            dispatches += program.steps.len();
        }
    }
    let times = &timing.times;
    let at = |index: usize| times.get(index).copied().unwrap_or(f64::NAN);
    let median_ms = (at(times.len().saturating_sub(1) / 2) + at(times.len() / 2)) / 2.0;
    let per_second = |n: f64| n / (median_ms / 1e3);
    let gflop_per_s = per_second(flops / 1e9);
    Report {
        model: plan.model.name.clone(),
        adapter: adapter.name.clone(),
        driver: adapter.driver.clone(),
        target: engine.program(kind, 1).map_or(String::new(), |program| program.target.clone()),
        output: kind.name().to_owned(),
        batch: args.batch,
        tokens: args.tokens,
        repeat: args.repeat,
        open_s: timing.open_s,
        first_ms: timing.first_ms,
        median_ms,
        min_ms: at(0),
        max_ms: at(times.len().saturating_sub(1)),
        sequences_per_s: per_second(args.batch.into()),
        rows_per_s: per_second(f64::from(args.batch) * f64::from(args.tokens)),
        gflop_per_s,
        gb_per_s: per_second(bytes as f64 / 1e9),
        submissions: engine.submissions().len(),
        dispatches,
        cpu_gflop_per_s: timing.cpu_gflop_per_s,
        cpu_share: timing.cpu_gflop_per_s.map(|cpu| gflop_per_s / cpu),
        kernels: kernel_times(engine),
    }
}

/// Where the time went, the most expensive kernel first.
fn kernel_times(engine: &Engine) -> Vec<KernelTime> {
    let plan = engine.plan();
    let mut seconds = vec![(0, 0.0); plan.kernels.len()];
    for submission in engine.submissions() {
        let Some(program) = plan.programs.get(submission.program) else { continue };
        for (step, time) in program.steps.iter().zip(&submission.steps) {
            let (dispatches, sum) = &mut seconds[step.kernel];
            *dispatches += 1;
            *sum += time;
        }
    }
    let total: f64 = seconds.iter().map(|(_, sum)| sum).sum();
    let used = plan.kernels.iter().zip(seconds).filter(|(_, (dispatches, _))| *dispatches > 0);
    let mut times: Vec<KernelTime> = used
        .map(|(kernel, (dispatches, sum))| KernelTime {
            kernel: kernel.name.clone(),
            dispatches,
            ms: sum * 1e3,
            share: sum / total,
        })
        .collect();
    times.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    times
}

/// Ids that are all different from run to run of a model but the same from process to process.
fn random_ids(args: &Bench, vocab_size: u32) -> Vec<Vec<u32>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 32) % u64::from(vocab_size.max(1))) as u32
    };
    (0..args.batch).map(|_| (0..args.tokens).map(|_| next()).collect()).collect()
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
    text.push_str(table.text().trim_start());
    if !report.kernels.is_empty() {
        let mut table = Table::new(&["kernel", ">dispatches", ">ms", ">share"]);
        for kernel in &report.kernels {
            let share = format!("{:.1} %", kernel.share * 100.0);
            table.row([kernel.kernel.clone(), kernel.dispatches.to_string(), format!("{:.3}", kernel.ms), share]);
        }
        text.push_str("\n\n");
        text.push_str(&table.text());
    }
    text
}
