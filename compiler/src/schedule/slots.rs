//! Scratch buffers by liveness: values whose lives do not overlap share one.
//!
//! A device cannot bind one buffer for reading and another part of it for writing in the same dispatch, so values share
//! whole buffers, each as large as the largest value in it (Pisarchyk & Lee 2020, arXiv 2001.03288: shared objects). Images
//! share with images alone.

use std::cmp::Reverse;

use warpweft_plan::Dim;

/// A value from the stage that writes it first to the last one that reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) bytes: Dim,
    /// It is an image.
    pub(super) image: bool,
    pub(super) first: usize,
    pub(super) last: usize,
}

/// The buffers of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slots {
    /// The size of each, and whether it is an image.
    pub(super) sizes: Vec<(Dim, bool)>,
    /// Where each value is.
    pub(super) of: Vec<usize>,
}

/// Assigns each value a slot. No two values meet in one, not even in the stage in which one ends and the other begins:
/// its steps run side by side.
pub(super) fn assign(lives: &[Life]) -> Slots {
    let mut slots = Slots { sizes: Vec::new(), of: vec![0; lives.len()] };
    for (image, grows_with) in [false, true].into_iter().flat_map(|image| Kind::ALL.map(|kind| (image, kind))) {
        let is_such = |life: &Life| life.image == image && Kind::of(life.bytes) == grows_with;
        let mut values: Vec<usize> = (0..lives.len()).filter(|&i| is_such(&lives[i])).collect();
        values.sort_by_key(|&i| (lives[i].first, Reverse(size(lives[i].bytes)), Reverse(lives[i].last)));
        let before = slots.sizes.len();
        for (value, at) in values.iter().zip(search(lives, &values)) {
            let bytes = lives[*value].bytes;
            slots.of[*value] = before + at;
            match slots.sizes.get_mut(before + at) {
                Some((known, _)) if size(*known) < size(bytes) => *known = bytes,
                Some(_) => {}
                None => slots.sizes.push((bytes, image)),
            }
        }
    }
    slots
}

/// Assignments that are kept from value to value.
const BEAM: usize = 16;

/// Of each slot: its size, and the last stage of what is in it.
type Occupied = Vec<(i64, usize)>;

/// Values up to some one, assigned.
#[derive(Clone)]
struct Partial {
    slots: Occupied,
    /// The last decision.
    at: Option<usize>,
}

/// A slot for each value, which are ordered by stage: a beam search for the least sum of sizes, as finding that is NP-hard.
/// A slot is numbered when it is first taken.
fn search(lives: &[Life], values: &[usize]) -> Vec<usize> {
    // (slot, the decision before)
    let mut decisions: Vec<(usize, Option<usize>)> = Vec::new();
    let mut beam = vec![Partial { slots: Vec::new(), at: None }];
    for &value in values {
        let life = &lives[value];
        let bytes = size(life.bytes);
        let mut next: Vec<(i64, Occupied, Partial)> = Vec::new();
        for partial in &beam {
            let free = (0..partial.slots.len()).filter(|&s| partial.slots[s].1 < life.first);
            for at in free.chain([partial.slots.len()]) {
                let mut slots = partial.slots.clone();
                match slots.get_mut(at) {
                    Some((known, last)) => (*known, *last) = (bytes.max(*known), life.last),
                    None => slots.push((bytes, life.last)),
                }
                // What is free is free, whenever it became so.
                let mut same: Occupied =
                    slots.iter().map(|&(n, last)| (n, if last < life.first { 0 } else { last + 1 })).collect();
                same.sort_unstable();
                let total = slots.iter().map(|(n, _)| n).sum();
                if !next.iter().any(|(_, known, _)| *known == same) {
                    decisions.push((at, partial.at));
                    next.push((total, same, Partial { slots, at: Some(decisions.len() - 1) }));
                }
            }
        }
        next.sort_by_key(|(total, same, _)| (*total, same.len()));
        beam = next.into_iter().take(BEAM).map(|(_, _, partial)| partial).collect();
    }
    let mut chosen = Vec::new();
    let mut at = beam.first().and_then(|best| best.at);
    while let Some((slot, before)) = at.map(|at| decisions[at]) {
        chosen.push(slot);
        at = before;
    }
    chosen.reverse();
    chosen
}

/// The bytes that are alive in a stage: no program with this order can do with less.
pub(super) fn alive(lives: &[Life], stage: usize) -> Dim {
    let here = lives.iter().filter(|life| (life.first..=life.last).contains(&stage));
    here.fold(Dim::constant(0), |sum, life| sum + life.bytes)
}

fn size(bytes: Dim) -> i64 {
    bytes.tokens.max(bytes.sequences).max(bytes.constant)
}

/// What a size grows with: values of one kind share slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tokens,
    Sequences,
    Constant,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Tokens, Kind::Sequences, Kind::Constant];

    fn of(bytes: Dim) -> Kind {
        match bytes {
            Dim { tokens: 1.., .. } => Kind::Tokens,
            Dim { sequences: 1.., .. } => Kind::Sequences,
            Dim { .. } => Kind::Constant,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::order::{stages, tests::programs};
    use super::*;

    fn meet(a: &Life, b: &Life) -> bool {
        a.first <= b.last && b.first <= a.last
    }

    fn life(bytes: Dim, first: usize, last: usize) -> Life {
        Life { bytes, image: false, first, last }
    }

    #[test]
    fn values_share_the_smallest_buffer_that_is_free_all_their_life() {
        let rows = |n| Dim::TOKENS * n;
        let lives = [
            life(rows(64), 0, 1),
            life(rows(8), 1, 2),
            life(rows(100), 2, 3),
            life(rows(8), 4, 5),
            life(Dim::SEQUENCES * 8, 6, 7),
            life(rows(60), 3, 4),
        ];
        // The value of 64 grows to 100, that of 8 begins where its twin ends, that of 60 has nothing else to share with.
        let slots = assign(&lives);
        assert_eq!(slots.sizes, [rows(100), rows(60), Dim::SEQUENCES * 8].map(|bytes| (bytes, false)));
        assert_eq!(slots.of, [0, 1, 0, 0, 2, 1]);
        assert_eq!(alive(&lives, 2), rows(108));
        assert_eq!(assign(&[]), Slots { sizes: vec![], of: vec![] });
        // No image stands where a buffer was.
        let apart = assign(&[lives[0], Life { image: true, ..lives[2] }]);
        assert_eq!((apart.sizes, apart.of), (vec![(rows(64), false), (rows(100), true)], vec![0, 1]));
    }

    proptest! {
        #[test]
        fn slots_force_no_barrier_that_the_values_do_not(
            (steps, sizes) in programs().prop_flat_map(|p| (Just(p.clone()), proptest::collection::vec(1..9i64, p.len())))
        ) {
            let stages = stages(&steps);
            let lives: Vec<Life> = (0..steps.len()).map(|value| {
                let readers = steps.iter().zip(&stages).filter(|(s, _)| s.reads.contains(&(value as u32)));
                let last = readers.map(|(_, &stage)| stage).max().unwrap_or(stages[value]);
                life(Dim::TOKENS * sizes[value], stages[value], last)
            }).collect();
            let slots = assign(&lives);
            for (a, b) in (0..lives.len()).flat_map(|a| (0..a).map(move |b| (a, b))) {
                prop_assert!(slots.of[a] != slots.of[b] || !meet(&lives[a], &lives[b]));
            }
            for (life, &slot) in lives.iter().zip(&slots.of) {
                prop_assert!(slots.sizes[slot].0.tokens >= life.bytes.tokens);
            }
            // As a driver counts: a barrier before a step that touches what one since the last barrier wrote, or writes
            // what one read.
            let mut order: Vec<usize> = (0..steps.len()).collect();
            order.sort_by_key(|&i| stages[i]);
            let (mut read, mut written, mut barriers) = (vec![], vec![], 0);
            for at in order {
                let reads: Vec<usize> = steps[at].reads.iter().map(|&v| slots.of[v as usize]).collect();
                let write = slots.of[at];
                if written.contains(&write) || read.contains(&write) || reads.iter().any(|r| written.contains(r)) {
                    (read, written, barriers) = (vec![], vec![], barriers + 1);
                }
                read.extend(reads);
                written.push(write);
            }
            prop_assert!(barriers <= stages.iter().max().copied().unwrap_or(0));
        }
    }
}
