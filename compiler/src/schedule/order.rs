//! The order of steps: as few barriers as the longest chain of steps demands.
//!
//! A device runs dispatches side by side until one needs what another wrote; there it waits for all of them. So steps are
//! put into *stages*: those of one stage need nothing of one another, and a barrier stands between two stages. The longest
//! chain of steps has as many stages as there must be. A step that has room to move is put as late as it can be, because
//! its result then lives the shortest.

use petgraph::Direction::{Incoming, Outgoing};
use petgraph::graph::{DiGraph, NodeIndex};
use rustc_hash::FxHashMap;

/// What a step reads and writes.
#[derive(Clone, Debug)]
pub(super) struct Access<K> {
    pub(super) reads: Vec<K>,
    pub(super) writes: Vec<K>,
}

/// For each step its stage, from 0. Steps are given in an order in which they can run.
pub(super) fn stages<K: Copy + Eq + std::hash::Hash>(steps: &[Access<K>]) -> Vec<usize> {
    let graph = dependencies(steps);
    // Edges go from earlier steps to later ones, so the given order is a topological one.
    let mut early = vec![0; steps.len()];
    for node in graph.node_indices() {
        let before = graph.neighbors_directed(node, Incoming).map(|n| early[n.index()] + 1);
        early[node.index()] = before.max().unwrap_or(0);
    }
    let last = early.iter().copied().max().unwrap_or(0);
    let mut stages = early;
    for node in graph.node_indices().rev() {
        let after = graph.neighbors_directed(node, Outgoing).map(|n| stages[n.index()] - 1);
        stages[node.index()] = after.min().unwrap_or(last);
    }
    stages
}

/// An edge from each step to those that wait for it: they read what it writes, or write to the same value, as the windows
/// of a large weight do.
fn dependencies<K: Copy + Eq + std::hash::Hash>(steps: &[Access<K>]) -> DiGraph<(), ()> {
    let mut graph = DiGraph::with_capacity(steps.len(), steps.len());
    let mut writers: FxHashMap<K, Vec<NodeIndex>> = FxHashMap::default();
    for step in steps {
        let node = graph.add_node(());
        for key in step.reads.iter().chain(&step.writes) {
            for &writer in writers.get(key).into_iter().flatten() {
                if writer != node {
                    graph.update_edge(writer, node, ());
                }
            }
        }
        for &key in &step.writes {
            writers.entry(key).or_default().push(node);
        }
    }
    graph
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step(reads: &[u32], writes: &[u32]) -> Access<u32> {
        Access { reads: reads.to_vec(), writes: writes.to_vec() }
    }

    /// Steps of which each writes one value and reads some of those before it.
    pub(crate) fn programs() -> impl Strategy<Value = Vec<Access<u32>>> {
        let reads = proptest::collection::vec(any::<prop::sample::Index>(), 0..3);
        proptest::collection::vec(reads, 1..24).prop_map(|steps| {
            let step = |(at, reads): (usize, Vec<prop::sample::Index>)| {
                let reads = reads.iter().filter(|_| at > 0).map(|r| r.index(at) as u32).collect();
                Access { reads, writes: vec![at as u32] }
            };
            steps.into_iter().enumerate().map(step).collect()
        })
    }

    #[test]
    fn independent_branches_run_side_by_side_and_as_late_as_they_can() {
        // 0 → 1 → 2 → 4, and 3, which needs 0 alone, beside 2.
        let steps = [step(&[], &[0]), step(&[0], &[1]), step(&[1], &[2]), step(&[0], &[3]), step(&[2, 3], &[4])];
        assert_eq!(stages(&steps), [0, 1, 2, 2, 3]);
    }

    #[test]
    fn windows_of_one_result_wait_for_one_another() {
        assert_eq!(stages(&[step(&[], &[0]), step(&[0], &[1]), step(&[0], &[1])]), [0, 1, 2]);
        assert!(stages::<u32>(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn stages_respect_dependencies_and_are_as_few_as_the_longest_chain(steps in programs()) {
            let stages = stages(&steps);
            let mut chain = vec![1; steps.len()];
            for (i, step) in steps.iter().enumerate() {
                for &read in &step.reads {
                    prop_assert!(stages[read as usize] < stages[i]);
                    chain[i] = chain[i].max(chain[read as usize] + 1);
                }
            }
            prop_assert_eq!(stages.iter().max().map(|s| s + 1), chain.into_iter().max());
        }
    }
}
