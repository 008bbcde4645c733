//! Proofs checked: each step is an instance of its rule, and the terms before and after it evaluate alike on random
//! inputs. Nothing that a plan says is trusted.

use warpweft_plan::provenance::{Body, Call, Class, Provenance, Variant};
use warpweft_plan::{Plan, Sizes};

use super::chain::{Chain, ProofFault, term};
use super::formula::ALIGNMENT;
use super::lowering::LOWERING;
use super::prove::equal;
use super::random::{CACHED, TOKENS, cost, values};
use crate::graph::Graph;
use crate::graph::eval::{Tensor, Values, evaluate};
use crate::rules::{MERGE_NAME, RuleSet};

/// Greatest difference that a step may make, in parts of the greatest value.
pub fn tolerance(class: Class) -> f64 {
    match class {
        Class::Exact => 0.0,
        // Sums are in f64 in the evaluator, so that what is left are some roundings to f32.
        Class::Reassociates => 1e-5,
        Class::Lossy => 1.0 / 64.0,
    }
}

/// What a step of a proof was found to do.
#[derive(Clone, Debug, PartialEq)]
pub struct StepCheck {
    /// The rule.
    pub rule: String,
    /// Its class.
    pub class: Class,
    /// The greatest difference between the term before and the one after, in parts of the greatest value.
    pub error: f64,
}

/// Checks a body's proof: that it begins with the formula, that each step is an instance of its rule, and that it
/// changes the numbers no more than the rule's class allows.
///
/// # Errors
/// The first fault.
pub fn check_proof(
    provenance: &Provenance,
    body: &Body,
    proof: usize,
    rules: &RuleSet,
) -> Result<Vec<StepCheck>, ProofFault> {
    let chain = Chain::parse(provenance, body, proof)?;
    chain.check_start(provenance, body)?;
    for (i, &(rule, class)) in chain.rules.iter().enumerate() {
        check_step(&chain, i, rule, class, rules)?;
    }
    let inputs = values(&chain.terms[0])?;
    let mut before = outputs(&chain.terms[0], &inputs)?;
    let mut checks = Vec::new();
    for (i, &(rule, class)) in chain.rules.iter().enumerate() {
        let after = outputs(&chain.terms[i + 1], &inputs)?;
        let error = difference(&before, &after);
        let allowed = tolerance(class);
        // Not a number is no less than anything.
        if error.is_nan() || error > allowed {
            let what = format!("step {}, {rule}", i + 1);
            return Err(ProofFault::Numbers { what, error, tolerance: allowed });
        }
        checks.push(StepCheck { rule: rule.into(), class, error });
        before = after;
    }
    Ok(checks)
}

fn check_step(chain: &Chain<'_>, at: usize, rule: &str, class: Class, rules: &RuleSet) -> Result<(), ProofFault> {
    let step = at + 1;
    let known = rules.patterns.iter().find(|r| r.name == rule);
    let lowering = LOWERING.iter().find(|s| s.name == rule);
    let merges = rules.merges && rule == MERGE_NAME;
    let expected = known.map(|r| r.class).or(lowering.map(|s| s.class)).or(merges.then_some(Class::Exact));
    let expected = expected.ok_or_else(|| ProofFault::Unknown { step, rule: rule.into() })?;
    if class != expected {
        let (found, expected) = (class.name(), expected.name());
        return Err(ProofFault::Class { step, rule: rule.into(), found, expected });
    }
    let (mut before, mut after) = (&chain.terms[at], &chain.terms[at + 1]);
    if chain.proof.steps[at].backward {
        (before, after) = (after, before);
    }
    let instance = match lowering {
        // Lowering leaves the term as it is.
        Some(_) => before == after,
        None => {
            let only = RuleSet { patterns: known.cloned().into_iter().collect(), merges };
            equal(before, after, &only)?
        }
    };
    if instance { Ok(()) } else { Err(ProofFault::NoInstance { step, rule: rule.into() }) }
}

/// What [`check_call`] finds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CallCheck {
    /// The kernel's meaning is the last term of its proof.
    Proved,
    /// It has no meaning of its own, but a part in a proof.
    Part,
}

/// Checks that what a kernel means is the end of its proof.
///
/// # Errors
/// When it is not.
pub fn check_call(
    plan: &Plan,
    provenance: &Provenance,
    body: &Body,
    variant: &Variant,
    call: usize,
) -> Result<CallCheck, ProofFault> {
    let at = call;
    let call = variant.calls.get(at).ok_or_else(|| ProofFault::Missing(format!("call {at}")))?;
    let Some(proof) = call.proof else {
        let proved = |other: &usize| variant.calls.get(*other).is_some_and(|c| c.proof.is_some());
        let within = !call.within.is_empty() && call.within.iter().all(proved);
        return if within { Ok(CallCheck::Part) } else { Err(ProofFault::Unproved { call: at }) };
    };
    let (Some(kernel), Some(operands)) = (call.kernel, call.operands) else { return Ok(CallCheck::Part) };
    let kernel = plan.kernels.get(kernel).ok_or_else(|| ProofFault::Missing(format!("kernel {kernel}")))?;
    let what = format!("the meaning of {}", kernel.name);
    let meaning: Graph = kernel.meaning.parse().map_err(|error| ProofFault::Text { what: what.clone(), error })?;
    if meaning.outputs().is_empty() {
        return Ok(CallCheck::Part);
    }
    let chain = Chain::parse(provenance, body, proof)?;
    let operands = term(provenance, chain.proof, operands, "the kernel's operands")?;
    let inputs = values(&chain.terms[0])?;
    let found = applied(&meaning, &operands, inputs.clone(), &what)?;
    let (expected, found) = matched(&outputs(chain.end(), &inputs)?, &found, call, &what)?;
    let error = difference(&expected, &found);
    match error == 0.0 {
        true => Ok(CallCheck::Proved),
        false => Err(ProofFault::Numbers { what, error, tolerance: 0.0 }),
    }
}

pub(super) fn outputs(graph: &Graph, inputs: &Values) -> Result<Vec<Tensor>, ProofFault> {
    cost(graph)?;
    evaluate(graph, inputs).map_err(|e| ProofFault::Evaluation(e.to_string()))
}

/// The outputs of a kernel's meaning, applied to its operands on the inputs of its proof.
fn applied(meaning: &Graph, operands: &Graph, inputs: Values, what: &str) -> Result<Vec<Tensor>, ProofFault> {
    cost(meaning)?;
    let found = outputs(operands, &inputs)?;
    let declared = meaning.declarations();
    let sizes = Sizes { tokens: TOKENS, context: TOKENS + CACHED, sequences: 1 };
    let args = declared.args.iter().map(|a| a.shape.iter().map(|d| d.eval(sizes).map(|n| n as usize)).collect());
    let weights = declared.weights.iter().map(|w| w.shape.iter().map(|&n| Some(n as usize)).collect());
    let expected: Vec<Vec<Option<usize>>> = args.chain(weights).collect();
    let same = found.len() == expected.len()
        && found.iter().zip(&expected).all(|(t, shape)| t.data.len() == shape.iter().flatten().product::<usize>());
    if !same {
        let found: Vec<_> = found.iter().map(|t| &t.shape).collect();
        let what = format!("what {what} is applied to");
        return Err(ProofFault::Shape { what, found: format!("{found:?}"), expected: format!("{expected:?}") });
    }
    // A row vector of a graph is a vector of a kernel.
    let mut reshaped = found
        .into_iter()
        .zip(expected)
        .map(|(t, shape)| Tensor { shape: shape.into_iter().flatten().collect(), data: t.data });
    let args: Vec<Tensor> = reshaped.by_ref().take(declared.args.len()).collect();
    let applied = Values { args, weights: reshaped.collect(), ..inputs };
    if declared.caches.len() > operands.declarations().caches.len()
        || declared.caches.iter().zip(&operands.declarations().caches).any(|(a, b)| a != b)
    {
        let found = format!("{:?}", declared.caches);
        let expected = format!("{:?}", operands.declarations().caches);
        return Err(ProofFault::Shape { what: format!("the caches of {what}"), found, expected });
    }
    let found = evaluate(meaning, &applied).map_err(|e| ProofFault::Evaluation(format!("{what}: {e}")))?;
    // The first value of a call is its `out`, or there are several, all called that.
    let mut named: Vec<_> = meaning.outputs().iter().zip(found).collect();
    named.sort_by_key(|(output, _)| !output.name.starts_with("out"));
    Ok(named.into_iter().map(|(_, found)| found).collect())
}

/// The outputs of a proof and what a kernel's results have in their places: columns of one matrix begin at multiples of
/// [`ALIGNMENT`], and a call may compute some columns alone.
fn matched(
    outputs: &[Tensor],
    found: &[Tensor],
    call: &Call,
    what: &str,
) -> Result<(Vec<Tensor>, Vec<Tensor>), ProofFault> {
    let mismatch = || ProofFault::Shape {
        what: format!("the results of {what}"),
        found: format!("{:?}", found.iter().map(|t| &t.shape).collect::<Vec<_>>()),
        expected: format!("{:?}", outputs.iter().map(|t| &t.shape).collect::<Vec<_>>()),
    };
    let (mut expected, mut of_kernel) = (Vec::new(), Vec::new());
    let (mut outputs, mut rest) = (outputs, found);
    if let (Some((first, n)), [whole, others @ ..], [window, further @ ..]) = (call.columns, outputs, found) {
        expected.push(columns(whole, first as usize, n as usize).ok_or_else(mismatch)?);
        of_kernel.push(window.clone());
        // Of several windows, one alone may write what they have beside the result.
        (outputs, rest) = (others.get(..further.len()).ok_or_else(mismatch)?, further);
    }
    let mut next = 0;
    for output in outputs {
        let [result, further @ ..] = rest else { return Err(mismatch()) };
        if next == 0 && output.shape == result.shape {
            of_kernel.push(result.clone());
            rest = further;
        } else {
            let (Some(&width), [_, whole]) = (output.shape.get(1), &result.shape[..]) else { return Err(mismatch()) };
            of_kernel.push(columns(result, next, width).ok_or_else(mismatch)?);
            next = (next + width).next_multiple_of(ALIGNMENT as usize);
            if next >= *whole {
                (next, rest) = (0, further);
            }
        }
        expected.push(output.clone());
    }
    if next == 0 && rest.is_empty() { Ok((expected, of_kernel)) } else { Err(mismatch()) }
}

fn columns(t: &Tensor, first: usize, n: usize) -> Option<Tensor> {
    let [rows, width] = t.shape[..] else { return None };
    if width == 0 || first.checked_add(n)? > width {
        return None;
    }
    let data = t.data.chunks(width).flat_map(|row| &row[first..first + n]).copied().collect();
    Some(Tensor { shape: vec![rows, n], data })
}

/// The greatest difference in parts of the greatest value; equal numbers and two that are none do not differ.
pub(super) fn difference(a: &[Tensor], b: &[Tensor]) -> f64 {
    let pairs = || a.iter().zip(b).flat_map(|(a, b)| a.data.iter().zip(&b.data));
    let scale = pairs().map(|(a, _)| f64::from(a.abs())).filter(|x| x.is_finite()).fold(0.0, f64::max);
    if a.len() != b.len() || a.iter().zip(b).any(|(a, b)| a.shape != b.shape) {
        return f64::INFINITY;
    }
    let worst = pairs()
        .filter(|(a, b)| a != b && !(a.is_nan() && b.is_nan()))
        .map(|(a, b)| f64::from(*a) - f64::from(*b))
        .map(|d| if d.is_finite() { d.abs() } else { f64::INFINITY })
        .fold(0.0, f64::max);
    if worst == 0.0 { 0.0 } else { worst / scale }
}
