//! Checks of what a plan says of its rounded weights: it is shown to people, and nothing is run by it.

use std::collections::HashSet;

use crate::error::{PlanError, clipped, invalid};
use crate::quantization::Quantization;

/// Longest name of a weight or a text, in bytes.
const MAX_NAME: usize = 1000;
/// Longest name of a format.
const MAX_FORMAT: usize = 60;

pub(super) fn check(quantization: &Quantization) -> Result<(), PlanError> {
    if let Some(calibration) = &quantization.calibration {
        length("quantization: calibration: text", &calibration.text, MAX_NAME)?;
    }
    if let Some(activations) = &quantization.activations {
        length("quantization: activations: format", &activations.format, MAX_FORMAT)?;
    }
    let losses = [("predicted_loss", quantization.predicted_loss), ("measured_loss", quantization.measured_loss)];
    for (what, loss) in losses {
        number(&format!("quantization: {what}"), loss.unwrap_or(0.0))?;
    }
    let mut names = HashSet::new();
    for (i, weight) in quantization.weights.iter().enumerate() {
        let at = format!("quantization: weight {i} ({})", clipped(&weight.name));
        length(&format!("{at}: name"), &weight.name, MAX_NAME)?;
        weight.format.as_ref().map_or(Ok(()), |format| length(&format!("{at}: format"), format, MAX_FORMAT))?;
        let numbers = [("error", weight.error), ("relative_error", weight.relative_error), ("loss", weight.loss)];
        for (what, value) in numbers {
            number(&format!("{at}: {what}"), value.unwrap_or(0.0))?;
        }
        if !names.insert(weight.name.as_str()) {
            return Err(invalid(at, "a name that another weight has", "unique names"));
        }
    }
    Ok(())
}

fn length(at: &str, text: &str, most: usize) -> Result<(), PlanError> {
    match text.len() {
        n if (1..=most).contains(&n) => Ok(()),
        n => Err(invalid(at, format!("{n} bytes"), format!("1 to {most}"))),
    }
}

/// Measured divergences may be a rounding error below zero.
fn number(at: &str, number: f64) -> Result<(), PlanError> {
    match number.is_finite() && number > -1.0 {
        true => Ok(()),
        false => Err(invalid(at, number, "a finite number, 0 or more")),
    }
}
