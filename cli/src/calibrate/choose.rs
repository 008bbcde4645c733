//! Formats within limits: how sensitive each weight is, and which of them pays for its bytes.

use std::collections::BTreeMap;

use warpweft_compiler::formats::{Format, Group};
use warpweft_compiler::graph::WeightDecl;
use warpweft_compiler::quantize::knapsack::{Item, KnapsackError, solve};
use warpweft_compiler::quantize::{Candidate, Feedback, Probe, sensitivities};
use warpweft_plan::DType;

use super::work::Work;
use super::{Calibrated, finish, round_all, weigh};
use crate::CliError;
use crate::console::Console;
use crate::progress::Unit;
use crate::units;

/// What is tried for each weight, beside leaving it as it is.
const FORMATS: [Format; 6] = [
    Format::Mxfp4,
    Format::Int4 { group: Group::Of(128), zeros: true },
    Format::Int4 { group: Group::Of(64), zeros: true },
    Format::Nf4(Group::Of(64)),
    Format::Int4 { group: Group::Of(32), zeros: true },
    Format::Int8(Group::Row),
];
/// What weights are rounded to where their sensitivity is measured: coarse enough to be seen.
const PROBED: Format = Format::Int4 { group: Group::Of(128), zeros: true };
/// Most layers that are measured one by one; of more, neighbors are measured together.
const LAYERS: usize = 8;
/// Nats per token below which a measurement is noise.
const NOISE: f64 = 1e-6;
/// Times that a choice is made, each with what was learned from the one before.
const TRIES: usize = 3;
/// How much less than predicted a choice may cost before it is made anew.
const TOLERANCE: f64 = 1.1;

/// What a choice has to keep to. One of them at least is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    /// Nats per token.
    pub(crate) loss: Option<f64>,
    /// Bytes of all packed weights.
    pub(crate) bytes: Option<u64>,
}

/// Chooses formats and rounds.
pub(super) fn auto(work: &mut Work<'_, '_>, limits: Limits, console: &mut Console<'_>) -> Result<Calibrated, CliError> {
    let mut factors = measure(work, console)?;
    let (classes, fixed) = classes(work, console)?;
    let mut tries: Vec<Calibrated> = Vec::new();
    for _ in 0..TRIES {
        let formats = decide(&classes, &factors, limits, fixed, work.candidates.len())?;
        let last = tries.last();
        if last.is_some_and(|last| last.choices.iter().map(|choice| choice.format).eq(formats.iter().copied())) {
            break;
        }
        let (store, errors) = round_all(work, &formats, Feedback::On, last, console)?;
        let predicted: f64 = errors.iter().zip(&factors).map(|(e, f)| e * f).sum();
        let measured = work.measure(&store, &formats)?;
        tries.push(finish(work, store, &formats, &errors, Some(&factors), (Some(predicted), measured)));
        // What the sum of many errors costs is better known from all of them together.
        let ratio = measured.filter(|_| predicted > NOISE).map_or(1.0, |measured| measured.max(NOISE) / predicted);
        factors.iter_mut().for_each(|f| *f *= ratio);
        if limits.loss.is_none() || (1.0 / TOLERANCE..=1.0).contains(&ratio) {
            break;
        }
    }
    let best = best(tries, limits).ok_or_else(|| CliError::Failed("no formats were chosen".into()))?;
    if let (Some(limit), Some(measured)) = (limits.loss, best.measured.filter(|&m| limits.loss.is_some_and(|l| m > l)))
    {
        let (cost, limit) = (percent(measured), percent(limit));
        console.note(&format!("note: the chosen formats cost {cost} of perplexity where {limit} was asked for"));
    }
    Ok(best)
}

/// The choice of the fewest bytes among those within the limits; if there is none, that of the least loss.
fn best(tries: Vec<Calibrated>, limits: Limits) -> Option<Calibrated> {
    let bytes = |c: &Calibrated| c.told().weights.iter().map(|w| w.bytes).sum::<u64>();
    let within = |c: &Calibrated| limits.loss.is_none_or(|limit| c.measured.is_none_or(|m| m <= limit));
    tries.into_iter().reduce(|best, one| {
        let better = match (within(&one), within(&best)) {
            (true, true) => bytes(&one) < bytes(&best),
            (false, false) => one.measured < best.measured,
            (is_within, _) => is_within,
        };
        if better { one } else { best }
    })
}

/// A loss as the growth of perplexity.
pub(crate) fn percent(loss: f64) -> String {
    format!("{:.2} %", loss.exp_m1() * 100.0)
}

/// For each weight the loss per unit of error.
fn measure(work: &mut Work<'_, '_>, console: &mut Console<'_>) -> Result<Vec<f64>, CliError> {
    if work.measured_tokens() == 0 {
        return Err(CliError::Usage(
            "--quantize auto measures the perplexity of a language model, and this is none; name a format instead"
                .into(),
        ));
    }
    let all = vec![Some(PROBED); work.candidates.len()];
    let (store, errors) = round_all(work, &all, Feedback::Off, None, console)?;
    let mut probes = probes(&work.candidates);
    let total = probes.len() as u64;
    let mut bar = console.bar("measuring");
    for (done, probe) in probes.iter_mut().enumerate() {
        probe.loss = work.probe(&store, &probe.members)?.unwrap_or(0.0);
        bar.set(done as u64 + 1, total, Unit::Items);
    }
    drop(bar);
    let cost = work.cost();
    probes.iter_mut().for_each(|probe| probe.loss *= cost);
    Ok(sensitivities(&errors, &probes, NOISE))
}

/// What is rounded together: the weights of each role, those of each layer, and all.
fn probes(candidates: &[Candidate]) -> Vec<Probe> {
    let mut roles: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut layers: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    let count = candidates.iter().filter_map(|c| c.layer).max().map_or(0, |last| last + 1);
    let together = count.div_ceil(LAYERS as u32).max(1);
    for (at, candidate) in candidates.iter().enumerate() {
        roles.entry(&candidate.role).or_default().push(at);
        if let Some(layer) = candidate.layer {
            layers.entry(layer / together).or_default().push(at);
        }
    }
    let probe = |name: String, members: Vec<usize>| Probe { name, members, loss: 0.0 };
    let mut probes: Vec<Probe> = roles.into_iter().map(|(role, members)| probe(role.to_owned(), members)).collect();
    if layers.len() > 1 {
        probes.extend(layers.into_iter().map(|(layer, members)| probe(format!("layer {}", layer * together), members)));
    }
    probes.push(probe("all".into(), (0..candidates.len()).collect()));
    probes
}

/// Weights that share a format, and what each format would mean for them.
struct Class {
    members: Vec<usize>,
    options: Vec<Offer>,
}

/// A format for a class.
struct Offer {
    format: Option<Format>,
    bytes: u64,
    /// Of each member.
    errors: Vec<f64>,
}

/// The classes, and the bytes of weights that are in none.
fn classes(work: &mut Work<'_, '_>, console: &mut Console<'_>) -> Result<(Vec<Class>, u64), CliError> {
    // Weights with the same input are packed into one matrix.
    let mut classes: Vec<Class> = Vec::new();
    for (at, candidate) in work.candidates.iter().enumerate() {
        let shares = |class: &&mut Class| {
            let first = &work.candidates[class.members[0]];
            candidate.input.is_some() && first.input == candidate.input && first.layer == candidate.layer
        };
        match classes.iter_mut().find(shares) {
            Some(class) => class.members.push(at),
            None => classes.push(Class { members: vec![at], options: Vec::new() }),
        }
    }
    let mut errors: Vec<[f64; FORMATS.len()]> = vec![[0.0; FORMATS.len()]; work.candidates.len()];
    let weights = &work.imported.weights;
    work.each_weight("weighing formats", &|_| true, console, &mut |at, candidate, factors| {
        for (error, &format) in errors[at].iter_mut().zip(&FORMATS) {
            *error = weigh::error_in(weights, candidate, format, factors)?;
        }
        Ok(())
    })?;
    let declared = &work.imported.graph.declarations().weights;
    let stored = |at: usize| {
        let candidate = &work.candidates[at];
        candidate.values() * candidate.dtype.bytes()
    };
    for class in &mut classes {
        let bytes = |format: Format| {
            let of = |&at: &usize| {
                let c = &work.candidates[at];
                c.rows * format.row_bytes(c.columns as usize) as u64
            };
            class.members.iter().map(of).sum()
        };
        let offer = |(i, &format): (usize, &Format)| Offer {
            format: Some(format),
            bytes: bytes(format),
            errors: class.members.iter().map(|&at| errors[at][i]).collect(),
        };
        let mut options: Vec<Offer> = FORMATS.iter().enumerate().map(offer).collect();
        let kept = class.members.iter().map(|&at| stored(at)).sum();
        options.push(Offer { format: None, bytes: kept, errors: vec![0.0; class.members.len()] });
        class.options = options;
    }
    // Vectors are kept as f32.
    let bytes = |w: &WeightDecl| {
        let (element, width) = (w.dtype, w.shape.last().copied().unwrap_or(1));
        let rows = w.shape.iter().rev().skip(1).product::<u64>();
        rows * if w.shape.len() == 2 { element.row_bytes(width) } else { width * DType::F32.bytes() }
    };
    let all: u64 = declared.iter().map(bytes).sum();
    let in_classes: u64 = (0..work.candidates.len()).map(stored).sum();
    Ok((classes, all.saturating_sub(in_classes)))
}

/// The formats of all weights: the fewest bytes for a loss, or the least loss for the bytes.
fn decide(
    classes: &[Class],
    factors: &[f64],
    limits: Limits,
    fixed: u64,
    count: usize,
) -> Result<Vec<Option<Format>>, CliError> {
    let loss = |class: &Class, offer: &Offer| -> f64 {
        class.members.iter().zip(&offer.errors).map(|(&at, error)| factors[at] * error).sum()
    };
    let options = |weight: &dyn Fn(&Class, &Offer) -> f64, price: &dyn Fn(&Class, &Offer) -> f64| -> Vec<Vec<Item>> {
        let of = |class: &Class| {
            let option = |offer: &Offer| Item { weight: weight(class, offer), price: price(class, offer) };
            class.options.iter().map(option).collect()
        };
        classes.iter().map(of).collect()
    };
    let bytes = |_: &Class, offer: &Offer| offer.bytes as f64;
    let by_loss = |limit: f64| solve(&options(&loss, &bytes), limit);
    let failed = |error: KnapsackError| CliError::Failed(format!("no formats were found: {error}"));
    let solution = match (limits.bytes, limits.loss) {
        (None, None) => return Err(CliError::Usage("--quantize auto needs --budget or --fit".into())),
        (None, Some(limit)) => by_loss(limit).map_err(failed)?,
        (Some(most), wanted) => {
            let room = most.saturating_sub(fixed) as f64;
            let solution = solve(&options(&bytes, &loss), room).map_err(|error| match error {
                KnapsackError::Limit { least, .. } => CliError::Failed(format!(
                    "--fit {}: the weights take {} at the least",
                    units::bytes(most),
                    units::bytes(least as u64 + fixed)
                )),
                KnapsackError::Class { .. } => failed(error),
            })?;
            if let Some(limit) = wanted.filter(|&limit| solution.price > limit) {
                let needed = by_loss(limit).map_err(failed)?;
                return Err(CliError::Failed(format!(
                    "--fit {} and --budget {} cannot both be met: in that size perplexity is predicted to grow by {}, \
                     and that budget takes {}",
                    units::bytes(most),
                    percent(limit),
                    percent(solution.price),
                    units::bytes(needed.price as u64 + fixed),
                )));
            }
            solution
        }
    };
    let mut formats = vec![None; count];
    for (class, &chosen) in classes.iter().zip(&solution.chosen) {
        class.members.iter().for_each(|&at| formats[at] = class.options[chosen].format);
    }
    Ok(formats)
}
