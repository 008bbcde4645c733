//! The lossy steps of a proof. Its terms are over weights and activations as they are rounded; before its first term stands the
//! model's formula over the weights as the checkpoint has them, and rounding turns that into the first term, one weight after
//! the other, and then one matrix of activations after the other. No rule does this, so each step tells what is rounded, its
//! format and how far that moves the numbers.

use warpweft_plan::provenance::{Body, LossyStep, Provenance, Region};
use warpweft_plan::{Plan, RoundedWeight};

use super::chain::{Chain, ProofFault};
use super::check::{difference, outputs};
use super::random::{unrounded_values, values};
use crate::formats::Format;
use crate::graph::eval::Values;
use crate::graph::{Element, FactError, Graph, Id, Op, WeightId};

/// What a term rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// A weight.
    Weight {
        /// In the term's declarations.
        weight: WeightId,
        /// What it is rounded to.
        format: Format,
        /// It is declared in the format: it was rounded before there was a graph, by calibration or by whoever made the
        /// checkpoint.
        stored: bool,
    },
    /// A matrix of activations.
    Activations {
        /// The term's node that rounds them.
        node: Id,
        /// What they are rounded to.
        format: Format,
    },
}

impl Rounding {
    /// As a plan tells it; `None` for a weight that has no number in the body.
    pub(super) fn told(self, term: &Graph) -> Option<LossyStep> {
        Some(match self {
            Rounding::Weight { weight, format, stored } => {
                let name = &term.declarations().weights.get(weight.0 as usize)?.name;
                LossyStep::Weight { weight: body_weight(name)?, format: format.name(), stored }
            }
            Rounding::Activations { node, format } => {
                LossyStep::Activations { line: term.lines()[usize::from(node)]?, format: format.name() }
            }
        })
    }

    /// The weight that a term declares in its format.
    fn stored(self) -> Option<WeightId> {
        match self {
            Rounding::Weight { weight, stored: true, .. } => Some(weight),
            Rounding::Weight { stored: false, .. } | Rounding::Activations { .. } => None,
        }
    }

    /// What the node takes that rounds in a term; `None` for what is declared rounded.
    pub fn of(self, term: &Graph) -> Option<Id> {
        let node = term.ids().find(|&id| rounding(term, id) == Some(self))?;
        match term.node(node).op {
            Op::Quantize([_, rows]) => Some(rows),
            _ => None,
        }
    }
}

/// The number n of a body's weight, whose name is `wn`.
pub fn body_weight(name: &str) -> Option<usize> {
    name.strip_prefix('w')?.parse().ok()
}

/// What a term rounds, each once: the weights that it reads, in the order in which they are declared, then activations.
pub fn roundings(term: &Graph) -> Vec<Rounding> {
    let live = term.live();
    let mut found: Vec<Rounding> = Vec::new();
    for id in term.ids().filter(|id| live[usize::from(*id)]) {
        if let Some(rounding) = rounding(term, id).filter(|r| !found.contains(r)) {
            found.push(rounding);
        }
    }
    found.sort_by_key(|rounding| match *rounding {
        Rounding::Weight { weight, format, .. } => (false, weight.0 as usize, format.name()),
        Rounding::Activations { node, .. } => (true, usize::from(node), String::new()),
    });
    found
}

/// What a node rounds, or of a weight that is declared in a quantized format, that it is.
fn rounding(term: &Graph, id: Id) -> Option<Rounding> {
    match term.node(id).op {
        Op::Quantize([format, rows]) => {
            let Op::Format(format) = term.node(format).op else { return None };
            match term.node(rows).fact.tensor()?.constant {
                true => Some(Rounding::Weight { weight: matrix(term, rows)?, format, stored: false }),
                false => Some(Rounding::Activations { node: id, format }),
            }
        }
        Op::Weight(weight) => match term.declarations().weights.get(weight.0 as usize)?.dtype {
            Element::Quantized(format) => Some(Rounding::Weight { weight, format, stored: true }),
            Element::Plain(_) => None,
        },
        _ => None,
    }
}

/// The first matrix that an expression of weights is made of. Texts nest as deep as they are long, so without recursion.
fn matrix(term: &Graph, rows: Id) -> Option<WeightId> {
    let mut left = vec![rows];
    while let Some(id) = left.pop() {
        match term.node(id).op {
            Op::Weight(w) if term.declarations().weights.get(w.0 as usize).is_some_and(|w| w.shape.len() == 2) => {
                return Some(w);
            }
            ref op => left.extend(egg::Language::children(op).iter().rev()),
        }
    }
    None
}

/// The term without the roundings in `kept`: `(dequantize (quantize F x))` becomes `x`. Weights that are declared in a
/// quantized format are read as they were.
///
/// # Errors
/// When `x` cannot stand where it was rounded; only terms of strangers have that.
pub fn unrounded(term: &Graph, kept: &[Rounding]) -> Result<Graph, FactError> {
    let mut plain = Graph::with_declarations(term.declarations().clone());
    let mut places: Vec<Id> = Vec::with_capacity(term.nodes().len());
    for (id, node) in term.ids().zip(term.nodes()) {
        let is_kept = |id: Id| rounding(term, id).is_some_and(|r| r.stored().is_none() && kept.contains(&r));
        let place = match node.op {
            Op::Quantize([_, rows]) if is_kept(id) => places[usize::from(rows)],
            Op::Dequantize([rows]) if is_kept(rows) => places[usize::from(rows)],
            ref op => plain.add(egg::Language::map_children(op.clone(), |c| places[usize::from(c)]))?,
        };
        places.push(place);
    }
    for output in term.outputs() {
        plain.add_output(output.name.clone(), places[usize::from(output.id)]);
    }
    Ok(plain)
}

/// What rounding was found to do, on random values.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundingCheck {
    /// As the plan tells it.
    pub step: LossyStep,
    /// The root of the mean square of what it changes in the values that are rounded, over that of the values.
    pub relative_error: f64,
    /// The greatest difference between the term over the weight as it was and the one over what it is rounded to, in
    /// parts of the greatest value.
    pub error: f64,
}

/// Replays the lossy steps of a body's proof on random inputs.
///
/// # Errors
/// When the plan tells of other steps than the proof's first term has, when values move by more than their own size, which
/// rounding to the nearest level never does because zero is a level of every format, and when results are not finite.
pub fn check_roundings(provenance: &Provenance, body: &Body, proof: usize) -> Result<Vec<RoundingCheck>, ProofFault> {
    let chain = Chain::parse(provenance, body, proof)?;
    let start = &chain.terms[0];
    let all = roundings(start);
    let steps: Vec<LossyStep> = all.iter().filter_map(|r| r.told(start)).collect();
    if steps != chain.proof.lossy || steps.len() != all.len() {
        return Err(ProofFault::Roundings { found: list(&chain.proof.lossy), expected: list(&steps) });
    }
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let (rounded, plain) = (values(start)?, unrounded_values(start)?);
    let inputs = |left: &[Rounding]| {
        let mut inputs = rounded.clone();
        for at in left.iter().filter_map(|r| Some(r.stored()?.0 as usize)) {
            inputs.weights[at].clone_from(&plain.weights[at]);
        }
        inputs
    };
    let mut before = outputs(&unrounded(start, &all)?, &inputs(&all))?;
    let mut checks = Vec::new();
    for (i, (rounding, step)) in all.iter().zip(steps).enumerate() {
        let left = &all[i + 1..];
        let after = outputs(&unrounded(start, left)?, &inputs(left))?;
        let error = difference(&before, &after);
        let relative_error = moved(start, *rounding, &rounded, &plain)?;
        let what = || format!("rounding {}", shown(&step));
        if relative_error.is_nan() || relative_error > 1.0 {
            return Err(ProofFault::Numbers { what: what(), error: relative_error, tolerance: 1.0 });
        }
        if !error.is_finite() {
            return Err(ProofFault::Evaluation(format!("{}: the results are not finite", what())));
        }
        checks.push(RoundingCheck { step, relative_error, error });
        before = after;
    }
    Ok(checks)
}

/// How far rounding activations moves them in a term whose inputs are random: the root of the mean square of what it changes,
/// over that of the values. Of a format with a scale for each row it is the larger, the farther a row's greatest value is from
/// the others, so it says what the format does and not what it does to a model's own activations.
///
/// # Errors
/// When the term cannot be evaluated.
pub fn random_error(term: &Graph, rounding: Rounding) -> Result<f64, ProofFault> {
    moved(term, rounding, &values(term)?, &unrounded_values(term)?)
}

/// How far rounding moves values.
fn moved(term: &Graph, rounding: Rounding, rounded: &Values, plain: &Values) -> Result<f64, ProofFault> {
    let pair = if let Some(WeightId(weight)) = rounding.stored() {
        vec![plain.weights[weight as usize].clone(), rounded.weights[weight as usize].clone()]
    } else {
        let from = rounding.of(term).ok_or_else(|| ProofFault::Missing("rounding".into()))?;
        let (Rounding::Weight { format, .. } | Rounding::Activations { format, .. }) = rounding;
        let mut rows = term.only(&[]);
        let stored = rows.quantize(from, format)?;
        let decoded = rows.dequantize(stored)?;
        rows.add_output("before", from);
        rows.add_output("after", decoded);
        outputs(&rows, rounded)?
    };
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let [before, after] = &pair[..] else { return Err(ProofFault::Missing("rounding".into())) };
    let size = square(&mut before.data.iter().map(|&x| f64::from(x)));
    let change = square(&mut before.data.iter().zip(&after.data).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    Ok(if change == 0.0 { 0.0 } else { (change / size).sqrt() })
}

fn shown(step: &LossyStep) -> String {
    match step {
        LossyStep::Weight { weight, format, .. } => format!("w{weight} to {format}"),
        LossyStep::Activations { line, format } => format!("activations to {format} in %{line}"),
    }
}

fn list(steps: &[LossyStep]) -> String {
    let all: Vec<String> = steps.iter().map(shown).collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

/// What the plan's table of rounded weights tells of a step in a region; `None` for a weight that it does not know, as
/// those that came quantized in the checkpoint, for activations, and for all of a plan without a table.
///
/// # Errors
/// When the table tells of another format, or of an error that rounding to the nearest level cannot make.
pub fn told<'p>(plan: &'p Plan, region: &Region, step: &LossyStep) -> Result<Option<&'p RoundedWeight>, ProofFault> {
    let other = |what: String, found: Option<&str>, kept: &str| ProofFault::Shape {
        what,
        found: found.unwrap_or(kept).into(),
        expected: step.format().into(),
    };
    let Some(table) = &plan.quantization else { return Ok(None) };
    let (weight, format, stored) = match step {
        LossyStep::Weight { weight, format, stored } => (*weight, format, *stored),
        LossyStep::Activations { format, .. } => {
            let found = table.activations.as_ref().map(|activations| activations.format.as_str());
            return match found {
                Some(found) if found == format => Ok(None),
                found => Err(other("what the plan says activations are rounded to".into(), found, "floats")),
            };
        }
    };
    let name = region.weights.get(weight).ok_or_else(|| ProofFault::Missing(format!("weight w{weight}")))?;
    let Some(weight) = table.weights.iter().find(|weight| weight.name == *name) else {
        return match stored {
            true => Ok(None),
            false => Err(ProofFault::Missing(format!("{name} in the plan's table of rounded weights"))),
        };
    };
    match &weight.format {
        Some(found) if found == format => {}
        // A calibration that kept a weight leaves it as it came.
        None if stored => return Ok(None),
        found => {
            let what = format!("the format of {name} in the plan's table of rounded weights");
            return Err(other(what, found.as_deref(), "kept"));
        }
    }
    match weight.relative_error {
        Some(error) if !(0.0..=1.0).contains(&error) => {
            Err(ProofFault::Numbers { what: format!("rounding {name} to {format}"), error, tolerance: 1.0 })
        }
        Some(_) | None => Ok(Some(weight)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::formats::Group;

    const INT4: Format = Format::Int4 { group: Group::Of(32), zeros: true };

    fn graph(text: &str) -> Graph {
        let head = "weight @0 \"w0\" f32[8, 64]\nweight @1 \"w1\" int8[8, 64]\narg $0 f32[tokens, 64]\n";
        format!("{head}{text}").parse().unwrap()
    }

    #[test]
    fn each_rounded_weight_is_a_step_and_can_be_taken_back() {
        let term = graph(
            "%0 = (quantize int4-g32 @0)\n%1 = (dequantize %0)\n%2 = (transpose %1)\n%3 = (matmul $0 %2)\n\
             %4 = (dequantize @1)\n%5 = (transpose %4)\n%6 = (matmul $0 %5)\n%7 = (add %3 %6)\noutput out0 %7\n",
        );
        let own = Rounding::Weight { weight: WeightId(0), format: INT4, stored: false };
        let stored = Rounding::Weight { weight: WeightId(1), format: Format::Int8(Group::Row), stored: true };
        assert_eq!(roundings(&term), [own, stored]);
        assert_eq!(unrounded(&term, &[]).unwrap(), term);
        let plain = unrounded(&term, &[own, stored]).unwrap();
        assert_eq!(roundings(&plain), [stored], "what is declared quantized has other values, not another term");
        assert!(!plain.to_string().contains("quantize int4"), "{plain}");
        assert_eq!(own.told(&term), Some(LossyStep::Weight { weight: 0, format: "int4-g32".into(), stored: false }));
    }

    /// Activations are rounded after weights, in each term that rounds them and in none that reads their codes.
    #[test]
    fn rounded_activations_are_steps() {
        let term = graph(
            "%0 = (gelu $0)\n%1 = (quantize int8 %0)\n%2 = (dequantize %1)\n%3 = (dequantize @1)\n%4 = (transpose %3)\n\
             %5 = (matmul %2 %4)\noutput out0 %5\noutput out1 %1\n",
        );
        let int8 = Format::Int8(Group::Row);
        let [stored, activations] = roundings(&term)[..] else { panic!("{:?}", roundings(&term)) };
        assert_eq!(stored, Rounding::Weight { weight: WeightId(1), format: int8, stored: true });
        assert_eq!(activations.told(&term), Some(LossyStep::Activations { line: 1, format: "int8".into() }));
        let plain = unrounded(&term, &[activations]).unwrap();
        assert_eq!(roundings(&plain), [stored]);
        assert!(!plain.to_string().contains("quantize int8"), "{plain}");
        // Each value moves by at most half a step of a 127th of the row's greatest one, which is no more than the root of the
        // sum of squares of 64.
        let error = random_error(&term, activations).unwrap();
        assert!(error > 0.0 && error <= 64f64.sqrt() / 254.0, "{error}");
        let codes: Graph = "arg $0 int8[tokens, 64]\n%0 = (dequantize $0)\noutput out0 %0\n".parse().unwrap();
        assert_eq!(roundings(&codes), []);
    }

    #[test]
    fn the_first_matrix_gives_an_expression_its_name() {
        let term = graph("%0 = (mul @0 2.0)\n%1 = (quantize int4-g32 %0)\n%2 = (dequantize %1)\noutput out0 %2\n");
        let named = Rounding::Weight { weight: WeightId(0), format: INT4, stored: false };
        assert_eq!(roundings(&term), [named]);
        assert_eq!([body_weight("w12"), body_weight("x1"), body_weight("w")], [Some(12), None, None]);
    }
}
