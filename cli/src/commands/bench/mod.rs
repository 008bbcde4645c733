//! `compile-model bench`

mod batch;
mod decode;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use warpweft_plan::{OutputKind, Plan};
use warpweft_runtime::{Engine, block_on, choose};

use crate::CliError;
use crate::args::RunOptions;
use crate::clock;
use crate::console::Console;
use crate::load::bench_plan;
use crate::report::Table;

/// Measure how fast a model runs.
///
/// A model that writes text reads prompts of random ids and goes on from them: tokens per second of the prompt and of the
/// answer, the time to the first token, what one token moves and dispatches, and the share of the adapter's copy bandwidth
/// that this is, measured in the same run.
///
/// An encoder runs a batch of random ids, all sequences of the same length, from the ids in memory to the results in
/// memory. Bytes and floating-point operations are those that the program's steps need at the least. Where the CPU does
/// the work, its own f32 matrix rate is measured in the same process, with the `gemm` crate on all cores, and the model's
/// rate is given as a share of it.
///
/// A folder with a config.json but without weights gets random ones, so that a model can be measured before it is
/// downloaded.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  compile-model bench minilm.weft
  compile-model bench minilm.weft --batch 1 --tokens 16 --repeat 50
  compile-model bench minilm.weft --json | jq .sequences_per_s
  compile-model bench llama.weft --prompt-tokens 512 --new-tokens 64
  compile-model bench llama.weft --sessions 8 --steps
  compile-model bench llama-int4.weft --baseline llama.weft
  compile-model bench folder-with-config-json --json | jq .decode_tokens_per_s")]
pub(crate) struct Bench {
    /// A plan, a checkpoint folder (config.json alone is enough), or the name of a model on the Hugging Face Hub.
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// Tokens of each prompt, for a model that writes text [default: 128]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    prompt_tokens: Option<u32>,

    /// Tokens that are written after the first [default: 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    new_tokens: Option<u32>,

    /// Texts that are written side by side [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    sessions: Option<u32>,

    /// Sequences in a run, for an encoder [default: 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: Option<u32>,

    /// Tokens of each sequence; at most as many as the model has positions [default: 128]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    tokens: Option<u32>,

    /// Runs that are measured [default: 5, or 3 for a model that writes text]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    repeat: Option<u32>,

    /// Runs before those, in which drivers do what they put off and step sizes settle [default: 2, or 1]
    #[arg(long, value_name = "N")]
    warmup: Option<u32>,

    /// Another plan of such a model, or its folder, that does the same in turns with the first: how many times as fast the first
    /// is, in the middle of all pairs of runs (and of tokens), whatever else the machine does
    #[arg(long, value_name = "MODEL")]
    baseline: Option<PathBuf>,

    /// What is computed of a batch; a model that writes text does that if this is not given, all others give embeddings.
    #[arg(long, value_name = "OUTPUT", value_parser = ["embedding", "hidden", "logits"])]
    output: Option<String>,

    /// Show the device time of each kernel: every dispatch is measured by itself.
    #[arg(long)]
    steps: bool,

    #[command(flatten)]
    run: RunOptions,
}

pub(crate) fn run(args: &Bench, console: &mut Console<'_>) -> Result<(), CliError> {
    let adapter = block_on(choose(&args.run.choice()))?;
    // A plan of random weights may lie in a file that goes with this.
    let source = bench_plan(&args.model, &adapter, &args.run.rules, console)?;
    let baseline = args.baseline.as_ref();
    let baseline = baseline.map(|path| bench_plan(path, &adapter, &args.run.rules, console)).transpose()?;
    let writes = writes_text(source.plan.plan());
    if let (Some(path), Some(other)) = (&args.baseline, &baseline)
        && writes_text(other.plan.plan()) != writes
    {
        return Err(CliError::Usage(format!(
            "--baseline {}: only one of the two models writes text, so they have nothing to do in common",
            path.display()
        )));
    }
    let kind = OutputKind::ALL.into_iter().find(|kind| Some(kind.name()) == args.output.as_deref());
    let of_batches = args.batch.map(|_| "--batch").or(args.tokens.map(|_| "--tokens"));
    let of_texts = args.prompt_tokens.map(|_| "--prompt-tokens").or(args.new_tokens.map(|_| "--new-tokens"));
    let of_texts = of_texts.or(args.sessions.map(|_| "--sessions"));
    match (writes, kind, of_batches, of_texts) {
        (true, None, Some(option), _) => Err(CliError::Usage(format!(
            "{option} is for batches, but this model writes text: give --prompt-tokens, --new-tokens, --sessions, or \
             --output hidden or logits to measure batches of it"
        ))),
        (true, None, None, _) => decode::run(args, &adapter, source, baseline, console),
        (_, _, _, Some(option)) => Err(CliError::Usage(format!(
            "{option} is for models that write text; this measures batches: give --batch and --tokens"
        ))),
        (_, kind, _, None) => {
            let kind = kind.unwrap_or(OutputKind::Embedding);
            batch::run(args, kind, &adapter, source.plan, baseline.map(|other| other.plan), console)
        }
    }
}

fn writes_text(plan: &Plan) -> bool {
    plan.programs.iter().any(|program| program.output.kind == OutputKind::Candidates)
}

/// Lets the engine measure its steps if they are asked for.
fn measure_steps(engine: &mut Engine, wanted: bool, console: &mut Console<'_>) -> Result<(), CliError> {
    if wanted {
        let clock = clock::choose(engine.device(), console)?;
        engine.set_clock(Some(clock))?;
    }
    Ok(())
}

#[derive(Serialize)]
struct KernelTime {
    kernel: String,
    dispatches: usize,
    ms: f64,
    share: f64,
}

/// Where the time went, the most expensive kernel first.
fn kernel_times(engine: &Engine) -> Vec<KernelTime> {
    let plan = engine.plan();
    let mut seconds = vec![(0, 0.0); plan.kernels.len()];
    for step in engine.timed_steps() {
        let (dispatches, sum) = &mut seconds[step.kernel];
        *dispatches += 1;
        *sum += step.time.seconds;
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

/// The kernels' times as a table below another; nothing if none were measured.
fn kernel_table(kernels: &[KernelTime]) -> String {
    if kernels.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["kernel", ">dispatches", ">ms", ">share"]);
    for kernel in kernels {
        let share = format!("{:.1} %", kernel.share * 100.0);
        table.row([kernel.kernel.clone(), kernel.dispatches.to_string(), format!("{:.3}", kernel.ms), share]);
    }
    format!("\n\n{}", table.text())
}

/// `sequences` times `tokens` ids that differ from each other but not from process to process.
pub(crate) fn random_ids(sequences: u32, tokens: u32, vocab_size: u32) -> Vec<Vec<u32>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 32) % u64::from(vocab_size.max(1))) as u32
    };
    (0..sequences).map(|_| (0..tokens).map(|_| next()).collect()).collect()
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// How many times as fast as `others` the `own` are, in the middle of the pairs.
fn ratio(own: &[f64], others: &[f64]) -> f64 {
    median(&sorted(own.iter().zip(others).map(|(own, other)| other / own).collect()))
}

/// The value in the middle of values in rising order; NaN if there are none.
fn median(sorted: &[f64]) -> f64 {
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    (at(sorted.len().saturating_sub(1) / 2) + at(sorted.len() / 2)) / 2.0
}
