//! Calibration: weights are rounded, and formats chosen, by what goes through the model over a text.
//!
//! The model runs on the device as the checkpoint has it; the second moments of each contraction's inputs are added up on
//! the CPU, by `gemm`, as the rows come back. For formats to be chosen, groups of weights are rounded one after the other,
//! and the divergence of the model's predictions is measured.

mod args;
mod choose;
mod divergence;
mod passages;
mod store;
mod subject;
#[cfg(test)]
mod tests;
mod weigh;
mod work;

use std::collections::BTreeSet;
use std::path::Path;

use warpweft_compiler::formats::Format;
use warpweft_compiler::graph::{Element, Graph};
use warpweft_compiler::quantize::{Candidate, Feedback, declare_rounded};
use warpweft_models::Imported;
use warpweft_plan::{Calibration, Quantization, RoundedWeight};
use warpweft_runtime::AdapterChoice;

pub(crate) use args::CalibrationOptions;
pub(crate) use choose::{Limits, percent};
pub(crate) use store::{Quantized, Store};

use crate::CliError;
use crate::console::Console;
use work::Work;

/// What a text is called that nobody gave.
const BUNDLED: &str = "bundled";

/// What calibration runs on.
#[derive(Clone, Debug)]
pub(crate) struct Setting<'s> {
    /// The text's file; the bundled text if there is none.
    pub(crate) text: Option<&'s Path>,
    /// The adapter.
    pub(crate) adapter: AdapterChoice,
    /// Memory that the model may take on the device.
    pub(crate) memory: Option<u64>,
    /// Rules that are left out.
    pub(crate) without: &'s [String],
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Wanted {
    /// One format for matrices of layers, one for embeddings and the head.
    Formats {
        /// Of matrices in layers.
        matrices: Format,
        /// Of embeddings and the head; `None` keeps them.
        tables: Option<Format>,
    },
    /// Formats within limits.
    Auto(Limits),
}

/// A weight and what was decided about it.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) candidate: Candidate,
    /// `None`: as the checkpoint has it.
    pub(crate) format: Option<Format>,
    /// The mean square of what rounding changes in its contraction's results, over the moments' text.
    pub(crate) error: f64,
    /// What that costs, in nats per token, where it was estimated.
    pub(crate) loss: Option<f64>,
}

/// A calibrated model.
#[derive(Debug)]
pub(crate) struct Calibrated {
    /// The rounded weights.
    pub(crate) store: Store,
    /// All weights that could be quantized.
    pub(crate) choices: Vec<Choice>,
    /// The text: its file's name, or that it is the bundled one.
    pub(crate) text: String,
    /// Tokens over which moments were collected.
    pub(crate) tokens: usize,
    /// Tokens on which the loss was measured, others than those.
    pub(crate) measured_tokens: usize,
    /// Nats per token that all weights together are predicted to cost, where formats were chosen by that.
    pub(crate) predicted: Option<f64>,
    /// What was measured with all weights rounded, in nats per token; of language models.
    pub(crate) measured: Option<f64>,
}

impl Calibrated {
    /// The graph over the rounded weights.
    pub(crate) fn declare(&self, graph: &Graph) -> Result<Graph, CliError> {
        let candidates: Vec<Candidate> = self.choices.iter().map(|choice| choice.candidate.clone()).collect();
        let chosen = |choice: &Choice| Some((choice.candidate.name.clone(), choice.format?));
        let formats = self.choices.iter().filter_map(chosen).collect();
        declare_rounded(graph, &candidates, &formats).map_err(|error| CliError::Compile(error.into()))
    }

    /// What the plan says of it.
    pub(crate) fn told(&self) -> Quantization {
        let weight = |choice: &Choice| {
            let Choice { candidate, format, error, loss } = choice;
            let element = format.map_or(candidate.dtype.into(), Element::from);
            RoundedWeight {
                name: candidate.name.clone(),
                format: format.map(Format::name),
                bytes: candidate.rows * element.row_bytes(candidate.columns),
                error: Some(*error),
                relative_error: None,
                loss: *loss,
            }
        };
        Quantization {
            calibration: Some(Calibration {
                text: self.text.clone(),
                tokens: self.tokens as u64,
                measured_tokens: self.measured_tokens as u64,
            }),
            weights: self.choices.iter().map(weight).collect(),
            activations: None,
            predicted_loss: self.predicted,
            measured_loss: self.measured,
        }
    }
}

/// Rounds the weights of a model, and chooses their formats if that is asked for.
///
/// # Errors
/// When there is no adapter, no tokenizer or too little text, when limits cannot be met, and what goes wrong on the device.
pub(crate) fn calibrate(
    imported: &Imported,
    wanted: Wanted,
    setting: &Setting<'_>,
    console: &mut Console<'_>,
) -> Result<Calibrated, CliError> {
    round_and_choose(&mut Work::begin(imported, setting, console)?, wanted, console)
}

fn round_and_choose(
    work: &mut Work<'_, '_>,
    wanted: Wanted,
    console: &mut Console<'_>,
) -> Result<Calibrated, CliError> {
    match wanted {
        Wanted::Formats { matrices, tables } => {
            let format = |c: &Candidate| if c.is_table() { tables } else { Some(matrices) };
            let formats: Vec<_> = work.candidates.iter().map(format).collect();
            let (store, errors) = round_all(work, &formats, Feedback::On, None, console)?;
            let measured = work.measure(&store, &formats)?;
            Ok(finish(work, store, &formats, &errors, None, (None, measured)))
        }
        Wanted::Auto(limits) => choose::auto(work, limits, console),
    }
}

/// Rounds each weight to its format; returns the errors. What `before` has in that format, rounded in the same way, stays.
fn round_all(
    work: &mut Work<'_, '_>,
    formats: &[Option<Format>],
    feedback: Feedback,
    before: Option<&Calibrated>,
    console: &mut Console<'_>,
) -> Result<(Store, Vec<f64>), CliError> {
    let known = |at: usize| before.map(|before| &before.choices[at]).filter(|choice| choice.format == formats[at]);
    let stays: BTreeSet<&str> = (0..formats.len()).filter_map(|at| Some(known(at)?.candidate.name.as_str())).collect();
    let mut store = before.map_or_else(Store::new, |before| Ok(before.store.only(&stays)))?;
    let mut errors: Vec<f64> = (0..formats.len()).map(|at| known(at).map_or(0.0, |choice| choice.error)).collect();
    let wanted = |at: usize| formats[at].is_some() && known(at).is_none();
    let weights = &work.imported.weights;
    work.each_weight("rounding", &wanted, console, &mut |at, candidate, factors| {
        if let Some(format) = formats[at] {
            errors[at] = weigh::round_into(weights, candidate, (format, feedback), factors, &mut store)?;
        }
        Ok(())
    })?;
    Ok((store, errors))
}

fn finish(
    work: &Work<'_, '_>,
    store: Store,
    formats: &[Option<Format>],
    errors: &[f64],
    factors: Option<&[f64]>,
    (predicted, measured): (Option<f64>, Option<f64>),
) -> Calibrated {
    let choice = |(at, candidate): (usize, &Candidate)| Choice {
        candidate: candidate.clone(),
        format: formats[at],
        error: errors[at],
        loss: factors.map(|f| f[at] * errors[at]),
    };
    Calibrated {
        store,
        choices: work.candidates.iter().enumerate().map(choice).collect(),
        text: work.text.clone(),
        tokens: work.tokens(),
        measured_tokens: work.measured_tokens(),
        predicted,
        measured,
    }
}
