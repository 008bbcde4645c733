//! The lossy steps of a proof. Its terms are over weights as they are rounded; before its first term stands the model's
//! formula over the weights as the checkpoint has them, and rounding turns that into the first term, one weight after the
//! other. No rule does this, so each step tells its weight, its format and how far it moves the numbers.

use warpweft_plan::provenance::{Body, LossyStep, Provenance, Region};
use warpweft_plan::{Plan, RoundedWeight};

use super::chain::{Chain, ProofFault};
use super::check::{difference, outputs};
use super::random::{unrounded_values, values};
use crate::formats::Format;
use crate::graph::eval::Values;
use crate::graph::{Element, FactError, Graph, Id, Op, WeightId};

/// A weight that a term reads rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounding {
    /// In the term's declarations.
    pub weight: WeightId,
    /// What it is rounded to.
    pub format: Format,
    /// It is declared in the format: it was rounded before there was a graph, by calibration or by whoever made the
    /// checkpoint.
    pub stored: bool,
}

impl Rounding {
    /// As a plan tells it; `None` for a weight that has no number in the body.
    pub(super) fn told(self, term: &Graph) -> Option<LossyStep> {
        let name = &term.declarations().weights.get(self.weight.0 as usize)?.name;
        Some(LossyStep { weight: body_weight(name)?, format: self.format.name(), stored: self.stored })
    }
}

/// The number n of a body's weight, whose name is `wn`.
pub fn body_weight(name: &str) -> Option<usize> {
    name.strip_prefix('w')?.parse().ok()
}

/// The weights that a term reads rounded, each once, in the order in which they are declared.
pub fn roundings(term: &Graph) -> Vec<Rounding> {
    let live = term.live();
    let mut found: Vec<Rounding> = Vec::new();
    for id in term.ids().filter(|id| live[usize::from(*id)]) {
        if let Some(rounding) = rounding(term, id).filter(|r| !found.contains(r)) {
            found.push(rounding);
        }
    }
    found.sort_by_key(|r| (r.weight.0, r.format.name()));
    found
}

/// What a node rounds, or of a weight that is declared in a quantized format, that it is.
fn rounding(term: &Graph, id: Id) -> Option<Rounding> {
    match term.node(id).op {
        Op::Quantize([format, rows]) => {
            let Op::Format(format) = term.node(format).op else { return None };
            Some(Rounding { weight: matrix(term, rows)?, format, stored: false })
        }
        Op::Weight(weight) => match term.declarations().weights.get(weight.0 as usize)?.dtype {
            Element::Quantized(format) => Some(Rounding { weight, format, stored: true }),
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

/// The term over its weights as they were before those were rounded that `kept` says so of: `(dequantize (quantize F w))`
/// becomes `w`. Weights that are declared in a quantized format are read as they were.
///
/// # Errors
/// When `w` cannot stand where it was rounded; only terms of strangers have that.
pub fn unrounded(term: &Graph, kept: &[Rounding]) -> Result<Graph, FactError> {
    let mut plain = Graph::with_declarations(term.declarations().clone());
    let mut places: Vec<Id> = Vec::with_capacity(term.nodes().len());
    for (id, node) in term.ids().zip(term.nodes()) {
        let own = rounding(term, id).is_some_and(|r| kept.contains(&r));
        let place = match node.op {
            Op::Quantize([_, rows]) if own => places[usize::from(rows)],
            Op::Dequantize([rows]) if rounding(term, rows).is_some_and(|r| !r.stored && kept.contains(&r)) => {
                places[usize::from(rows)]
            }
            ref op => plain.add(egg::Language::map_children(op.clone(), |c| places[usize::from(c)]))?,
        };
        places.push(place);
    }
    for output in term.outputs() {
        plain.add_output(output.name.clone(), places[usize::from(output.id)]);
    }
    Ok(plain)
}

/// What rounding a weight was found to do, on random values.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundingCheck {
    /// As the plan tells it.
    pub step: LossyStep,
    /// The root of the mean square of what it changes in the weight's values, over that of the values.
    pub relative_error: f64,
    /// The greatest difference between the term over the weight as it was and the one over what it is rounded to, in
    /// parts of the greatest value.
    pub error: f64,
}

/// Replays the lossy steps of a body's proof on random inputs.
///
/// # Errors
/// When the plan tells of other steps than the proof's first term has, when a weight moves by more than its own size, which
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
        for at in left.iter().filter(|r| r.stored).map(|r| r.weight.0 as usize) {
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
        let what = || format!("rounding w{} to {}", step.weight, step.format);
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

/// How far rounding moves a weight's values.
fn moved(term: &Graph, rounding: Rounding, rounded: &Values, plain: &Values) -> Result<f64, ProofFault> {
    let pair = if rounding.stored {
        let at = rounding.weight.0 as usize;
        vec![plain.weights[at].clone(), rounded.weights[at].clone()]
    } else {
        let mut rows = term.only(&[]);
        let node = term.ids().find(|&id| self::rounding(term, id) == Some(rounding));
        let Some((id, Op::Quantize([_, from]))) = node.map(|id| (id, term.node(id).op.clone())) else {
            return Err(ProofFault::Missing("rounding".into()));
        };
        let decoded = rows.dequantize(id)?;
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

fn list(steps: &[LossyStep]) -> String {
    let one = |step: &LossyStep| format!("w{} to {}", step.weight, step.format);
    let all: Vec<String> = steps.iter().map(one).collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

/// What the plan's table of rounded weights tells of a step in a region; `None` for a weight that it does not know, as
/// those that came quantized in the checkpoint, and all of a plan without a table.
///
/// # Errors
/// When the table tells of another format, or of an error that rounding to the nearest level cannot make.
pub fn told<'p>(plan: &'p Plan, region: &Region, step: &LossyStep) -> Result<Option<&'p RoundedWeight>, ProofFault> {
    let Some(name) = region.weights.get(step.weight) else {
        return Err(ProofFault::Missing(format!("weight w{}", step.weight)));
    };
    let Some(table) = &plan.quantization else { return Ok(None) };
    let Some(weight) = table.weights.iter().find(|weight| weight.name == *name) else {
        return match step.stored {
            true => Ok(None),
            false => Err(ProofFault::Missing(format!("{name} in the plan's table of rounded weights"))),
        };
    };
    match &weight.format {
        Some(format) if *format == step.format => {}
        // A calibration that kept a weight leaves it as it came.
        None if step.stored => return Ok(None),
        found => {
            return Err(ProofFault::Shape {
                what: format!("the format of {name} in the plan's table of rounded weights"),
                found: found.clone().unwrap_or_else(|| "kept".into()),
                expected: step.format.clone(),
            });
        }
    }
    match weight.relative_error {
        Some(error) if !(0.0..=1.0).contains(&error) => {
            Err(ProofFault::Numbers { what: format!("rounding {name} to {}", step.format), error, tolerance: 1.0 })
        }
        Some(_) | None => Ok(Some(weight)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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
        let own = Rounding { weight: WeightId(0), format: INT4, stored: false };
        let stored = Rounding { weight: WeightId(1), format: Format::Int8(Group::Row), stored: true };
        assert_eq!(roundings(&term), [own, stored]);
        assert_eq!(unrounded(&term, &[]).unwrap(), term);
        let plain = unrounded(&term, &[own, stored]).unwrap();
        assert_eq!(roundings(&plain), [stored], "what is declared quantized has other values, not another term");
        assert!(!plain.to_string().contains("quantize int4"), "{plain}");
        assert_eq!(own.told(&term), Some(LossyStep { weight: 0, format: "int4-g32".into(), stored: false }));
    }

    #[test]
    fn the_first_matrix_gives_an_expression_its_name() {
        let term = graph("%0 = (mul @0 2.0)\n%1 = (quantize int4-g32 %0)\n%2 = (dequantize %1)\noutput out0 %2\n");
        assert_eq!(roundings(&term)[0].weight, WeightId(0));
        assert_eq!([body_weight("w12"), body_weight("x1"), body_weight("w")], [Some(12), None, None]);
    }
}
