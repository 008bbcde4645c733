//! `compile-model fit`

mod judge;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use warpweft_compiler::WeightChoice;
use warpweft_compiler::target::Target;
use warpweft_plan::{OutputKind, PAGE_ROWS, Plan};
use warpweft_runtime::{Account, Need, adapters, block_on, need};

use super::build::weight_choices;
use crate::CliError;
use crate::args::RuleOptions;
use crate::console::Console;
use crate::hub;
use crate::load::made_plan;
use crate::report::Table;
use crate::units::{self, parse_bytes};
use judge::{Plans, Verdict, advice, judge};

/// Tell whether a model fits into memory, and what would make it fit.
///
/// Nothing is packed or loaded: a folder with a config.json is enough. The numbers are those by which a model that does not
/// fit is refused when it is opened; drivers take some memory beside them. Exits with 1 if the model fits on no adapter.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  compile-model fit Qwen3-8B
  compile-model fit Qwen3-8B --context 8192 --sessions 4 --memory 24GiB
  compile-model fit folder-with-config-json --weights f16 --json | jq .need.total
  compile-model fit llama.weft")]
pub(crate) struct Fit {
    /// A plan, a checkpoint folder (config.json alone is enough), or the name of a model on the Hugging Face Hub.
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// Tokens of each session; those of the model's context if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    context: Option<u32>,

    /// Sessions that are open at once.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    sessions: u32,

    /// Memory that there is, such as 8GiB; if not given, what the system has available where the CPU does the work. GPUs
    /// don't tell.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory: Option<u64>,

    /// How weights are stored, for a folder: as they are, or converted.
    #[arg(long, value_name = "FORMAT", default_value = "keep", value_parser = weight_choices())]
    weights: WeightChoice,

    #[command(flatten)]
    rules: RuleOptions,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Serialize)]
struct Wish {
    context: u64,
    sessions: u64,
}

impl Wish {
    /// Rows of the cache, in whole pages for each session.
    fn rows(self) -> u64 {
        self.context.next_multiple_of(PAGE_ROWS).saturating_mul(self.sessions)
    }
}

#[derive(Serialize)]
struct Report {
    model: String,
    family: String,
    output: &'static str,
    #[serde(flatten)]
    wish: Wish,
    /// On the adapter that is best off; for the floor if there is no adapter.
    need: Bytes,
    adapters: Vec<Verdict>,
    /// What would make it fit where it does not.
    advice: Vec<String>,
}

#[derive(Clone, Copy, Serialize)]
struct Bytes {
    weights: u64,
    cache: u64,
    /// Of one token of one session.
    cache_per_token: u64,
    activations: u64,
    transfers: u64,
    total: u64,
    largest_buffer: u64,
}

impl From<Need> for Bytes {
    fn from(need: Need) -> Bytes {
        let Account { weights, activations, transfers, cache } = need.account;
        let (total, largest_buffer) = (need.account.total(), need.largest_buffer);
        Bytes { weights, cache, cache_per_token: need.cache_row, activations, transfers, total, largest_buffer }
    }
}

pub(crate) fn run(args: &Fit, console: &mut Console<'_>) -> Result<(), CliError> {
    let path = hub::resolve(&args.model, console)?;
    let plans = match path.is_dir() {
        true => Plans::Folder(path, args.weights, args.rules.clone()),
        false => Plans::File(Box::new(made_plan(&path, &args.rules)?.plan().clone())),
    };
    let floor = plans.get(floor()?)?;
    let model = &floor.model;
    let context = args.context.unwrap_or(model.max_positions);
    if context > model.max_positions {
        return Err(CliError::Failed(format!(
            "--context {context}: {} has {} positions, so a context has at most {0} tokens",
            model.name, model.max_positions
        )));
    }
    let wish = Wish { context: context.into(), sessions: args.sessions.into() };
    let output = output(&floor)?;
    let found = block_on(adapters());
    let mut verdicts = Vec::new();
    let mut best = None;
    for adapter in &found {
        let (verdict, need) = judge(&plans, output, wish, adapter, args.memory)?;
        if best.is_none() || verdict.fits == Some(true) && !verdicts.iter().any(|v: &Verdict| v.fits == Some(true)) {
            best = need.map(|need| (need, adapter));
        }
        verdicts.push(verdict);
    }
    let fits = verdicts.iter().any(|verdict| verdict.fits != Some(false));
    let advice = match &best {
        Some((need, adapter)) if !fits => advice(&plans, output, wish, need, adapter, args.memory)?,
        _ => Vec::new(),
    };
    let need = best.map_or_else(|| need(&floor, output, floor_name(&floor), wish.rows()), |(need, _)| need);
    let report = Report {
        model: model.name.clone(),
        family: model.family.clone(),
        output: output.name(),
        wish,
        need: need.into(),
        adapters: verdicts,
        advice,
    };
    if console.json {
        console.print_json(&report)?;
    } else {
        console.print(&table(&report))?;
    }
    match fits {
        true => Ok(()),
        false => Err(CliError::Failed(format!("{} does not fit on any adapter", report.model))),
    }
}

/// The target that every adapter has.
fn floor() -> Result<&'static Target, CliError> {
    Target::all().first().ok_or_else(|| CliError::Failed("there are no targets".into()))
}

fn floor_name(plan: &Plan) -> &str {
    plan.programs.first().map_or("", |program| &program.target)
}

/// What the model is for: text if it writes any, else vectors, else what it has.
fn output(plan: &Plan) -> Result<OutputKind, CliError> {
    let has = |kind: &OutputKind| plan.programs.iter().any(|program| program.output.kind == *kind);
    let order =
        [OutputKind::Candidates, OutputKind::Embedding, OutputKind::Logits, OutputKind::Hidden, OutputKind::Next];
    order.into_iter().find(has).ok_or_else(|| CliError::Failed("the plan has no programs".into()))
}

fn table(report: &Report) -> String {
    let Report { wish, need, .. } = report;
    let mut table = Table::new(&["", ">bytes", ""]);
    let row = |name: &str, bytes: u64, what: String| [name.to_owned(), units::bytes(bytes), what];
    table.row(row("weights", need.weights, String::new()));
    if need.cache_per_token > 0 {
        let each = units::bytes(need.cache_per_token);
        table.row(row("cache", need.cache, format!("{} × {} tokens of {each}", wish.sessions, wish.context)));
    }
    table.row(row("activations", need.activations, "values between kernels".into()));
    table.row(row("inputs and outputs", need.transfers, "with the copies through which they travel".into()));
    table.row(row("together", need.total, format!("the largest buffer has {}", units::bytes(need.largest_buffer))));
    let mut verdicts = Table::new(&[">#", "adapter", "target", ">needs", ">memory", ">buffers", "fits"]);
    for verdict in &report.adapters {
        let fits = match (&verdict.problem, verdict.fits) {
            (Some(problem), _) => format!("no: {problem}"),
            (None, Some(_)) => "yes".to_owned(),
            (None, None) => "if it has that much memory; --memory tells how much it has".to_owned(),
        };
        verdicts.row([
            verdict.index.to_string(),
            verdict.name.clone(),
            verdict.target.clone().unwrap_or_else(|| "none".to_owned()),
            units::bytes(verdict.total),
            verdict.memory.map_or("unknown".to_owned(), units::bytes),
            units::bytes(verdict.binding),
            fits,
        ]);
    }
    let mut text = format!("{} ({}), {}\n{}\n\n", report.model, report.family, report.output, table.text());
    text.push_str(&verdicts.text());
    if !report.advice.is_empty() {
        text.push_str("\n\nwhat would make it fit:\n");
        text.push_str(&report.advice.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::Wish;

    #[test]
    fn sessions_have_whole_pages() {
        assert_eq!(Wish { context: 33, sessions: 3 }.rows(), 192);
        assert_eq!(Wish { context: 64, sessions: 1 }.rows(), 64);
    }
}
