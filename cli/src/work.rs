//! What a program costs: dispatches, bytes, floating-point operations, memory.

use std::collections::{BTreeMap, BTreeSet};

use warpweft_compiler::graph::{Graph, Op};
use warpweft_plan::{Access, Buffer, CacheRows, Kernel, Plan, Program, ROW_BLOCK, Role, Sizes, Step};

/// Rows for which a program without an upper bound is judged.
const MANY: u64 = 1024;
/// Rows of a sequence in such a step.
const SEQUENCE: u64 = 128;

/// The step for which a program is judged: as many rows as it is made for, 1024 where there is no bound, in sequences of
/// 128 rows (or as many as the model can have).
pub(crate) fn typical_sizes(plan: &Plan, program: &Program) -> Sizes {
    let tokens = program.max_rows.map_or(MANY.max(program.min_rows.into()), u64::from);
    let context = tokens.min(SEQUENCE).min(plan.model.max_positions.into());
    Sizes { tokens, context, sequences: tokens.div_ceil(context.max(1)) }
}

/// Bytes that the steps of a program move at the least.
pub(crate) fn bytes(program: &Program, sizes: Sizes) -> u64 {
    program.steps.iter().filter_map(|step| step.bytes.eval(sizes)).sum()
}

/// What a step of one row for each session moves and dispatches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// Bytes of weights that it reads: all that its kernels bind, except for tables of which they take single rows.
    pub(crate) weights: u64,
    /// Bytes of cached rows that it reads. Layers that see only a window count as if they saw all.
    pub(crate) cache: u64,
    pub(crate) dispatches: usize,
}

/// The traffic of a step of `sessions` rows, each on top of `context` cached ones.
pub(crate) fn traffic(plan: &Plan, program: &Program, sessions: u64, context: u64) -> Traffic {
    let sizes = Sizes { tokens: sessions, context, sequences: sessions };
    let mut traffic = Traffic { dispatches: program.steps.len(), ..Traffic::default() };
    let mut caches = BTreeSet::new();
    for step in &program.steps {
        let mut weights = 0;
        for (&index, buffer) in step.buffers.iter().filter_map(|i| Some((i, plan.buffers.get(*i)?))) {
            let bytes = buffer.bytes.eval(sizes).unwrap_or(0);
            match buffer.role {
                Role::Weight { .. } => weights += bytes,
                // Whichever step appends to it, an attention reads it.
                Role::Cache { .. } if caches.insert(index) => traffic.cache += sessions * bytes,
                Role::Cache { .. } | Role::Scratch | Role::Input(_) | Role::Output => {}
            }
        }
        traffic.weights += weights.min(step.bytes.eval(sizes).unwrap_or(0));
    }
    traffic
}

/// Floating-point operations of steps.
pub(crate) struct Flops<'p> {
    plan: &'p Plan,
    /// For each kernel: it works over whole sequences, and says so.
    attention: Vec<bool>,
}

impl<'p> Flops<'p> {
    pub(crate) fn new(plan: &'p Plan) -> Flops<'p> {
        Flops { plan, attention: plan.kernels.iter().map(is_attention).collect() }
    }

    /// Those of a step. A size is linear in its symbols, so a plan gives those of attention for the longest sequence, or for
    /// a whole window; here they are scaled to the sequences' real length.
    pub(crate) fn of_step(&self, step: &Step, sizes: Sizes) -> f64 {
        let flops = step.flops.eval(sizes).unwrap_or(0) as f64;
        let attends = self.attention.get(step.kernel) == Some(&true);
        let positions = u64::from(self.plan.model.max_positions).max(1);
        match self.seen(step).or(attends.then_some(positions)) {
            Some(most) => flops * (sizes.context.min(most) as f64 / most as f64),
            None => flops,
        }
    }

    /// The rows of a cache that one row of the step sees at the most; `None` if it reads no cache.
    fn seen(&self, step: &Step) -> Option<u64> {
        let kernel = self.plan.kernels.get(step.kernel)?;
        // An attention may append to its caches first, and so may one of chunks, which alone means nothing.
        let attends = self.attention.get(step.kernel) == Some(&true) || kernel.meaning.is_empty();
        let bound = step.buffers.iter().zip(&kernel.bindings);
        let read = bound.filter(|(_, binding)| attends || binding.access == Access::Read);
        let seen = |buffer: &Buffer| match buffer.role {
            Role::Cache { window: Some(before), .. } => Some(u64::from(before) + 1),
            Role::Cache { window: None, .. } => Some(u64::from(self.plan.model.max_positions).max(1)),
            Role::Weight { .. } | Role::Scratch | Role::Input(_) | Role::Output => None,
        };
        read.filter_map(|(&i, _)| seen(self.plan.buffers.get(i)?)).max()
    }

    /// Those of a program.
    pub(crate) fn of(&self, program: &Program, sizes: Sizes) -> f64 {
        program.steps.iter().map(|step| self.of_step(step, sizes)).sum()
    }
}

fn is_attention(kernel: &Kernel) -> bool {
    let graph = kernel.meaning.parse::<Graph>();
    graph.is_ok_and(|graph| graph.nodes().iter().any(|node| matches!(node.op, Op::Attention(_))))
}

/// The rows of each cache.
pub(crate) fn cached(plan: &Plan) -> Vec<CacheRows> {
    let rows = |buffer: &Buffer| match buffer.role {
        Role::Cache { rows, .. } => Some(rows),
        Role::Weight { .. } | Role::Scratch | Role::Input(_) | Role::Output => None,
    };
    plan.buffers.iter().filter_map(rows).collect()
}

/// Bytes of the buffers that a program's kernels write, for a step of these sizes.
pub(crate) fn activation_bytes(plan: &Plan, program: &Program, sizes: Sizes) -> u64 {
    let tokens = sizes.tokens.next_multiple_of(ROW_BLOCK);
    let sizes = Sizes { tokens, ..sizes };
    let used: BTreeSet<usize> = program.steps.iter().flat_map(|step| step.buffers.iter().copied()).collect();
    let written =
        used.iter().filter_map(|&i| plan.buffers.get(i)).filter(|b| matches!(b.role, Role::Scratch | Role::Output));
    written.filter_map(|buffer| buffer.bytes.eval(sizes)).sum()
}

/// The largest number of dispatches that one layer takes.
pub(crate) fn dispatches_per_layer(program: &Program) -> usize {
    let mut layers: BTreeMap<u32, usize> = BTreeMap::new();
    program.steps.iter().filter_map(|step| step.layer).for_each(|layer| *layers.entry(layer).or_default() += 1);
    layers.into_values().max().unwrap_or(0)
}

/// Names of a program's kernels, each once, in the order of their first use.
pub(crate) fn kernels<'p>(plan: &'p Plan, program: &Program) -> Vec<&'p str> {
    let mut names: Vec<&str> = Vec::new();
    for step in &program.steps {
        if let Some(kernel) = plan.kernels.get(step.kernel)
            && !names.contains(&kernel.name.as_str())
        {
            names.push(&kernel.name);
        }
    }
    names
}
