//! Programs for all targets and ranges of rows, over weights that are stored once.
//!
//! A weight is stored by itself or in one matrix with its siblings, the same for all programs: whoever wants it in another form
//! pays for its bytes. So the program that is extracted first has its way. Of the first target, and of the floor, each range of
//! rows is first once, and what then takes least is taken: by the product of the times of all programs, as a tenth of a
//! token's time counts as much as a tenth of a prompt's. Of what takes as long by that, the fewest dispatches.

use egg::Id;
use rayon::prelude::*;
use rustc_hash::FxHashSet;
use warpweft_plan::CacheFormat;

use crate::compile::{CompileError, ROW_RANGES};
use crate::extract::{CostModel, Extracted, TIE, extract};
use crate::kernels::RowRange;
use crate::roll::Rolled;
use crate::rules::Saturated;
use crate::target::Target;

/// One target's and range's programs of all bodies.
pub(crate) struct Variant {
    pub(crate) target: &'static Target,
    pub(crate) rows: RowRange,
    pub(crate) bodies: Vec<Extracted>,
}

/// For each body, the classes of weights that are stored.
type Stored = Vec<FxHashSet<Id>>;

/// What is extracted from.
struct Bodies<'b> {
    rolled: &'b Rolled,
    saturated: &'b [Saturated],
    cache: CacheFormat,
}

/// The cheapest programs, targets as they are given, ranges from many rows to one.
pub(crate) fn extract_all(
    rolled: &Rolled,
    saturated: &[Saturated],
    targets: &[&'static Target],
    cache: CacheFormat,
) -> Result<Vec<Variant>, CompileError> {
    let bodies = Bodies { rolled, saturated, cache };
    let begun = |(target, first): (&'static Target, RowRange)| -> Result<Stored, CompileError> {
        let variant = bodies.extract(target, first, None)?;
        Ok(variant.bodies.into_iter().map(|body| body.weights).collect())
    };
    let all = |stored: Stored| {
        let ranges = targets.iter().flat_map(|&target| ROW_RANGES.into_iter().rev().map(move |rows| (target, rows)));
        ranges
            .collect::<Vec<_>>()
            .into_par_iter()
            .map(|(target, rows)| bodies.extract(target, rows, Some(&stored)))
            .collect()
    };
    let first = targets.iter().take(1).copied();
    let floor = Target::all().iter().take(1).filter(|floor| !targets.contains(floor));
    let firsts: Vec<_> =
        first.chain(floor).flat_map(|target| ROW_RANGES.into_iter().rev().map(move |rows| (target, rows))).collect();
    let mut ways: Vec<Stored> = Vec::new();
    for stored in firsts.into_par_iter().map(begun).collect::<Result<Vec<_>, CompileError>>()? {
        if !ways.contains(&stored) {
            ways.push(stored);
        }
    }
    let found = ways.into_iter().map(all).collect::<Result<Vec<Vec<Variant>>, CompileError>>()?;
    let product = |variants: &[Variant]| variants.iter().map(|variant| bodies.seconds(variant).ln()).sum::<f64>();
    let least = found.iter().map(|variants| product(variants)).fold(f64::INFINITY, f64::min);
    // Of each program's time, so much more is none.
    let as_long = |variants: &Vec<Variant>| {
        let most = least + TIE.ln() * variants.len() as f64;
        product(variants).total_cmp(&most).is_le()
    };
    let dispatches = |variants: &[Variant]| variants.iter().map(|variant| bodies.dispatches(variant)).sum::<usize>();
    // Of equals the first.
    let fewest = found.into_iter().filter(as_long).min_by_key(|variants| dispatches(variants));
    Ok(fewest.unwrap_or_default())
}

impl Bodies<'_> {
    /// The cheapest programs over what is stored, if anything is.
    fn extract(
        &self,
        target: &'static Target,
        rows: RowRange,
        stored: Option<&Stored>,
    ) -> Result<Variant, CompileError> {
        let bodies = self.saturated.iter().enumerate().map(|(i, body)| {
            let weights = stored.map(|stored| &stored[i]).filter(|weights| !weights.is_empty());
            extract(body, &CostModel::new(target, rows, self.cache, self.rolled.is_whole(i), weights))
        });
        Ok(Variant { target, rows, bodies: bodies.collect::<Result<_, _>>()? })
    }

    /// Dispatches of the whole model.
    fn dispatches(&self, variant: &Variant) -> usize {
        let of_body = |body: &Extracted| body.seconds.iter().filter(|s| **s >= variant.target.rates.dispatch).count();
        self.rolled.regions.iter().map(|region| of_body(&variant.bodies[region.body])).sum()
    }

    /// Predicted seconds of the whole model.
    fn seconds(&self, variant: &Variant) -> f64 {
        self.rolled.regions.iter().map(|region| variant.bodies[region.body].cost).sum()
    }
}
