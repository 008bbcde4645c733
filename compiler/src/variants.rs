//! Programs for all targets and ranges of rows, over weights that are stored once.
//!
//! A weight is stored by itself or in one matrix with its siblings, the same for all programs: whoever wants it in another form
//! pays for its bytes. So the program that is extracted first has its way. Of the first target each range of rows is first
//! once, and what then takes least is taken: by the product of the times of all programs, as a tenth of a token's time
//! counts as much as a tenth of a prompt's.

use egg::Id;
use rayon::prelude::*;
use rustc_hash::FxHashSet;
use warpweft_plan::CacheFormat;

use crate::compile::{CompileError, ROW_RANGES};
use crate::extract::{CostModel, Extracted, extract};
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
    let begun = |first: RowRange| -> Result<Stored, CompileError> {
        let Some(target) = targets.first() else { return Ok(Stored::new()) };
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
    let mut ways: Vec<Stored> = Vec::new();
    for stored in ROW_RANGES.into_par_iter().rev().map(begun).collect::<Result<Vec<_>, CompileError>>()? {
        if !ways.contains(&stored) {
            ways.push(stored);
        }
    }
    let found = ways.into_iter().map(all).collect::<Result<Vec<Vec<Variant>>, CompileError>>()?;
    let product = |variants: &[Variant]| variants.iter().map(|variant| bodies.seconds(variant).ln()).sum::<f64>();
    // Of equals the first.
    let least = found.into_iter().min_by(|a, b| product(a).total_cmp(&product(b)));
    Ok(least.unwrap_or_default())
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

    /// Predicted seconds of the whole model.
    fn seconds(&self, variant: &Variant) -> f64 {
        self.rolled.regions.iter().map(|region| variant.bodies[region.body].cost).sum()
    }
}
