//! Language models: perplexity over chunks of a text, and what differs from a baseline.

use std::time::Instant;

use serde::Serialize;
use warpweft_plan::OutputKind;
use warpweft_runtime::{Engine, Matrix, Part, Session, block_on};

use super::figures::Sums;
use super::{Both, Eval, check_ids, width};
use crate::CliError;
use crate::console::Console;
use crate::interrupt;
use crate::progress::Unit;

/// Bytes of scores that a model returns at once: those of a large vocabulary are more than a step's rows need.
const SCORES: usize = 128 << 20;

#[derive(Serialize)]
struct Report {
    perplexity: f64,
    nll_per_token: f64,
    scored_tokens: usize,
    tokens: usize,
    chunks: usize,
    context: usize,
    tokens_per_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline: Option<Against>,
}

/// How far the model is from the baseline.
#[derive(Serialize)]
struct Against {
    model: String,
    perplexity: f64,
    nll_per_token: f64,
    perplexity_ratio: f64,
    kl_divergence: f64,
    top1_agreement: f64,
}

/// Scores ids, or those of a text.
pub(super) fn run(
    mut models: Both<Engine>,
    ids: Option<Vec<u32>>,
    text: &str,
    args: &Eval,
    console: &mut Console<'_>,
) -> Result<(), CliError> {
    models.each(|engine| Ok(engine.session()?))?;
    let ids = match ids {
        Some(ids) => ids,
        None => encode(&mut models, text)?,
    };
    if ids.len() < 2 {
        return Err(CliError::Failed(format!(
            "found {} tokens, expected at least 2: the first one is not scored",
            ids.len()
        )));
    }
    let report = score(&mut models, &ids, args, console)?;
    if console.json {
        return console.print_json(&report);
    }
    let Report { perplexity, nll_per_token, scored_tokens, chunks, tokens_per_s, .. } = report;
    console.print(&format!(
        "perplexity {perplexity:.4} ({nll_per_token:.5} nats per token) over {scored_tokens} tokens in {chunks} chunks, \
         {tokens_per_s:.0} tokens/s"
    ))?;
    let Some(Against { model, perplexity, perplexity_ratio, kl_divergence, top1_agreement, .. }) = report.baseline
    else {
        return Ok(());
    };
    console.print(&format!(
        "against {model}, perplexity {perplexity:.4}: ratio {perplexity_ratio:.5}, KL divergence {kl_divergence:.6} nats, \
         the same first token after {:.2} % of tokens",
        100.0 * top1_agreement
    ))
}

/// The ids that all models make of a text.
fn encode(models: &mut Both<Engine>, text: &str) -> Result<Vec<u32>, CliError> {
    let ids = models.model.encode(text, false)?;
    if let Some(baseline) = &mut models.baseline {
        let others = baseline.encode(text, false)?;
        let name = |engine: &Engine| engine.plan().model.name.clone();
        check_ids((&name(&models.model), &ids), (&name(baseline), &others))?;
    }
    Ok(ids)
}

fn score(models: &mut Both<Engine>, ids: &[u32], args: &Eval, console: &mut Console<'_>) -> Result<Report, CliError> {
    let limits = models.each(|engine| Ok(engine.context_limit().0))?;
    let limit = limits.model.min(limits.baseline.unwrap_or(u64::MAX));
    let context = args.context.map_or(limit as usize, |n| n as usize);
    let stride = args.stride.map_or(context, |n| n as usize);
    if stride > context {
        return Err(CliError::Failed(format!("--stride {stride} is more than the context, which has {context} rows")));
    }
    let start = Instant::now();
    let mut sums = Sums::default();
    let (mut chunks, mut done, mut first) = (0, 0, 0);
    let mut bar = console.bar("tokens");
    while done < ids.len() {
        let end = ids.len().min(first + context);
        // What windows before this one have scored, and the first token of it, have no score here.
        let from = done.max(first + 1);
        chunk(models, &ids[first..end], from - first, &mut sums)?;
        chunks += 1;
        (done, first) = (end, first + stride);
        bar.set(done as u64, ids.len() as u64, Unit::Items);
        interrupt::check()?;
    }
    drop(bar);
    let nll_per_token = sums.nll();
    let against = |baseline: &Engine| Against {
        model: baseline.plan().model.name.clone(),
        perplexity: sums.baseline_nll().exp(),
        nll_per_token: sums.baseline_nll(),
        perplexity_ratio: (nll_per_token - sums.baseline_nll()).exp(),
        kl_divergence: sums.divergence(),
        top1_agreement: sums.agreement(),
    };
    Ok(Report {
        perplexity: nll_per_token.exp(),
        nll_per_token,
        scored_tokens: sums.scored,
        tokens: ids.len(),
        chunks,
        context,
        tokens_per_s: ids.len() as f64 / start.elapsed().as_secs_f64(),
        baseline: models.baseline.as_ref().map(against),
    })
}

/// Scores the tokens of a chunk from `from` on. All models take the same pieces of it in turn, so that no more than a
/// piece's scores are kept.
fn chunk(models: &mut Both<Engine>, ids: &[u32], from: usize, sums: &mut Sums) -> Result<(), CliError> {
    let mut sessions = models.each(|engine| Ok(engine.session()?))?;
    let mut at = 0;
    while at < ids.len() {
        let rows = models.each(|engine| Ok(step_rows(engine)))?;
        let rows = rows.model.min(rows.baseline.unwrap_or(usize::MAX));
        let piece = &ids[at..ids.len().min(at + rows)];
        let model = advance(&mut models.model, &mut sessions.model, piece)?;
        let baseline = match (&mut models.baseline, &mut sessions.baseline) {
            (Some(engine), Some(session)) => Some(advance(engine, session, piece)?),
            (None, _) | (_, None) => None,
        };
        for (index, next) in (at + 1..ids.len()).take(piece.len()).enumerate().filter(|(_, next)| *next >= from) {
            let row = model.row(index).unwrap_or_default();
            sums.add(row, baseline.as_ref().and_then(|rows| rows.row(index)), ids[next]);
        }
        at += piece.len();
    }
    Ok(())
}

/// Rows of a step whose scores are few enough.
fn step_rows(engine: &Engine) -> usize {
    let row = width(engine.plan(), OutputKind::Logits).map_or(4, |width| 4 * width as usize);
    engine.step_rows(OutputKind::Logits).min((SCORES / row).max(1))
}

fn advance(engine: &mut Engine, session: &mut Session, ids: &[u32]) -> Result<Matrix, CliError> {
    Ok(block_on(engine.advance(OutputKind::Logits, &mut [Part { session, ids }]))?)
}
