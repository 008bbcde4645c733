//! `compile-model eval`

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use warpweft_plan::OutputKind;
use warpweft_runtime::{Engine, Options, Part, block_on};

use super::run::check_context;
use crate::CliError;
use crate::args::RunOptions;
use crate::console::Console;
use crate::interrupt;
use crate::load::{adapter_and_plan, open_on};
use crate::progress::Unit;
use crate::texts::read;

/// Measure how well a language model predicts a text: its perplexity.
///
/// The ids are cut into chunks as long as the context, each chunk is run on its own, and the first token of a chunk is
/// not scored. Nothing is added to the ids. With --stride, windows overlap and only the tokens that are new in a window
/// are scored.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  compile-model eval rustdoc-lm --ids valid_ids.safetensors
  compile-model eval llama.weft --text book.txt --context 2048 --stride 512 --json | jq .perplexity")]
pub(crate) struct Eval {
    /// A plan, a checkpoint folder, or the name of a model on the Hugging Face Hub.
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// A safetensors file whose only i64 tensor holds token ids.
    #[arg(long, value_name = "FILE", required_unless_present = "text", conflicts_with = "text")]
    ids: Option<PathBuf>,

    /// A file with text; `-` is stdin.
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

#[derive(Serialize)]
struct Report {
    perplexity: f64,
    nll_per_token: f64,
    scored_tokens: usize,
    tokens: usize,
    chunks: usize,
    context: usize,
    tokens_per_s: f64,
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
    let given = args.ids.as_deref().map(read_ids).transpose()?;
    let text = args.text.as_deref().map(read).transpose()?;
    let (adapter, plan) = adapter_and_plan(&args.model, &args.run, console)?;
    check_context(args.context, plan.plan())?;
    let options = Options {
        output: Some(OutputKind::Logits),
        memory: args.run.memory,
        context: args.context,
        ..Options::default()
    };
    let mut engine = open_on(&adapter, plan, &options, console)?;
    engine.session()?;
    let ids = match (given, text) {
        (Some(ids), _) => ids,
        (None, Some(text)) => engine.encode(&text, false)?,
        (None, None) => Vec::new(),
    };
    if ids.len() < 2 {
        return Err(CliError::Failed(format!(
            "found {} tokens, expected at least 2: the first one is not scored",
            ids.len()
        )));
    }
    let report = score(&mut engine, &ids, args, console)?;
    if console.json {
        return console.print_json(&report);
    }
    let Report { perplexity, nll_per_token, scored_tokens, chunks, tokens_per_s, .. } = report;
    console.print(&format!(
        "perplexity {perplexity:.4} ({nll_per_token:.5} nats per token) over {scored_tokens} tokens in {chunks} chunks, \
         {tokens_per_s:.0} tokens/s"
    ))
}

fn score(engine: &mut Engine, ids: &[u32], args: &Eval, console: &mut Console<'_>) -> Result<Report, CliError> {
    let (limit, _) = engine.context_limit();
    let context = args.context.map_or(limit as usize, |n| n as usize);
    let stride = args.stride.map_or(context, |n| n as usize);
    if stride > context {
        return Err(CliError::Failed(format!("--stride {stride} is more than the context, which has {context} rows")));
    }
    let start = Instant::now();
    let (mut sum, mut scored, mut chunks, mut done, mut first) = (0.0, 0, 0, 0, 0);
    let mut bar = console.bar("tokens");
    while done < ids.len() {
        let end = ids.len().min(first + context);
        // What windows before this one have scored, and the first token of it, have no score here.
        let from = done.max(first + 1);
        sum += loss(engine, &ids[first..end], from - first)?;
        scored += end.saturating_sub(from);
        chunks += 1;
        (done, first) = (end, first + stride);
        bar.set(done as u64, ids.len() as u64, Unit::Items);
        interrupt::check()?;
    }
    drop(bar);
    let nll_per_token = sum / scored.max(1) as f64;
    let tokens_per_s = ids.len() as f64 / start.elapsed().as_secs_f64();
    let (perplexity, tokens) = (nll_per_token.exp(), ids.len());
    Ok(Report { perplexity, nll_per_token, scored_tokens: scored, tokens, chunks, context, tokens_per_s })
}

/// The negative log-probabilities of the tokens from `from` on, added up.
fn loss(engine: &mut Engine, ids: &[u32], from: usize) -> Result<f64, CliError> {
    let mut session = engine.session()?;
    let mut sum = 0.0;
    let mut at = 0;
    while at < ids.len() {
        let piece = &ids[at..ids.len().min(at + engine.step_rows(OutputKind::Logits))];
        let part = Part { session: &mut session, ids: piece };
        let rows = block_on(engine.advance(OutputKind::Logits, &mut [part]))?;
        for (row, next) in rows.iter().zip(at + 1..ids.len()).filter(|(_, next)| *next >= from) {
            sum += negative_log_probability(row, ids[next]);
        }
        at += piece.len();
    }
    Ok(sum)
}

fn negative_log_probability(scores: &[f32], id: u32) -> f64 {
    let greatest = f64::from(scores.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = scores.iter().map(|&score| (f64::from(score) - greatest).exp()).sum();
    greatest + sum.ln() - scores.get(id as usize).map_or(f64::NEG_INFINITY, |&score| f64::from(score))
}

/// The ids in the one i64 tensor of a file.
fn read_ids(path: &Path) -> Result<Vec<u32>, CliError> {
    let failed = |what: String| CliError::Failed(format!("{}: {what}", path.display()));
    let bytes = std::fs::read(path).map_err(CliError::io(format!("read {}", path.display())))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| failed(error.to_string()))?;
    let tensors = file.tensors();
    let mut fitting = tensors.iter().filter(|(_, tensor)| tensor.dtype() == Dtype::I64);
    let (Some((_, tensor)), None) = (fitting.next(), fitting.next()) else {
        return Err(failed("found none or several i64 tensors, expected one".into()));
    };
    let (words, _) = tensor.data().as_chunks();
    let id = |word: &[u8; 8]| {
        let id = i64::from_le_bytes(*word);
        u32::try_from(id).map_err(|_| failed(format!("{id} is no token id")))
    };
    words.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::negative_log_probability;

    #[test]
    fn probabilities_are_those_of_softmax() {
        let scores = [1.0f32, 3.0, -2.0];
        let sum: f64 = scores.iter().map(|s| f64::from(*s).exp()).sum();
        for (id, score) in (0..).zip(scores) {
            let expected = -(f64::from(score).exp() / sum).ln();
            assert!((negative_log_probability(&scores, id) - expected).abs() < 1e-12);
        }
        assert!(negative_log_probability(&scores, 9).is_infinite());
    }
}
