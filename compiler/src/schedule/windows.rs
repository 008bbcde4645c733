//! Which caches need only their last rows: those that attentions with a window alone read.

use rustc_hash::FxHashMap;

use crate::graph::CacheId;
use crate::kernels::spec::Operation;

/// A call, with the caches whose rows it reads or writes.
pub(super) struct Use<'c> {
    pub(super) operation: &'c Operation,
    pub(super) reads: Vec<CacheId>,
    pub(super) writes: Vec<CacheId>,
}

/// For each cache: the rows before its own that a row sees, if it does not see all.
#[derive(Debug, Default)]
pub(super) struct Windows(FxHashMap<u32, Option<u32>>);

impl Windows {
    /// What all calls of a model together read.
    pub(super) fn of(calls: &[Use<'_>]) -> Windows {
        let mut windows = Windows::default();
        for call in calls {
            let window = call.operation.window();
            for cache in &call.reads {
                let widest = |known: &mut Option<u32>| *known = known.zip(window).map(|(a, b)| a.max(b));
                windows.0.entry(cache.0).and_modify(widest).or_insert(window);
            }
        }
        // A kernel finds all of its rows by one page table. Each round takes at least one cache, so this ends.
        while let Some(call) = calls.iter().find(|call| windows.is_mixed(call)) {
            windows.0.extend(call.caches().map(|cache| (cache.0, None)));
        }
        windows
    }

    pub(super) fn get(&self, cache: CacheId) -> Option<u32> {
        self.0.get(&cache.0).copied().flatten()
    }

    fn is_mixed(&self, call: &Use<'_>) -> bool {
        let windowed = call.caches().filter(|&cache| self.get(cache).is_some()).count();
        windowed > 0 && windowed < call.caches().count()
    }
}

impl Use<'_> {
    pub(super) fn caches(&self) -> impl Iterator<Item = CacheId> {
        self.reads.iter().chain(&self.writes).copied()
    }
}

#[cfg(test)]
mod tests {
    use warpweft_plan::{CacheFormat, CacheRows};

    use super::*;
    use crate::kernels::spec::{Attention, Binary, Term, View};

    const ROWS: CacheRows = CacheRows { format: CacheFormat::F32, heads: 1, columns: 8 };

    fn attention(before: Option<u32>) -> Operation {
        let view = View::whole(8);
        let mask = Box::new(Term::BandMask { before, after: Some(0) });
        let term = Term::Binary(Binary::Add, Box::new(Term::Acc), mask);
        let attention =
            Attention { q: view, k: view, v: view, heads: 1, kv_heads: 1, term, max_context: 64, image: false };
        Operation::CachedAttention { attention, caches: [ROWS; 2], fresh: None, split: None }
    }

    #[test]
    fn a_cache_has_the_widest_window_of_those_that_read_it() {
        let (narrow, wide, whole) = (attention(Some(3)), attention(Some(9)), attention(None));
        let beyond = attention(Some(64));
        let append = Operation::Heads { parts: Vec::new(), vector: 0 };
        let call = |operation, reads: &[u32], writes: &[u32]| {
            let ids = |ids: &[u32]| ids.iter().copied().map(CacheId).collect();
            Use { operation, reads: ids(reads), writes: ids(writes) }
        };
        let mut calls = vec![
            call(&append, &[], &[0, 1]),
            call(&narrow, &[0, 1], &[]),
            call(&wide, &[1], &[]),
            call(&append, &[], &[2, 3]),
            call(&whole, &[2, 3], &[]),
            call(&narrow, &[2, 2], &[]),
            call(&beyond, &[4], &[]),
            call(&append, &[], &[5]),
        ];
        let windows = |calls: &[Use<'_>]| {
            let windows = Windows::of(calls);
            (0..6).map(|cache| windows.get(CacheId(cache))).collect::<Vec<_>>()
        };
        assert_eq!(windows(&calls), [Some(3), Some(9), None, None, None, None]);
        // What one kernel writes, one kernel pages.
        calls.push(call(&append, &[], &[1, 2]));
        assert_eq!(windows(&calls), [None; 6]);
    }
}
