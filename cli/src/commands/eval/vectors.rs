//! Encoders: how far the vectors of texts are from a baseline's.

use std::time::Instant;

use serde_json::json;
use warpweft_plan::OutputKind;
use warpweft_runtime::{Engine, block_on};

use super::check_ids;
use super::figures::cosine;
use crate::CliError;
use crate::console::Console;
use crate::interrupt;
use crate::progress::Unit;
use crate::texts::lines;

/// Texts between two looks at Ctrl-C and the bar.
const BATCH: usize = 256;

/// Compares the vectors of the lines of a text.
pub(super) fn run(
    mut model: Engine,
    mut baseline: Engine,
    text: &str,
    console: &mut Console<'_>,
) -> Result<(), CliError> {
    let texts: Vec<String> = lines(text).collect();
    if texts.is_empty() {
        return Err(CliError::Failed("found no texts, expected at least one line".into()));
    }
    let start = Instant::now();
    let (mut tokens, mut sum, mut least) = (0, 0.0, (f64::INFINITY, 0));
    let mut bar = console.bar("texts");
    for (first, batch) in (0..).step_by(BATCH).zip(texts.chunks(BATCH)) {
        let (ids, others) = (model.tokenize(batch)?, baseline.tokenize(batch)?);
        for (ids, others) in ids.iter().zip(&others) {
            check_ids((&model.plan().model.name, ids), (&baseline.plan().model.name, others))?;
            tokens += ids.len();
        }
        let found = block_on(model.run(OutputKind::Embedding, &ids))?;
        let expected = block_on(baseline.run(OutputKind::Embedding, &ids))?;
        for (row, (found, expected)) in found.iter().zip(expected.iter()).enumerate() {
            let cosine = cosine(found, expected);
            sum += cosine;
            // What is no number is worse than anything.
            if cosine < least.0 || cosine.is_nan() {
                least = (cosine, first + row + 1);
            }
        }
        bar.set((first + batch.len()) as u64, texts.len() as u64, Unit::Items);
        interrupt::check()?;
    }
    drop(bar);
    let (mean, (least, line)) = (sum / texts.len() as f64, least);
    let texts_per_s = texts.len() as f64 / start.elapsed().as_secs_f64();
    let name = &baseline.plan().model.name;
    if console.json {
        return console.print_json(&json!({
            "texts": texts.len(),
            "tokens": tokens,
            "texts_per_s": texts_per_s,
            "baseline": { "model": name, "mean_cosine": mean, "least_cosine": least, "least_line": line },
        }));
    }
    console.print(&format!(
        "against {name}: cosine similarity {mean:.6} in the mean, {least:.6} at the least (line {line}), over {} texts of \
         {tokens} tokens, {texts_per_s:.0} texts/s",
        texts.len()
    ))
}
