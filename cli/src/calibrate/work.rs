//! The text, the moments and the measurements of a calibration.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use warpweft_compiler::formats::Format;
use warpweft_compiler::graph::Id;
use warpweft_compiler::quantize::{Candidate, Factors, Moments, candidates};
use warpweft_models::Imported;
use warpweft_runtime::{Adapter, block_on, choose};

use super::divergence::{Distance, Reference};
use super::store::{Decoded, Store};
use super::subject::Subject;
use super::{BUNDLED, Setting};
use crate::CliError;
use crate::console::Console;
use crate::progress::Unit;
use crate::texts::read;

/// The text that is used if none is given: documentation and source code of this project.
pub(super) const TEXT: &str = include_str!("text.txt");
/// Tokens over which moments are collected.
const TOKENS: usize = 16_384;
/// Tokens on which the loss of a choice is measured.
const MEASURED: usize = 2_048;
/// Of these, the ones on which groups of weights are compared with each other.
const PROBED: usize = 512;
/// Tokens below which moments would say more of the text than of the model.
const LEAST: usize = 256;
/// Of so many pieces of the text one is kept for measurements.
const EVERY: usize = 8;
/// Tokens of such a piece.
const PIECE: usize = 128;
/// Bytes of moments and factors that are in memory at once.
const MEMORY: u64 = 3 << 30;
/// What is added to the moments' diagonal, as a part of its mean: what the text does not tell of.
const DAMPING: f32 = 0.01;

/// What calls get for each weight: its index, the weight, and the factors of its input's moments.
pub(super) type Each<'e> = dyn FnMut(usize, &Candidate, Option<&Factors>) -> Result<(), CliError> + 'e;

/// A calibration that is under way.
pub(super) struct Work<'i, 's> {
    pub(super) imported: &'i Imported,
    pub(super) candidates: Vec<Candidate>,
    /// What the text is called.
    pub(super) text: String,
    setting: &'s Setting<'s>,
    adapter: Adapter,
    /// Inputs of contractions, each once, and their columns.
    taps: Vec<(Id, usize)>,
    /// Taps whose moments are in memory together.
    groups: Vec<Range<usize>>,
    subject: Subject<'i>,
    /// The group whose taps the subject has.
    open: usize,
    /// Of the open group's taps, once they are collected.
    factors: Option<BTreeMap<Id, Factors>>,
    ids: Vec<u32>,
    reference: Option<Reference>,
    /// All measurements together.
    moved: Distance,
}

impl<'i, 's> Work<'i, 's> {
    /// Takes the model to the device and reads the text.
    pub(super) fn begin(
        imported: &'i Imported,
        setting: &'s Setting<'s>,
        console: &mut Console<'_>,
    ) -> Result<Work<'i, 's>, CliError> {
        // What cannot be read is refused before anything is compiled.
        let (text, name) = match setting.text {
            Some(path) => (read(path)?, path.file_name().map_or(BUNDLED.into(), |n| n.to_string_lossy().into_owned())),
            None => (TEXT.to_owned(), BUNDLED.to_owned()),
        };
        let candidates = candidates(&imported.graph);
        let mut taps: Vec<(Id, usize)> = Vec::new();
        for candidate in &candidates {
            if let Some(input) = candidate.input.filter(|input| taps.iter().all(|(known, _)| known != input)) {
                taps.push((input, candidate.columns as usize));
            }
        }
        let groups = groups(&taps);
        let adapter = block_on(choose(&setting.adapter))?;
        let first: Vec<Id> = taps[groups.first().cloned().unwrap_or(0..0)].iter().map(|tap| tap.0).collect();
        let subject = Subject::open(imported, &first, &adapter, setting, console)?;
        let mut work = Work {
            imported,
            candidates,
            text: name,
            setting,
            adapter,
            taps,
            groups,
            subject,
            open: 0,
            factors: None,
            ids: Vec::new(),
            reference: None,
            moved: Distance::default(),
        };
        work.read(&text)?;
        Ok(work)
    }

    /// Takes a text: its parts for moments and for measurements.
    fn read(&mut self, text: &str) -> Result<(), CliError> {
        let all = self.subject.encode(text)?;
        let language = self.subject.is_language_model();
        let (ids, measured) = match language {
            true => split(&all),
            // There is nothing to measure without scores of a next token, so all of the text goes into moments.
            false => (all[..all.len().min(2 * TOKENS)].to_vec(), Vec::new()),
        };
        if ids.len() < LEAST || (language && measured.len() < PIECE) {
            let (found, source) = (all.len(), &self.text);
            let least = if language { LEAST + PIECE } else { LEAST };
            return Err(CliError::Failed(format!(
                "calibration text {source}: found {found} tokens, expected at least {least}"
            )));
        }
        let vocabulary = self.imported.info.vocab_size as usize;
        if language {
            self.reference = Some(Reference::of(&mut self.subject, &measured, vocabulary)?);
        }
        self.ids = ids;
        Ok(())
    }

    /// Takes the text of some ids in the place of the one before, and knows nothing of that any more.
    #[cfg(test)]
    pub(super) fn read_again(&mut self, ids: &[u32]) -> Result<(), CliError> {
        let text = self.subject.decode(ids)?;
        (self.factors, self.moved) = (None, Distance::default());
        self.read(&text)
    }

    /// Tokens over which moments are collected.
    pub(super) fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Tokens on which losses are measured; 0 for a model without scores of a next token.
    pub(super) fn measured_tokens(&self) -> usize {
        self.reference.as_ref().map_or(0, Reference::len)
    }

    /// Calls `each` for those of the weights that can be quantized which are wanted, by their indices, with the factors of the
    /// input's moments. They are collected when they are needed, and again if not all fit into memory. `label` says what is
    /// done.
    pub(super) fn each_weight(
        &mut self,
        label: &'static str,
        wanted: &dyn Fn(usize) -> bool,
        console: &mut Console<'_>,
        each: &mut Each<'_>,
    ) -> Result<(), CliError> {
        let wanted: Vec<usize> = (0..self.candidates.len()).filter(|&at| wanted(at)).collect();
        let mut done = 0;
        for group in 0..self.groups.len() {
            let taps = &self.taps[self.groups[group].clone()];
            let reads = |at: &&usize| taps.iter().any(|tap| self.candidates[**at].input == Some(tap.0));
            let members: Vec<usize> = wanted.iter().filter(reads).copied().collect();
            if members.is_empty() {
                continue;
            }
            self.collect(group, console)?;
            let mut bar = console.bar(label);
            for at in members {
                let candidate = &self.candidates[at];
                each(at, candidate, candidate.input.and_then(|input| self.factors.as_ref()?.get(&input)))?;
                done += 1;
                bar.set(done, wanted.len() as u64, Unit::Items);
            }
        }
        for at in wanted.into_iter().filter(|&at| self.candidates[at].input.is_none()) {
            each(at, &self.candidates[at], None)?;
        }
        Ok(())
    }

    /// Makes the factors of a group's taps.
    fn collect(&mut self, group: usize, console: &mut Console<'_>) -> Result<(), CliError> {
        if self.open == group && self.factors.is_some() {
            return Ok(());
        }
        self.factors = None;
        let taps = self.taps[self.groups[group].clone()].to_vec();
        let (nodes, widths): (Vec<Id>, Vec<usize>) = taps.into_iter().unzip();
        if self.open != group {
            self.subject = Subject::open(self.imported, &nodes, &self.adapter, self.setting, console)?;
            self.open = group;
        }
        let moments = self.subject.collect(&self.ids, &widths, console)?;
        let mut factors = BTreeMap::new();
        // One after the other, so that moments go as factors come.
        for (&node, moments) in nodes.iter().zip(moments) {
            factors.insert(node, self.factor(node, &moments)?);
        }
        self.factors = Some(factors);
        Ok(())
    }

    fn factor(&self, node: Id, moments: &Moments) -> Result<Factors, CliError> {
        moments.factor(DAMPING).map_err(|problem| {
            let of = self.candidates.iter().find(|c| c.input == Some(node)).map_or("", |c| &c.name);
            CliError::Failed(format!("calibration, the input of {of}: {problem}"))
        })
    }

    /// What it costs that those weights are rounded that have a format, in nats per token; `None` for a model that is no
    /// language model.
    pub(super) fn measure(&mut self, store: &Store, formats: &[Option<Format>]) -> Result<Option<f64>, CliError> {
        let members: Vec<usize> = (0..formats.len()).filter(|&at| formats[at].is_some()).collect();
        Ok(self.distance(store, &members, MEASURED)?.map(|divergence| divergence * self.moved.cost()))
    }

    /// Of a divergence, the part that costs, by all that was measured so far.
    pub(super) fn cost(&self) -> f64 {
        self.moved.cost()
    }

    /// The mean negative log-probability of a text's tokens, each chunk's first one left out, in nats, with the rounded
    /// weights of a store.
    #[cfg(test)]
    pub(super) fn loss(&mut self, ids: &[u32], store: &Store) -> Result<f64, CliError> {
        self.with(store, &mut |subject| super::divergence::loss(subject, ids))
    }

    /// What the model predicts with the rounded weights of a store.
    #[cfg(test)]
    pub(super) fn predictions(&mut self, ids: &[u32], store: &Store) -> Result<Reference, CliError> {
        let vocabulary = self.imported.info.vocab_size as usize;
        self.with(store, &mut |subject| Reference::of(subject, ids, vocabulary))
    }

    #[cfg(test)]
    fn with<T>(
        &mut self,
        store: &Store,
        measure: &mut dyn FnMut(&mut Subject<'i>) -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        let names: BTreeSet<&str> = self.candidates.iter().map(|c| c.name.as_str()).collect();
        let decoded = Decoded { weights: &self.imported.weights, store, names: &names };
        self.subject.replace(names.iter().copied(), &decoded)?;
        let measured = measure(&mut self.subject)?;
        self.subject.replace(names, &self.imported.weights)?;
        Ok(measured)
    }

    /// The divergence with the rounded weights of these indices, in nats per token, well enough to compare groups of weights:
    /// what all of them together cost is measured when they have been chosen.
    pub(super) fn probe(&mut self, store: &Store, members: &[usize]) -> Result<Option<f64>, CliError> {
        self.distance(store, members, PROBED)
    }

    fn distance(&mut self, store: &Store, members: &[usize], tokens: usize) -> Result<Option<f64>, CliError> {
        let Some(reference) = &self.reference else { return Ok(None) };
        let names: BTreeSet<&str> = members.iter().map(|&at| self.candidates[at].name.as_str()).collect();
        let weights = &self.imported.weights;
        self.subject.replace(names.iter().copied(), &Decoded { weights, store, names: &names })?;
        let found = reference.distance(&mut self.subject, tokens)?;
        self.subject.replace(names.iter().copied(), weights)?;
        self.moved += found;
        tracing::debug!(found.divergence, found.growth, cost = self.moved.cost(), "measured");
        Ok(Some(found.divergence))
    }
}

/// Taps in order, in groups whose moments and factors fit into memory together.
fn groups(taps: &[(Id, usize)]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (at, &(_, width)) in taps.iter().enumerate() {
        let more = 2 * Moments::bytes(width);
        bytes += more;
        match groups.last_mut().filter(|_| bytes <= MEMORY) {
            Some(group) => group.end = at + 1,
            None => {
                groups.push(at..at + 1);
                bytes = more;
            }
        }
    }
    groups
}

/// The ids for moments, and those for measurements: pieces from all over the text. Each quarter of the latter is so too.
fn split(ids: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let (mut moments, mut measured) = (Vec::new(), Vec::new());
    for (i, piece) in ids.chunks(PIECE).enumerate() {
        match i % EVERY == 1 {
            true if measured.len() < MEASURED / PIECE => measured.push(piece),
            true => {}
            false => moments.extend_from_slice(&piece[..piece.len().min(TOKENS - moments.len())]),
        }
    }
    const QUARTERS: usize = MEASURED / PROBED;
    let measured = (0..QUARTERS).flat_map(|quarter| measured.iter().skip(quarter).step_by(QUARTERS).copied());
    (moments, measured.flatten().copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_split_into_two_parts_that_share_nothing() {
        let ids: Vec<u32> = (0..30_000).collect();
        let (moments, measured) = split(&ids);
        assert_eq!((moments.len(), measured.len()), (TOKENS, MEASURED));
        assert!(measured.iter().all(|id| !moments.contains(id)));
        let (moments, measured) = split(&ids[..LEAST + PIECE]);
        assert_eq!((moments.len(), measured.len()), (LEAST, PIECE));
    }

    #[test]
    fn groups_fit_into_memory() {
        let taps: Vec<(Id, usize)> = (0..40).map(|i| (Id::from(i), if i % 4 == 3 { 14336 } else { 4096 })).collect();
        let groups = groups(&taps);
        assert_eq!(groups.iter().map(|g| g.len()).sum::<usize>(), 40);
        for group in &groups {
            let bytes: u64 = taps[group.clone()].iter().map(|tap| 2 * Moments::bytes(tap.1)).sum();
            assert!(bytes <= MEMORY || group.len() == 1);
        }
        assert!(groups.len() > 1);
        assert!(super::groups(&[]).is_empty());
    }
}
