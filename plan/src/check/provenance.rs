//! Checks of where a plan comes from: every index is in range, and what is said of steps is true of them.

use std::collections::HashSet;

use super::MAX_TEXT;
use crate::error::{PlanError, clipped, invalid};
use crate::provenance::{Body, Call, FormulaValue, LossyStep, Proof, Provenance, Round, Variant};
use crate::{Plan, Program};

/// Longest name of a rule or a stage, in bytes.
const MAX_NAME: usize = 200;

pub(super) fn check(plan: &Plan, provenance: &Provenance) -> Result<(), PlanError> {
    let lines = check_texts(&provenance.texts)?;
    let mut names = HashSet::new();
    for (i, rule) in provenance.rules.iter().enumerate() {
        let at = format!("provenance: rule {i}");
        check_name(&at, &rule.name)?;
        if !names.insert(rule.name.as_str()) {
            return Err(invalid(at, format!("{:?} twice", rule.name), "unique names"));
        }
    }
    for (i, body) in provenance.bodies.iter().enumerate() {
        Bodies { plan, provenance, lines: &lines }.body(&format!("provenance: body {i}"), body)?;
    }
    check_regions(plan, provenance)?;
    check_origins(plan, provenance)
}

/// For each text, how many lines it numbers.
fn check_texts(texts: &[String]) -> Result<Vec<usize>, PlanError> {
    if let Some(i) = texts.iter().position(|text| text.len() > MAX_TEXT) {
        let found = format!("{} bytes", texts[i].len());
        return Err(invalid(format!("provenance: text {i}"), found, format!("at most {MAX_TEXT} bytes")));
    }
    Ok(texts.iter().map(|text| text.lines().filter(|line| line.starts_with('%')).count()).collect())
}

fn check_name(at: &str, name: &str) -> Result<(), PlanError> {
    match name.len() {
        1..=MAX_NAME => Ok(()),
        n => Err(invalid(at, format!("a name of {n} bytes"), format!("1 to {MAX_NAME}"))),
    }
}

fn below(at: &str, what: &str, index: usize, limit: usize) -> Result<(), PlanError> {
    match index < limit {
        true => Ok(()),
        false => Err(invalid(format!("{at}: {what}"), index, format!("below {limit}"))),
    }
}

struct Bodies<'p> {
    plan: &'p Plan,
    provenance: &'p Provenance,
    lines: &'p [usize],
}

impl Bodies<'_> {
    fn body(&self, at: &str, body: &Body) -> Result<(), PlanError> {
        self.text(at, "formula", body.formula)?;
        for (i, stage) in body.stages.iter().enumerate() {
            let at = format!("{at}: stage {i}");
            check_name(&at, &stage.name)?;
            stage.rounds.iter().try_for_each(|round| self.round(&at, round))?;
        }
        for (i, proof) in body.proofs.iter().enumerate() {
            self.proof(&format!("{at}: proof {i}"), body, proof)?;
        }
        for (i, variant) in body.variants.iter().enumerate() {
            self.variant(&format!("{at}: variant {i}"), body, variant)?;
            if body.variants[..i].iter().any(|other| same_part(other, variant)) {
                let found = "the target and rows of another variant";
                return Err(invalid(format!("{at}: variant {i}"), found, "one for each target and range of rows"));
            }
        }
        Ok(())
    }

    fn text(&self, at: &str, what: &str, index: usize) -> Result<(), PlanError> {
        below(at, what, index, self.provenance.texts.len())
    }

    fn round(&self, at: &str, round: &Round) -> Result<(), PlanError> {
        round.applied.iter().try_for_each(|&(rule, _)| below(at, "rule", rule, self.provenance.rules.len()))
    }

    fn proof(&self, at: &str, body: &Body, proof: &Proof) -> Result<(), PlanError> {
        self.text(at, "declarations", proof.declarations)?;
        self.text(at, "start", proof.start)?;
        for (i, step) in proof.lossy.iter().enumerate() {
            let at = format!("{at}: lossy step {i}");
            check_name(&format!("{at}: format"), step.format())?;
            match *step {
                LossyStep::Activations { line, .. } => below(&at, "line", line as usize, self.lines[proof.start])?,
                // With the regions that have such weights.
                LossyStep::Weight { .. } => {}
            }
        }
        for (i, step) in proof.steps.iter().enumerate() {
            let at = format!("{at}: step {i}");
            below(&at, "rule", step.rule, self.provenance.rules.len())?;
            self.text(&at, "after", step.after)?;
        }
        if proof.results.is_empty() {
            return Err(invalid(format!("{at}: results"), "none", "at least one value of the formula"));
        }
        for value in proof.arguments.iter().flatten().chain(&proof.results) {
            match *value {
                FormulaValue::Line(line) => below(at, "line", line as usize, self.lines[body.formula])?,
                // Arguments are declared in the text, which this crate does not parse.
                FormulaValue::Arg(_) => {}
            }
        }
        Ok(())
    }

    fn variant(&self, at: &str, body: &Body, variant: &Variant) -> Result<(), PlanError> {
        self.text(at, "extracted", variant.extracted)?;
        check_seconds(at, variant.seconds)?;
        if !self.plan.programs.iter().any(|program| variant.is_of(program)) {
            let found = format!("{}, {} to {:?} rows", clipped(&variant.target), variant.min_rows, variant.max_rows);
            return Err(invalid(at, found, "the target and rows of a program"));
        }
        for (i, call) in variant.calls.iter().enumerate() {
            self.call(&format!("{at}: call {i}"), body, variant, call)?;
        }
        Ok(())
    }

    fn call(&self, at: &str, body: &Body, variant: &Variant, call: &Call) -> Result<(), PlanError> {
        call.kernel.map_or(Ok(()), |kernel| below(at, "kernel", kernel, self.plan.kernels.len()))?;
        check_seconds(at, call.seconds)?;
        let lines = |lines: &[u32], text: usize| {
            lines.iter().try_for_each(|&line| below(at, "line", line as usize, self.lines[text]))
        };
        lines(&call.nodes, variant.extracted)?;
        lines(&call.formula, body.formula)?;
        call.proof.map_or(Ok(()), |proof| below(at, "proof", proof, body.proofs.len()))?;
        call.operands.map_or(Ok(()), |text| self.text(at, "operands", text))?;
        call.within.iter().try_for_each(|&other| below(at, "call", other, variant.calls.len()))?;
        match call.columns {
            Some((first, n)) if n == 0 || first.checked_add(n).is_none_or(|end| end > 1 << 32) => {
                Err(invalid(format!("{at}: columns"), format!("{n} from {first}"), "at least one, below 2^32"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn same_part(a: &Variant, b: &Variant) -> bool {
    (&a.target, a.min_rows, a.max_rows) == (&b.target, b.min_rows, b.max_rows)
}

fn check_seconds(at: &str, seconds: f64) -> Result<(), PlanError> {
    match seconds.is_finite() && seconds >= 0.0 {
        true => Ok(()),
        false => Err(invalid(format!("{at}: seconds"), seconds, "a finite number, 0 or more")),
    }
}

fn check_regions(plan: &Plan, provenance: &Provenance) -> Result<(), PlanError> {
    for (i, region) in provenance.regions.iter().enumerate() {
        let at = format!("provenance: region {i}");
        below(&at, "body", region.body, provenance.bodies.len())?;
        region.layer.map_or(Ok(()), |layer| below(&at, "layer", layer as usize, plan.model.layers as usize))?;
        let lossy = provenance.bodies[region.body].proofs.iter().flat_map(|proof| &proof.lossy);
        let greatest = lossy.filter_map(LossyStep::weight).max();
        greatest.map_or(Ok(()), |weight| below(&at, "rounded weight", weight, region.weights.len()))?;
    }
    Ok(())
}

fn check_origins(plan: &Plan, provenance: &Provenance) -> Result<(), PlanError> {
    let (found, expected) = (provenance.origins.len(), plan.programs.len());
    if found != expected {
        return Err(invalid("provenance: origins", found, format!("{expected} (the programs)")));
    }
    for (i, (origins, program)) in provenance.origins.iter().zip(&plan.programs).enumerate() {
        let at = format!("provenance: origins of program {i}");
        let steps = program.steps.len();
        if origins.regions.len() != steps || origins.calls.len() != steps {
            let found = format!("{} regions and {} calls", origins.regions.len(), origins.calls.len());
            return Err(invalid(at, found, format!("{steps} of each (the steps)")));
        }
        for (j, (&region, &call)) in origins.regions.iter().zip(&origins.calls).enumerate() {
            check_origin(&format!("{at}: step {j}"), provenance, program, j, region, call)?;
        }
    }
    Ok(())
}

fn check_origin(
    at: &str,
    provenance: &Provenance,
    program: &Program,
    step: usize,
    region: usize,
    call: usize,
) -> Result<(), PlanError> {
    below(at, "region", region, provenance.regions.len())?;
    let (step, region) = (&program.steps[step], &provenance.regions[region]);
    if step.layer != region.layer {
        return Err(invalid(format!("{at}: layer"), format!("{:?}", region.layer), format!("{:?}", step.layer)));
    }
    let missing = || invalid(at, "a body without the program's target and rows", "a variant for them");
    let variant = provenance.bodies[region.body].variant(program).ok_or_else(missing)?;
    below(at, "call", call, variant.calls.len())?;
    let kernel = variant.calls[call].kernel;
    match kernel == Some(step.kernel) {
        true => Ok(()),
        false => Err(invalid(format!("{at}: kernel"), format!("{kernel:?}"), format!("{} (the step's)", step.kernel))),
    }
}
