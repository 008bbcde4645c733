//! Which weights were rounded, by what, and what that costs.

use serde::{Deserialize, Serialize};

/// The weights that were rounded to quantized formats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantization {
    /// By which text; `None` if each value was rounded on its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// The checkpoint's weights that could be rounded, those that were kept among them.
    pub weights: Vec<RoundedWeight>,
    /// What activations are rounded to while programs run; `None` if they stay floats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations: Option<RoundedActivations>,
    /// What all weights together are predicted to cost, in nats per token: the logarithm of the factor by which the
    /// perplexity grows. Of language models whose formats were chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_loss: Option<f64>,
    /// What was measured with all of them rounded, on text that no weight was rounded by: between the divergence from the
    /// unrounded model's predictions and the growth of the loss, in nats per token. Of language models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_loss: Option<f64>,
}

/// A text by which weights were rounded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Its file's name, or `bundled`.
    pub text: String,
    /// Tokens over which second moments were collected.
    pub tokens: u64,
    /// Other tokens of it, on which losses were measured.
    pub measured_tokens: u64,
}

/// Activations that are rounded before they meet weights of integers, whatever kernel is chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundedActivations {
    /// The name of the format.
    pub format: String,
    /// How many matrices of them there are in the model.
    pub inputs: u64,
}

/// A weight of the checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundedWeight {
    /// Its name there.
    pub name: String,
    /// The name of the format; `None` if it is kept.
    pub format: Option<String>,
    /// Bytes of its rows as they are packed.
    pub bytes: u64,
    /// The mean square of what rounding changes in the results of its contraction, added up over its columns; of weights
    /// that were rounded by a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
    /// The root of the mean square of what rounding changes in its values, over that of the values; of weights that were
    /// rounded each on its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relative_error: Option<f64>,
    /// What that is predicted to cost, in nats per token, where formats were chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
}
