//! Proofs replayed.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde::Serialize;
use warpweft_compiler::proof::algebra::Names;
use warpweft_compiler::proof::{
    CallCheck, Chain, ProofFault, RoundingCheck, StepCheck, body_weight, check_call, check_proof, check_roundings,
    roundings as roundings_of,
};
use warpweft_compiler::rules::RuleSet;
use warpweft_plan::Plan;
use warpweft_plan::provenance::Provenance;

use super::errors::{Told, told_errors};
use super::{Explain, Part, chosen, is_wanted, kernel_name, place};
use crate::CliError;
use crate::console::Console;
use crate::interrupt;
use crate::lossy::{Subject, ours, subject};
use crate::progress::Unit;
use crate::units;

#[derive(Serialize)]
struct Document {
    proofs: Vec<ProofDocument>,
    /// Kernels whose meaning is the end of their proof.
    meanings: usize,
    /// What the plan says and nothing here shows to be true.
    unverified: Vec<String>,
    faults: Vec<String>,
}

#[derive(Serialize)]
struct ProofDocument {
    place: String,
    kernels: Vec<String>,
    results: Vec<String>,
    lossy: Vec<LossyDocument>,
    steps: Vec<StepDocument>,
    fault: Option<String>,
}

#[derive(Serialize)]
struct StepDocument {
    rule: String,
    class: &'static str,
    /// In parts of the greatest value.
    error: f64,
}

#[derive(Serialize)]
struct LossyDocument {
    /// A weight has its name in the checkpoint, in the first layer that has the proof.
    #[serde(flatten)]
    of: Subject,
    format: String,
    /// How far rounding moves random values, relative to them.
    relative_error: f64,
    /// The least and the greatest that the plan tells of the model's own weights; none where it does not tell.
    told: Option<(f64, f64)>,
    /// What that changes in the results, in parts of the greatest value.
    error: f64,
}

pub(super) fn run(
    args: &Explain,
    plan: &Plan,
    provenance: &Provenance,
    console: &mut Console<'_>,
) -> Result<(), CliError> {
    let all = args.target.is_none() && args.rows.is_none();
    let parts = chosen(args, plan, provenance, all)?;
    let mut document = checked(args, plan, provenance, &parts, console)?;
    let Told { unverified, faults } = told_errors(plan, &parts, args.checkpoint.as_deref(), console)?;
    document.unverified = unverified;
    document.faults.extend(faults);
    if console.json {
        console.print_json(&document)?;
    } else {
        console.print(&text(&document))?;
    }
    match document.faults.as_slice() {
        [] => Ok(()),
        [only] => Err(CliError::Failed(only.clone())),
        [first, rest @ ..] => Err(CliError::Failed(format!("{first}; and {} more", rest.len()))),
    }
}

fn checked(
    args: &Explain,
    plan: &Plan,
    provenance: &Provenance,
    parts: &[Part<'_>],
    console: &mut Console<'_>,
) -> Result<Document, CliError> {
    let rules = RuleSet::all().map_err(warpweft_compiler::CompileError::from)?;
    // A proof is checked once, whatever the number of programs that have it.
    let mut proofs: BTreeMap<(*const (), usize), (&Part<'_>, BTreeSet<&str>)> = BTreeMap::new();
    let mut calls = Vec::new();
    for part in parts {
        for at in (0..part.variant.calls.len()).filter(|&at| is_wanted(args, plan, part.variant, at)) {
            if let Some(proof) = part.variant.calls[at].proof {
                let key = (std::ptr::from_ref(part.body).cast(), proof);
                let (_, kernels) = proofs.entry(key).or_insert_with(|| (part, BTreeSet::new()));
                kernels.insert(kernel_name(plan, part.variant, at));
            }
            calls.push((part, at));
        }
    }
    let mut bar = console.bar("proofs");
    let total = (proofs.len() + calls.len()) as u64;
    let mut document = Document { proofs: Vec::new(), meanings: 0, unverified: Vec::new(), faults: Vec::new() };
    for (done, ((_, proof), (part, kernels))) in proofs.into_iter().enumerate() {
        interrupt::check()?;
        bar.set(done as u64, total, Unit::Items);
        let checked = check_proof(provenance, part.body, proof, &rules)
            .and_then(|steps| Ok((steps, roundings(plan, provenance, part, proof)?)));
        let results = part.body.proofs.get(proof).map_or(&[][..], |p| &p.results);
        let place = place(&part.regions, provenance);
        let kernels: Vec<String> = kernels.into_iter().map(str::to_owned).collect();
        let fault = checked.as_ref().err().map(|fault| format!("{place}, {}: {fault}", some(&kernels)));
        document.faults.extend(fault.clone());
        let (steps, lossy) = checked.unwrap_or_default();
        document.proofs.push(ProofDocument {
            place,
            kernels,
            results: results.iter().map(ToString::to_string).collect(),
            lossy,
            steps: steps.into_iter().map(StepDocument::from).collect(),
            fault,
        });
    }
    let mut seen = BTreeSet::new();
    for (done, (part, at)) in calls.into_iter().enumerate() {
        interrupt::check()?;
        bar.set((document.proofs.len() + done) as u64, total, Unit::Items);
        let call = &part.variant.calls[at];
        let key = (call.kernel, call.proof, call.operands, call.columns, std::ptr::from_ref(part.body).cast::<()>());
        if call.proof.is_some() && !seen.insert(key) {
            continue;
        }
        match check_call(plan, provenance, part.body, part.variant, at) {
            Ok(CallCheck::Proved) => document.meanings += 1,
            Ok(CallCheck::Part) => {}
            Err(fault) => document.faults.push(of_call(plan, provenance, part, at, &fault)),
        }
    }
    drop(bar);
    Ok(document)
}

/// The roundings of a proof, replayed, and what the plan tells of them.
fn roundings(
    plan: &Plan,
    provenance: &Provenance,
    part: &Part<'_>,
    proof: usize,
) -> Result<Vec<LossyDocument>, ProofFault> {
    let mut documents = Vec::new();
    let checks = check_roundings(provenance, part.body, proof)?;
    let chain = Chain::parse(provenance, part.body, proof)?;
    let names = part.regions.first().map(|region| names(&chain, &region.weights)).unwrap_or_default();
    let start = &chain.terms[0];
    // The roundings of a proof that was checked are the steps that it tells of.
    for (rounding, check) in roundings_of(start).into_iter().zip(checks) {
        let RoundingCheck { step, relative_error, error } = check;
        let Some(told) = ours(plan, &part.regions, &step)? else { continue };
        let told = told.iter().filter_map(|weight| weight.relative_error).map(|x| (x, x));
        let told = told.reduce(|(least, greatest), (x, _)| (least.min(x), greatest.max(x)));
        let (of, format) = (subject(start, rounding, &names), step.format().to_owned());
        documents.push(LossyDocument { of, format, relative_error, told, error });
    }
    Ok(documents)
}

/// Weights by their names in the checkpoint, and the rest as `explain` calls it.
fn names(chain: &Chain<'_>, weights: &[String]) -> Names {
    let declared = chain.terms[0].declarations();
    let checkpoint = |name: &String| body_weight(name).and_then(|at| weights.get(at)).unwrap_or(name).clone();
    Names {
        weights: declared.weights.iter().map(|weight| checkpoint(&weight.name)).collect(),
        args: (0..declared.args.len()).map(|i| format!("x{i}")).collect(),
        outputs: Vec::new(),
    }
}

fn of_call(plan: &Plan, provenance: &Provenance, part: &Part<'_>, at: usize, fault: &ProofFault) -> String {
    let name = kernel_name(plan, part.variant, at);
    format!("{}, {}, {name}: {fault}", place(&part.regions, provenance), part.variant.target)
}

/// One of several names and how many more there are.
fn some(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [only] => only.clone(),
        [first, rest @ ..] => format!("{first} and {} more kernels", rest.len()),
    }
}

impl From<StepCheck> for StepDocument {
    fn from(step: StepCheck) -> StepDocument {
        StepDocument { rule: step.rule, class: step.class.name(), error: step.error }
    }
}

fn text(document: &Document) -> String {
    let mut lines = Vec::new();
    let mut place = "";
    for proof in &document.proofs {
        if proof.place != place {
            place = &proof.place;
            lines.push(place.to_owned());
        }
        lines.push(format!("  {} ({})", proof.results.join(", "), some(&proof.kernels)));
        for LossyDocument { of, format, relative_error, told, error } in &proof.lossy {
            let told = match told {
                Some((a, b)) if a == b => format!(", {a:.1e} in the model's"),
                Some((a, b)) => format!(", {a:.1e} to {b:.1e} in the model's"),
                None => String::new(),
            };
            lines.push(format!(
                "    round {of} to {format} (lossy): error {error:.1e}; {relative_error:.1e} in random values{told}"
            ));
        }
        for step in &proof.steps {
            let error = if step.error == 0.0 { "0".into() } else { format!("{:.1e}", step.error) };
            lines.push(format!("    {} ({}): error {error}", step.rule, step.class));
        }
        lines.extend(proof.fault.iter().map(|_| "    does not hold".to_owned()));
    }
    let steps: usize = document.proofs.iter().map(|p| p.steps.len() + p.lossy.len()).sum();
    let rounding = document.proofs.iter().flat_map(|p| &p.lossy).map(|step| step.error).fold(0.0, f64::max);
    let of_class = |class: &str| {
        document.proofs.iter().flat_map(|p| &p.steps).filter(|s| s.class == class).map(|s| s.error).fold(0.0, f64::max)
    };
    lines.push(format!(
        "\n{} proofs of {} steps; greatest errors: exact {:e}, reassociates {:.1e}, lossy {:.1e}; {} kernels mean what was \
         proved",
        units::count(document.proofs.len()),
        units::count(steps),
        of_class("exact"),
        of_class("reassociates"),
        of_class("lossy").max(rounding),
        units::count(document.meanings),
    ));
    lines.extend(document.unverified.iter().map(|what| format!("not verified: {what}")));
    lines.join("\n")
}
