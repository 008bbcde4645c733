//! `compile-model profile`

mod runs;
mod table;
mod trace;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use warpweft_compiler::target::{Rates, Target};
use warpweft_plan::{OutputKind, Plan};
use warpweft_runtime::{Engine, StepClock, block_on, choose};

use crate::CliError;
use crate::args::RunOptions;
use crate::clock;
use crate::console::Console;
use crate::files::{self, check_writable};
use crate::load::{bench_plan, open_on};
use crate::texts::{Ids, parse_ids};
use crate::tuned;
use runs::{Phase, Run};
use table::KernelRow;

/// Show where the time of a model goes, kernel by kernel.
///
/// Every dispatch is measured: by the device's own clock where it has one that can be believed, else by waiting for each.
/// A model that writes text reads a prompt and goes on for some tokens; an encoder runs a batch. What is measured has run
/// once before, so that drivers have compiled it.
///
/// Beside its time each kernel has what it needs at the least (floating-point operations, bytes), the share of the roofline
/// that this is, and the time that the compiler predicts: with the rates that `compile-model tune` measured on this adapter,
/// or with those of the target's file. `-o` writes a trace that Perfetto (ui.perfetto.dev) and chrome://tracing open.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  compile-model profile minilm.weft
  compile-model profile minilm.weft --batch 1 --tokens 16 -o trace.json
  compile-model profile llama.weft --prompt \"Once upon a time\" --new-tokens 4
  compile-model profile folder-with-config-json --tokens 512 --json | jq '.phases[].kernels[0]'")]
pub(crate) struct Profile {
    /// A plan, a checkpoint folder (config.json alone is enough), or the name of a model on the Hugging Face Hub.
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// The text to continue, for a model that writes text.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["ids", "text"])]
    prompt: Option<String>,

    /// Token ids in place of text; several times for several sequences of an encoder.
    #[arg(long, value_name = "IDS", value_parser = parse_ids, conflicts_with = "text")]
    ids: Vec<Ids>,

    /// A text for an encoder; may be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    text: Vec<String>,

    /// Without any of these: random ids, so many in a sequence [default: 128]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    tokens: Option<u32>,

    /// Sequences of random ids, for an encoder [default: 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: Option<u32>,

    /// Tokens that are written after the first, for a model that writes text [default: 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    new_tokens: Option<u32>,

    /// Write a trace in the format of Chrome and Perfetto.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    #[command(flatten)]
    run: RunOptions,
}

#[derive(Serialize)]
struct Report<'r> {
    model: &'r str,
    adapter: &'r str,
    driver: &'r str,
    target: &'r str,
    /// `timestamps` or `waits`.
    clock: &'static str,
    /// Whether the rates are measured ones.
    tuned: bool,
    phases: Vec<PhaseReport>,
}

#[derive(Serialize)]
struct PhaseReport {
    phase: &'static str,
    submissions: usize,
    rows: u64,
    /// Wall time, submission and waiting included.
    seconds: f64,
    /// Of the steps.
    device_seconds: f64,
    /// By the rates; `None` where the target is not known.
    predicted_seconds: Option<f64>,
    /// How far predictions are off, in the middle of all kernels: 0.5 is half or one and a half times as long.
    median_error: Option<f64>,
    kernels: Vec<KernelRow>,
}

pub(crate) fn run(args: &Profile, console: &mut Console<'_>) -> Result<(), CliError> {
    args.output.as_deref().map_or(Ok(()), check_writable)?;
    let adapter = block_on(choose(&args.run.choice()))?;
    let source = bench_plan(&args.model, &adapter, &args.run.rules, console)?;
    let writes = source.plan.plan().programs.iter().any(|program| program.output.kind == OutputKind::Candidates);
    args.check(writes)?;
    let output = if writes { OutputKind::Candidates } else { runs::encoder_output(source.plan.plan()) };
    let mut engine = open_on(&adapter, source.plan, &args.run.opened_for(output), console)?;
    let clock = clock::choose(engine.device(), console)?;
    let sequences = args.sequences(&mut engine, writes)?;
    let runs = match writes {
        true => runs::text(&mut engine, &sequences, args.new_tokens.unwrap_or(8), clock, console)?,
        false => runs::batch(&mut engine, &sequences, clock, console)?,
    };
    let plan = engine.plan();
    let target = runs.first().and_then(|run| plan.programs.get(run.submission.program));
    let target = target.map_or("", |program| program.target.as_str());
    let measured = tuned::rates(&adapter);
    let rates = measured.as_ref().or_else(|| Target::named(target).map(|target| &target.rates));
    if let Some(path) = &args.output {
        let trace = trace::trace(plan, &runs, rates);
        let bytes = serde_json::to_vec(&trace).map_err(|e| CliError::Failed(format!("the trace: {e}")))?;
        files::write(path, &bytes)?;
    }
    let report = Report {
        model: &plan.model.name,
        adapter: &adapter.name,
        driver: &adapter.driver,
        target,
        clock: clock.name(),
        tuned: measured.is_some(),
        phases: phases(plan, &runs, rates),
    };
    if console.json {
        return console.print_json(&report);
    }
    console.print(&table::text(&report, clock))?;
    if let Some(path) = &args.output {
        console.note(&format!("wrote {}: open it in ui.perfetto.dev", path.display()));
    }
    Ok(())
}

impl Profile {
    /// Refuses options of the other kind of model.
    fn check(&self, writes: bool) -> Result<(), CliError> {
        let given = |given: bool, name: &'static str| given.then_some(name);
        let foreign = match writes {
            true => given(!self.text.is_empty(), "--text").or(given(self.batch.is_some(), "--batch")),
            false => given(self.prompt.is_some(), "--prompt").or(given(self.new_tokens.is_some(), "--new-tokens")),
        };
        let kinds =
            if writes { ("writes text", "is for encoders") } else { ("is an encoder", "is for those that write") };
        match foreign {
            Some(option) => Err(CliError::Usage(format!("this model {}, and {option} {}", kinds.0, kinds.1))),
            None if writes && self.ids.len() > 1 => {
                Err(CliError::Usage("this model writes text: give --ids once, for one prompt".into()))
            }
            None => Ok(()),
        }
    }

    fn sequences(&self, engine: &mut Engine, writes: bool) -> Result<Vec<Vec<u32>>, CliError> {
        if !self.ids.is_empty() {
            return Ok(self.ids.iter().map(|ids| ids.0.clone()).collect());
        }
        if let Some(prompt) = &self.prompt {
            return Ok(vec![engine.encode(prompt, true)?]);
        }
        if !self.text.is_empty() {
            return Ok(engine.tokenize(&self.text)?);
        }
        let model = &engine.plan().model;
        let batch = if writes { 1 } else { self.batch.unwrap_or(32) };
        // Room for what is written after a prompt.
        let most = model.max_positions.saturating_sub(if writes { self.new_tokens.unwrap_or(8) } else { 0 }).max(1);
        let tokens = match self.tokens {
            Some(tokens) if tokens > most => {
                return Err(CliError::Failed(format!("--tokens {tokens}: {} has room for {most}", model.name)));
            }
            Some(tokens) => tokens,
            None => most.min(128),
        };
        Ok(super::bench::random_ids(batch, tokens, model.vocab_size))
    }
}

fn phases(plan: &Plan, runs: &[Run], rates: Option<&Rates>) -> Vec<PhaseReport> {
    let of = |phase: Phase| {
        let runs: Vec<&Run> = runs.iter().filter(|run| run.phase == phase).collect();
        let kernels = table::rows(plan, &runs, rates);
        let sum = |value: fn(&KernelRow) -> Option<f64>| kernels.iter().map(value).sum::<Option<f64>>();
        PhaseReport {
            phase: phase.name(),
            submissions: runs.len(),
            rows: runs.iter().map(|run| run.submission.rows).sum(),
            seconds: runs.iter().map(|run| run.submission.seconds).sum(),
            device_seconds: sum(|k| Some(k.seconds)).unwrap_or(0.0),
            predicted_seconds: rates.and_then(|_| sum(|k| k.predicted_seconds)),
            median_error: table::median_error(&kernels),
            kernels,
        }
    };
    Phase::ALL.into_iter().map(of).filter(|phase| phase.submissions > 0).collect()
}

/// What a reader of numbers has to know about the clock.
fn clock_note(clock: StepClock) -> &'static str {
    match clock {
        StepClock::Timestamps => "device time by timestamps",
        StepClock::Waits => "each step submitted and waited for",
    }
}
