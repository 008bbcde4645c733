//! `compile-model eval`

mod figures;
mod ids;
mod score;
mod vectors;

use std::path::PathBuf;

use clap::Args;
use warpweft_plan::{OutputKind, Plan};
use warpweft_runtime::Options;

use super::run::check_context;
use crate::CliError;
use crate::args::{RuleOptions, RunOptions};
use crate::console::Console;
use crate::load::{adapter_and_plan, open_on};
use crate::texts::read;

/// Measure how well a language model predicts a text, or how far a plan is from another one.
///
/// The ids of the text are cut into chunks as long as the context, each chunk is run on its own, and the first token of a
/// chunk is not scored. Nothing is added to the ids. With --stride, windows overlap and only the tokens that are new in a
/// window are scored. Perplexity is exp of the mean negative log-probability of the scored tokens.
///
/// With --baseline both models run side by side over the same chunks, and what differs is told for the scored tokens:
/// the ratio of the perplexities (above 1 where MODEL predicts worse), the mean KL divergence of the distributions of the
/// next token, KL(baseline ‖ model) = Σ p ln(p/q) in nats, which counts what changed for all tokens and not only for the
/// one that came, and how often both give the same token the highest score. A plan against itself has ratio 1, divergence 0
/// and agreement 1.
///
/// Encoders are compared by the vectors of texts, one for each line of --text: mean and least cosine similarity. The two
/// models must have the same vocabulary and make the same ids of the text. Both are on the device at once; --memory is
/// meant for each of them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  compile-model eval rustdoc-lm --ids valid_ids.safetensors
  compile-model eval llama.weft --text book.txt --context 2048 --stride 512 --json | jq .perplexity
  compile-model eval rustdoc-lm --cache int8 --baseline rustdoc-lm --ids valid_ids.safetensors
  compile-model eval llama-f16.weft --baseline llama.weft --text book.txt
  compile-model eval minilm-f16.weft --baseline minilm.weft --text lines.txt --json | jq .baseline.least_cosine")]
pub(crate) struct Eval {
    /// A plan, a checkpoint folder, or the name of a model on the Hugging Face Hub.
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// What MODEL is compared with: a plan, a folder or a name. How a folder is compiled
    /// (--without, --cache) concerns MODEL alone.
    #[arg(long, value_name = "OTHER")]
    baseline: Option<PathBuf>,

    /// A safetensors file whose only i64 tensor holds token ids.
    #[arg(long, value_name = "FILE", required_unless_present = "text", conflicts_with = "text")]
    ids: Option<PathBuf>,

    /// A file with text, for encoders with one text per line; `-` is stdin.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,

    /// Tokens of a chunk; the model's context if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    context: Option<u32>,

    /// Tokens by which windows move; as many as the context if not given, so that they don't overlap.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    stride: Option<u32>,

    #[command(flatten)]
    run: RunOptions,
}

pub(crate) fn run(args: &Eval, console: &mut Console<'_>) -> Result<(), CliError> {
    if let (Some(context), Some(stride)) = (args.context, args.stride)
        && stride > context
    {
        return Err(CliError::Usage(format!(
            "--stride {stride} is more than --context {context}: tokens would be left out"
        )));
    }
    // What cannot be read is refused before anything is loaded.
    let ids = args.ids.as_deref().map(ids::read).transpose()?;
    let text = args.text.as_deref().map(read).transpose()?;
    let (adapter, plan) = adapter_and_plan(&args.model, &args.run, console)?;
    // How a folder is compiled is what the comparison is about.
    let others = RunOptions { rules: RuleOptions::default(), ..args.run.clone() };
    let baseline = args.baseline.as_deref().map(|path| adapter_and_plan(path, &others, console)).transpose()?;
    let baseline = baseline.map(|(_, plan)| plan);
    let vectors = baseline.is_some() && width(plan.plan(), OutputKind::Candidates).is_none();
    let kind = if vectors { OutputKind::Embedding } else { OutputKind::Logits };
    if vectors && ids.is_some() {
        return Err(CliError::Usage(
            "encoders are compared by the vectors of texts: give --text FILE, one text per line, in place of --ids"
                .into(),
        ));
    }
    check_context(args.context, plan.plan())?;
    if let Some(baseline) = &baseline {
        check_context(args.context, baseline.plan())?;
        check_same(plan.plan(), baseline.plan(), kind)?;
    }
    let options = Options { context: args.context, ..args.run.opened_for(kind) };
    let model = open_on(&adapter, plan, &options, console)?;
    let baseline = baseline.map(|plan| open_on(&adapter, plan, &options, console)).transpose()?;
    let text = text.unwrap_or_default();
    match baseline {
        Some(baseline) if vectors => vectors::run(model, baseline, &text, console),
        baseline => score::run(Both { model, baseline }, ids, &text, args, console),
    }
}

/// Values of a row of an output; `None` if the plan does not have it.
fn width(plan: &Plan, kind: OutputKind) -> Option<u32> {
    plan.programs.iter().find(|program| program.output.kind == kind).map(|program| program.output.width)
}

/// Refuses plans whose rows cannot be compared. An output that one of them lacks is refused when it is opened.
fn check_same(model: &Plan, baseline: &Plan, kind: OutputKind) -> Result<(), CliError> {
    let sizes = [
        ("tokens in its vocabulary", Some(model.model.vocab_size), Some(baseline.model.vocab_size)),
        ("values in a row", width(model, kind), width(baseline, kind)),
    ];
    for (what, found, expected) in sizes {
        if let (Some(found), Some(expected)) = (found, expected)
            && found != expected
        {
            let (model, baseline) = (&model.model.name, &baseline.model.name);
            return Err(CliError::Failed(format!(
                "{model} has {found} {what}, the baseline {baseline} has {expected}: they cannot be compared"
            )));
        }
    }
    Ok(())
}

/// Refuses models that make different ids of a text, of which `model` and `baseline` are the names.
fn check_ids((model, found): (&str, &[u32]), (baseline, expected): (&str, &[u32])) -> Result<(), CliError> {
    let refused = |what: String| {
        Err(CliError::Failed(format!("{what}: their tokenizers differ; with --ids language models need none")))
    };
    if found.len() != expected.len() {
        let (found, expected) = (found.len(), expected.len());
        return refused(format!("{model} makes {found} tokens of the text, the baseline {baseline} makes {expected}"));
    }
    match found.iter().zip(expected).position(|(a, b)| a != b) {
        Some(at) => refused(format!(
            "token {at} of the text is {} for {model}, but {} for the baseline {baseline}",
            found[at], expected[at]
        )),
        None => Ok(()),
    }
}

/// Something of each of the models that run side by side.
struct Both<T> {
    model: T,
    baseline: Option<T>,
}

impl<M> Both<M> {
    fn each<T>(&self, of: impl Fn(&M) -> Result<T, CliError>) -> Result<Both<T>, CliError> {
        Ok(Both { model: of(&self.model)?, baseline: self.baseline.as_ref().map(of).transpose()? })
    }
}
