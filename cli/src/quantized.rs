//! What a plan says of its rounded weights, for people.

use std::collections::BTreeMap;

use warpweft_compiler::PackError;
use warpweft_compiler::graph::Element;
use warpweft_compiler::lossy::Rounding;
use warpweft_compiler::pack::rounding_error;
use warpweft_models::Weights;
use warpweft_plan::{Quantization, RoundedWeight};

use crate::CliError;
use crate::calibrate::percent;
use crate::report::Table;
use crate::units;

/// What a weight is called that is not rounded.
const KEPT: &str = "kept";

fn format(weight: &RoundedWeight) -> &str {
    weight.format.as_deref().unwrap_or(KEPT)
}

/// What a plan says of weights that were rounded each on its own; `None` if there are none.
///
/// # Errors
/// When a weight cannot be read.
pub(crate) fn of_roundings(roundings: &[Rounding], weights: &Weights) -> Result<Option<Quantization>, CliError> {
    let told = |rounding: &Rounding| {
        let failed = |error: PackError<_>| CliError::Failed(error.to_string());
        let [rows, columns] = rounding.shape();
        Ok(RoundedWeight {
            name: rounding.weight.clone(),
            format: Some(rounding.format.name()),
            bytes: rows * Element::from(rounding.format).row_bytes(columns),
            error: None,
            relative_error: Some(rounding_error(rounding, weights).map_err(failed)?),
            loss: None,
        })
    };
    let weights = roundings.iter().map(told).collect::<Result<Vec<_>, CliError>>()?;
    Ok((!weights.is_empty()).then(|| Quantization { weights, ..Quantization::default() }))
}

/// One or two lines.
pub(crate) fn summary(quantization: &Quantization) -> String {
    let mut formats: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for weight in &quantization.weights {
        let (count, bytes) = formats.entry(format(weight)).or_default();
        (*count, *bytes) = (*count + 1, *bytes + weight.bytes);
    }
    let formats: Vec<String> = formats
        .into_iter()
        .map(|(format, (count, bytes))| format!("{count} {format} ({})", units::bytes(bytes)))
        .collect();
    let by = match &quantization.calibration {
        Some(calibration) => {
            let tokens = units::count(calibration.tokens as usize);
            format!("rounded by {tokens} tokens of the text {:?}", calibration.text)
        }
        None => "rounded".to_owned(),
    };
    let loss = |what: &str, loss: Option<f64>| loss.map(|loss| format!("perplexity +{} {what}", percent(loss)));
    let losses = [loss("predicted", quantization.predicted_loss), loss("measured", quantization.measured_loss)];
    let losses: Vec<String> = losses.into_iter().flatten().collect();
    let activations = quantization.activations.as_ref();
    let activations = activations.map(|a| format!("activations rounded to {} ({} matrices)", a.format, a.inputs));
    let weights = (!formats.is_empty()).then(|| format!("weights {by}: {}", formats.join(", ")));
    let losses = (!losses.is_empty()).then(|| losses.join(", "));
    [weights, activations, losses].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// A line for each weight.
pub(crate) fn table(quantization: &Quantization) -> String {
    let mut table = Table::new(&["weight", "format", ">bytes", ">error", ">relative error", ">predicted loss"]);
    let number = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.3e}"));
    for weight in &quantization.weights {
        table.row([
            weight.name.clone(),
            format(weight).to_owned(),
            units::bytes(weight.bytes),
            number(weight.error),
            number(weight.relative_error),
            weight.loss.map_or(String::new(), percent),
        ]);
    }
    format!("\n{}", table.text())
}

#[cfg(test)]
mod tests {
    use warpweft_plan::{Calibration, RoundedActivations};

    use super::*;

    #[test]
    fn a_line_says_what_was_done_and_what_it_costs() {
        let weight = |name: &str, format: Option<&str>, bytes| RoundedWeight {
            name: name.into(),
            format: format.map(Into::into),
            bytes,
            error: Some(0.5),
            relative_error: None,
            loss: Some(0.001),
        };
        let mut quantization = Quantization {
            calibration: Some(Calibration { text: "a.txt".into(), tokens: 2000, measured_tokens: 100 }),
            weights: vec![weight("a", Some("int4-g32"), 100), weight("b", None, 50), weight("c", Some("int4-g32"), 20)],
            activations: None,
            predicted_loss: Some(0.01),
            measured_loss: None,
        };
        let text = summary(&quantization);
        for part in ["2,000 tokens", "\"a.txt\"", "2 int4-g32 (120 B)", "1 kept (50 B)", "perplexity +1.01 % predicted"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(table(&quantization).contains("0.10 %"));
        (quantization.calibration, quantization.predicted_loss) = (None, None);
        assert_eq!(summary(&quantization), "weights rounded: 2 int4-g32 (120 B), 1 kept (50 B)");
        quantization.activations = Some(RoundedActivations { format: "int8-row".into(), inputs: 3 });
        let both = "weights rounded: 2 int4-g32 (120 B), 1 kept (50 B); activations rounded to int8-row (3 matrices)";
        assert_eq!(summary(&quantization), both);
        // Of a checkpoint that comes with int8 weights.
        quantization.weights.clear();
        assert_eq!(summary(&quantization), "activations rounded to int8-row (3 matrices)");
    }
}
