//! `compile-model run`

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use warpweft_plan::{OutputKind, Plan};
use warpweft_runtime::{Engine, Finish, Generation, Options, Sampling, Session, block_on};

use crate::CliError;
use crate::args::RunOptions;
use crate::console::Console;
use crate::interrupt::{self, Section};
use crate::load::{adapter_and_plan, open_on};
use crate::progress::Unit;
use crate::texts::{Ids, parse_ids, read};

/// Continue a text with a language model.
///
/// The text appears as it is written. Without a temperature the most likely token is taken each time.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  compile-model run rustdoc-lm --prompt \"# Error code E0382\"
  compile-model run llama.weft --prompt-file story.txt --temperature 0.8 --top-p 0.95 --seed 7
  echo \"Once upon a time\" | compile-model run llama.weft - --max-tokens 64
  compile-model run llama.weft --ids 128000,9906 --json | jq .ids")]
pub(crate) struct Run {
    /// A plan, a checkpoint folder, or the name of a model on the Hugging Face Hub.
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// `-` reads the prompt from stdin.
    #[arg(value_name = "-", value_parser = ["-"], conflicts_with_all = ["prompt", "prompt_file", "ids"])]
    stdin: Option<String>,

    /// The text to continue.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["prompt_file", "ids"])]
    prompt: Option<String>,

    /// A file with the text to continue; `-` is stdin.
    #[arg(long, value_name = "FILE", conflicts_with = "ids")]
    prompt_file: Option<PathBuf>,

    /// Token ids to continue: 1,2,3.
    #[arg(long, value_name = "IDS", value_parser = parse_ids)]
    ids: Option<Ids>,

    #[command(flatten)]
    choice: Choice,

    /// Rows (tokens) for which the cache has room at the most; the model's context if that fits.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,

    #[command(flatten)]
    run: RunOptions,
}

/// How the next token is chosen.
#[derive(Clone, Debug, Args)]
pub(crate) struct Choice {
    /// Tokens to write at the most.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 256)]
    max_tokens: usize,

    /// 0 takes the most likely token, 1 draws from the model's distribution.
    #[arg(short, long, value_name = "X", default_value_t = 0.0)]
    temperature: f32,

    /// Draw from the N most likely tokens; 0 is all.
    #[arg(long, value_name = "N", default_value_t = 0)]
    top_k: u32,

    /// Draw from the most likely tokens that together have this probability.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,

    /// Draw from tokens that are at least P times as likely as the most likely one.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    min_p: f32,

    /// Divide the scores of tokens that are in the context by this.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    repetition_penalty: f32,

    /// The same seed gives the same text on the same device.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// A text that ends the answer; may be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,

    /// Write on after the id that ends a text.
    #[arg(long)]
    ignore_eos: bool,
}

impl Choice {
    /// The runtime's options.
    pub(crate) fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            stop: self.stop.clone(),
            max_tokens: self.max_tokens,
            ignore_eos: self.ignore_eos,
            ..Sampling::default()
        }
    }
}

#[derive(Default, Serialize)]
struct Report {
    prompt_ids: Vec<u32>,
    ids: Vec<u32>,
    text: String,
    finish: &'static str,
    seed: u64,
    prompt_tokens_per_s: f64,
    time_to_first_token_s: f64,
    tokens_per_s: f64,
}

pub(crate) fn run(args: &Run, console: &mut Console<'_>) -> Result<(), CliError> {
    let sampling = args.choice.sampling();
    // What cannot be meant is refused before anything is loaded.
    sampling.check()?;
    let prompt = args.prompt()?;
    let options = Options { context: args.context, ..args.run.opened_for(OutputKind::Candidates) };
    let (adapter, plan) = adapter_and_plan(&args.model, &args.run, console)?;
    check_context(args.context, plan.plan())?;
    let mut engine = open_on(&adapter, plan, &options, console)?;
    let ids = match prompt {
        Prompt::Ids(ids) => ids,
        Prompt::Text(text) => engine.encode(&text, true)?,
    };
    if ids.is_empty() {
        return Err(CliError::Failed(
            "the prompt is empty, and the tokenizer adds nothing to it; give some text".into(),
        ));
    }
    let _section = Section::enter();
    let mut session = engine.session()?;
    let report = write(&mut engine, &mut session, &ids, &sampling, console)?;
    if console.json {
        console.print_json(&report)?;
    } else {
        console.print("")?;
        console.note(&format!(
            "{} + {} tokens, {:.1} and {:.1} tokens/s, {}",
            report.prompt_ids.len(),
            report.ids.len(),
            report.prompt_tokens_per_s,
            report.tokens_per_s,
            report.finish
        ));
    }
    interrupt::check()
}

/// Refuses a context that is longer than the model's.
pub(super) fn check_context(wanted: Option<u32>, plan: &Plan) -> Result<(), CliError> {
    let most = plan.model.max_positions;
    match wanted {
        Some(rows) if rows > most => Err(CliError::Failed(format!(
            "--context {rows}: {} has {most} positions, so a context has at most {most} rows",
            plan.model.name
        ))),
        _ => Ok(()),
    }
}

/// Writes the answer, and shows it as it comes unless JSON is wanted.
fn write(
    engine: &mut Engine,
    session: &mut Session,
    ids: &[u32],
    sampling: &Sampling,
    console: &mut Console<'_>,
) -> Result<Report, CliError> {
    let start = Instant::now();
    let mut generation = session.generate_ids(engine, ids, sampling)?;
    let mut report = Report { prompt_ids: ids.to_vec(), seed: generation.seed(), ..Report::default() };
    read_prompt(&mut generation, console)?;
    let prompt_s = start.elapsed().as_secs_f64();
    let mut first_s = prompt_s;
    while let Some(event) = generation.next() {
        let event = event?;
        if report.ids.is_empty() {
            first_s = start.elapsed().as_secs_f64();
        }
        report.ids.push(event.token.id);
        report.text.push_str(&event.text);
        if !console.json {
            console.write(&event.text)?;
        }
        if interrupt::check().is_err() {
            generation.cancel();
        }
    }
    let more = report.ids.len().saturating_sub(1) as f64;
    report.finish = generation.finish().unwrap_or(Finish::Canceled).name();
    report.prompt_tokens_per_s = ids.len() as f64 / prompt_s;
    report.time_to_first_token_s = first_s;
    report.tokens_per_s = if more > 0.0 { more / (start.elapsed().as_secs_f64() - first_s) } else { 0.0 };
    Ok(report)
}

/// Puts the prompt into the cache. Long ones show how far they are.
pub(super) fn read_prompt(generation: &mut Generation<'_>, console: &mut Console<'_>) -> Result<(), CliError> {
    let quiet = console.json;
    let mut bar = console.bar("prompt");
    while let Some((done, total)) = block_on(generation.advance_prompt())? {
        if !quiet && total > done {
            bar.set(done as u64, total as u64, Unit::Items);
        }
        interrupt::check()?;
    }
    Ok(())
}

enum Prompt {
    Ids(Vec<u32>),
    Text(String),
}

impl Run {
    fn prompt(&self) -> Result<Prompt, CliError> {
        let file = self.prompt_file.clone().or(self.stdin.as_ref().map(PathBuf::from));
        match (&self.prompt, file, &self.ids) {
            (Some(text), ..) => Ok(Prompt::Text(text.clone())),
            (_, Some(file), _) => Ok(Prompt::Text(read(&file)?)),
            (.., Some(ids)) => Ok(Prompt::Ids(ids.0.clone())),
            _ => Err(CliError::Usage(
                "nothing to continue: give --prompt TEXT, --prompt-file FILE or --ids 1,2,3".into(),
            )),
        }
    }
}
