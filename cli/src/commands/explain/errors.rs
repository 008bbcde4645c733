//! How far rounding moved a model's own weights: what a plan tells of it, and what the checkpoint shows.
//!
//! A plan holds the weights after they were rounded. From these alone any error could have been made, none among them, so
//! that it takes the checkpoint to see whether a plan understates it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use warpweft_compiler::PackError;
use warpweft_compiler::formats::Format;
use warpweft_compiler::lossy::{Quantization, Rounding, round_weights};
use warpweft_compiler::pack::rounding_error;
use warpweft_plan::{Plan, RoundedWeight};

use super::Part;
use crate::CliError;
use crate::compile::Read;
use crate::console::Console;
use crate::hub;
use crate::interrupt;
use crate::progress::Unit;
use crate::units;

/// By how much an error that is told may differ from the one that is found, relative to it: both are sums of the same numbers
/// in the same order, and a JSON text in between.
const TOLERANCE: f64 = 1e-9;

/// What a plan tells of the roundings of its model's own weights.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// What could not be seen here.
    pub(super) unverified: Vec<String>,
    /// What is not true.
    pub(super) faults: Vec<String>,
}

/// Compares what a plan tells of the weights of some parts with what rounding those of the checkpoint does to them.
pub(super) fn told_errors(
    plan: &Plan,
    parts: &[Part<'_>],
    checkpoint: Option<&Path>,
    console: &mut Console<'_>,
) -> Result<Told, CliError> {
    let regions = parts.iter().flat_map(|part| &part.regions);
    let names: BTreeSet<&str> = regions.flat_map(|region| &region.weights).map(String::as_str).collect();
    let table = plan.quantization.iter().flat_map(|table| &table.weights);
    let rounded: Vec<&RoundedWeight> =
        table.filter(|weight| weight.format.is_some() && names.contains(weight.name.as_str())).collect();
    let (alone, by_text): (Vec<_>, Vec<_>) = rounded.into_iter().partition(|weight| weight.relative_error.is_some());
    let mut told = Told::default();
    if !by_text.is_empty() {
        told.unverified.push(format!(
            "the errors of {} weights that calibration rounded: the plan has neither its text nor the weights before",
            units::count(by_text.len())
        ));
    }
    match checkpoint {
        _ if alone.is_empty() => {}
        None => told.unverified.push(format!(
            "how far rounding moved {} of the model's own weights: the plan does not have them as they were; \
             give the checkpoint with --checkpoint",
            units::count(alone.len())
        )),
        Some(folder) => told.faults = compared(&alone, folder, console)?,
    }
    Ok(told)
}

/// What is not true of the errors that are told of some weights.
fn compared(told: &[&RoundedWeight], checkpoint: &Path, console: &mut Console<'_>) -> Result<Vec<String>, CliError> {
    let mut faults = Vec::new();
    let mut formats: BTreeMap<String, Format> = BTreeMap::new();
    for weight in told {
        let name = weight.format.as_deref().unwrap_or_default();
        match name.parse::<Format>() {
            Ok(format) => drop(formats.insert(weight.name.clone(), format)),
            Err(error) => faults.push(format!("the plan's table of rounded weights, {}: {error}", weight.name)),
        }
    }
    let read = Read::of(&hub::resolve(checkpoint, console)?)?;
    let (_, roundings) = round_weights(&read.imported.graph, &Quantization::Chosen(formats.clone()))
        .map_err(|error| CliError::Compile(error.into()))?;
    let roundings: BTreeMap<&str, &Rounding> = roundings.iter().map(|r| (r.weight.as_str(), r)).collect();
    let mut bar = console.bar("rounding");
    for (done, weight) in told.iter().filter(|weight| formats.contains_key(&weight.name)).enumerate() {
        interrupt::check()?;
        bar.set(done as u64, told.len() as u64, Unit::Items);
        let Some(rounding) = roundings.get(weight.name.as_str()) else {
            faults.push(format!(
                "the plan rounds {} to {}, and {} has no such weight that is rounded",
                weight.name,
                rounded_to(weight),
                checkpoint.display()
            ));
            continue;
        };
        let failed = |error: PackError<_>| CliError::Failed(error.to_string());
        let found = rounding_error(rounding, &read.imported.weights).map_err(failed)?;
        let error = weight.relative_error.unwrap_or_default();
        if (error - found).abs() > TOLERANCE * found {
            faults.push(format!(
                "the plan says that rounding {} to {} moves it by {error:.2e}; the checkpoint's is moved by {found:.2e}",
                weight.name,
                rounded_to(weight)
            ));
        }
    }
    Ok(faults)
}

fn rounded_to(weight: &RoundedWeight) -> &str {
    weight.format.as_deref().unwrap_or_default()
}
