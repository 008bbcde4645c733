//! Scratch buffers by liveness: values whose lives do not overlap share one.

use warpweft_plan::Dim;

/// Assigns slots to values as a program runs.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    bytes: Dim,
    free: bool,
}

impl Slots {
    /// A free slot for a value: the smallest that is large enough, else the largest, which grows.
    pub(super) fn take(&mut self, bytes: Dim) -> usize {
        let of_kind = |s: &Slot| s.free && kind(s.bytes) == kind(bytes);
        let weight = |d: Dim| d.tokens.max(d.sequences).max(d.constant);
        let free: Vec<usize> = (0..self.slots.len()).filter(|&i| of_kind(&self.slots[i])).collect();
        let size = |i: &usize| weight(self.slots[*i].bytes);
        let fitting = free.iter().copied().filter(|i| size(i) >= weight(bytes)).min_by_key(size);
        match fitting.or_else(|| free.iter().copied().max_by_key(size)) {
            Some(at) => {
                let slot = &mut self.slots[at];
                slot.free = false;
                slot.bytes.tokens = slot.bytes.tokens.max(bytes.tokens);
                slot.bytes.sequences = slot.bytes.sequences.max(bytes.sequences);
                slot.bytes.constant = slot.bytes.constant.max(bytes.constant);
                at
            }
            None => {
                self.slots.push(Slot { bytes, free: false });
                self.slots.len() - 1
            }
        }
    }

    /// Says that the value in a slot is not needed any more.
    pub(super) fn give_back(&mut self, at: usize) {
        self.slots[at].free = true;
    }

    /// Sizes of all slots, and for each the place that it has when they are ordered by kind and size: programs that
    /// order theirs alike share buffers of about the same size.
    pub(super) fn ordered(&self) -> (Vec<Dim>, Vec<usize>) {
        let mut order: Vec<usize> = (0..self.slots.len()).collect();
        order.sort_by_key(|&i| {
            let bytes = self.slots[i].bytes;
            (kind(bytes), std::cmp::Reverse(bytes.tokens.max(bytes.sequences).max(bytes.constant)))
        });
        let mut place = vec![0; order.len()];
        for (at, &i) in order.iter().enumerate() {
            place[i] = at;
        }
        (order.iter().map(|&i| self.slots[i].bytes).collect(), place)
    }
}

/// What a size grows with: values of one kind share slots.
fn kind(bytes: Dim) -> u8 {
    match bytes {
        Dim { tokens: 1.., .. } => 0,
        Dim { sequences: 1.., .. } => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reuses_the_best_fit_and_grows_the_largest() {
        let mut slots = Slots::default();
        let (small, large) = (slots.take(Dim::TOKENS * 8), slots.take(Dim::TOKENS * 64));
        slots.give_back(small);
        slots.give_back(large);
        assert_eq!(slots.take(Dim::TOKENS * 8), small);
        assert_eq!(slots.take(Dim::TOKENS * 100), large);
        let other = slots.take(Dim::SEQUENCES * 8);
        assert!(other != small && other != large, "rows of tokens and of sequences do not share");
        assert_eq!(slots.ordered(), (vec![Dim::TOKENS * 100, Dim::TOKENS * 8, Dim::SEQUENCES * 8], vec![1, 0, 2]));
    }
}
