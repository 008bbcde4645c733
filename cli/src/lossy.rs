//! The roundings that a proof's first term has, for people.

use std::fmt;

use serde::Serialize;
use warpweft_compiler::graph::Graph;
use warpweft_compiler::proof::algebra::{Names, algebra, difference};
use warpweft_compiler::proof::{Chain, ProofFault, Rounding, random_error, roundings, told, unrounded};
use warpweft_plan::provenance::{Class, LossyStep, Region};
use warpweft_plan::{Plan, RoundedWeight};

use crate::calibrate::percent;

/// Something that is rounded.
#[derive(Serialize)]
pub(crate) struct LossyDocument<'p> {
    #[serde(flatten)]
    of: Subject,
    format: String,
    class: &'static str,
    /// What the plan tells of a weight in each of the layers that are explained; none where it does not tell.
    told: Vec<&'p RoundedWeight>,
    /// Of activations: how far rounding moved random ones in the reference evaluator, relative to them.
    #[serde(skip_serializing_if = "Option::is_none")]
    random_error: Option<f64>,
    pub(crate) term: Vec<String>,
}

/// What is rounded.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Subject {
    /// A weight, by its name in the checkpoint, in the first layer that is explained.
    Weight(String),
    /// A matrix of activations, as algebra.
    Activations(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Weight(name) => f.write_str(name),
            Subject::Activations(term) => write!(f, "activations {term}"),
        }
    }
}

impl LossyDocument<'_> {
    /// `round dense.weight to int4-g32 (lossy): relative error 7.9e-2, predicted loss 0.01 %`.
    pub(crate) fn heading(&self) -> String {
        let numbers = [
            span(&self.told, |w| w.relative_error, |x| format!("relative error {x:.1e}")),
            span(&self.told, |w| w.error, |x| format!("mean square error of the result {x:.1e}")),
            span(&self.told, |w| w.loss, |x| format!("predicted loss {}", percent(x))),
            self.random_error.map(|x| format!("relative error {x:.1e} in random values")),
        ];
        let numbers: Vec<String> = numbers.into_iter().flatten().collect();
        let numbers = if numbers.is_empty() { "error not told".into() } else { numbers.join(", ") };
        format!("round {} to {} ({}): {numbers}", self.of, self.format, self.class)
    }
}

/// What a term rounds, in words.
pub(crate) fn subject(term: &Graph, rounding: Rounding, names: &Names) -> Subject {
    match rounding {
        Rounding::Weight { weight, .. } => {
            Subject::Weight(names.weights.get(weight.0 as usize).cloned().unwrap_or_default())
        }
        Rounding::Activations { .. } => {
            let mut rows = term.only(&[]);
            rounding.of(term).into_iter().for_each(|from| rows.add_output("x", from));
            let lines = algebra(&rows, &Names { outputs: vec!["x".into()], ..names.clone() }, &[]);
            // What has several lines is seen in the term.
            let only = if let [only] = &lines[..] { only.strip_prefix("x = ") } else { None };
            Subject::Activations(only.unwrap_or("…").to_owned())
        }
    }
}

/// The least number and the greatest one; none where there is none.
fn span(
    told: &[&RoundedWeight],
    of: impl Fn(&RoundedWeight) -> Option<f64>,
    show: impl Fn(f64) -> String,
) -> Option<String> {
    let numbers: Vec<f64> = told.iter().filter_map(|weight| of(weight)).collect();
    let least = numbers.iter().copied().reduce(f64::min).map(&show)?;
    let greatest = numbers.iter().copied().reduce(f64::max).map(&show)?;
    Some(if least == greatest { least } else { format!("{least} to {greatest}") })
}

/// Whether a step is one of ours: what the plan tells of it in each region, which of activations is nothing, or `None` for a
/// weight that came quantized in the checkpoint.
///
/// # Errors
/// Where the plan contradicts itself.
pub(crate) fn ours<'p>(
    plan: &'p Plan,
    regions: &[&'p Region],
    step: &LossyStep,
) -> Result<Option<Vec<&'p RoundedWeight>>, ProofFault> {
    let told = regions.iter().map(|region| told(plan, region, step));
    let told: Vec<&RoundedWeight> = told.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
    let stored = matches!(step, LossyStep::Weight { stored: true, .. });
    Ok(if stored && told.is_empty() { None } else { Some(told) })
}

/// The formula over the weights as the checkpoint has them, and what rounding makes of it, one weight after the other, and then
/// one matrix of activations after the other.
///
/// # Errors
/// Where the plan contradicts itself.
pub(crate) fn lossy<'p>(
    plan: &'p Plan,
    regions: &[&'p Region],
    chain: &Chain<'_>,
    names: &Names,
) -> Result<(Vec<String>, Vec<LossyDocument<'p>>), ProofFault> {
    let start = &chain.terms[0];
    let all = roundings(start);
    let mut before = unrounded(start, &all)?;
    let formula = algebra(&before, names, &[]);
    let mut steps = Vec::new();
    for (i, &rounding) in all.iter().enumerate() {
        let Some(step) = chain.proof.lossy.get(i).filter(|_| chain.proof.lossy.len() == all.len()) else {
            return Err(ProofFault::Missing(format!("lossy step {i} of the proof")));
        };
        let after = unrounded(start, &all[i + 1..])?;
        let found = difference(&before, &after)?;
        if let Some(told) = ours(plan, regions, step)? {
            steps.push(LossyDocument {
                of: subject(start, rounding, names),
                format: step.format().to_owned(),
                class: Class::Lossy.name(),
                told,
                random_error: match rounding {
                    Rounding::Weight { .. } => None,
                    Rounding::Activations { .. } => Some(random_error(start, rounding)?),
                },
                term: algebra(&found.after, names, &found.added),
            });
        }
        before = after;
    }
    Ok((formula, steps))
}
