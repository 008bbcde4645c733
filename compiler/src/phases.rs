//! The phases of a compile, by name.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A phase. Each leaves something that can be dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// The model's graph as its family wrote it.
    Import,
    /// Weights rounded to quantized formats.
    Lossy,
    /// Weight formats chosen, layers rolled into distinct bodies.
    Canonical,
    /// Each body saturated.
    Rewritten,
    /// The cheapest program of each body, for each target and range of rows.
    Extracted,
    /// Kernels composed and validated.
    Kernels,
    /// Programs of steps over buffers.
    Scheduled,
    /// For each kernel, the chain of rules from the formula to it.
    Proved,
}

impl Phase {
    /// All phases, in order.
    pub const ALL: [Phase; 8] = [
        Phase::Import,
        Phase::Lossy,
        Phase::Canonical,
        Phase::Rewritten,
        Phase::Extracted,
        Phase::Kernels,
        Phase::Scheduled,
        Phase::Proved,
    ];

    /// The name in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Import => "import",
            Phase::Lossy => "lossy",
            Phase::Canonical => "canonical",
            Phase::Rewritten => "rewritten",
            Phase::Extracted => "extracted",
            Phase::Kernels => "kernels",
            Phase::Scheduled => "scheduled",
            Phase::Proved => "proved",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names none of what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not one of {expected}")]
pub struct UnknownName {
    /// What was found.
    pub found: String,
    /// The names there are.
    pub expected: String,
}

impl FromStr for Phase {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Phase, UnknownName> {
        let names = || Phase::ALL.map(Phase::name).join(", ");
        Phase::ALL
            .into_iter()
            .find(|p| p.name() == text)
            .ok_or_else(|| UnknownName { found: text.into(), expected: names() })
    }
}

/// What a phase did.
#[derive(Clone, Debug)]
pub struct PhaseReport {
    /// Which.
    pub phase: Phase,
    /// How long it took.
    pub time: Duration,
    /// E-nodes over all bodies; 0 where there is no e-graph.
    pub e_nodes: usize,
    /// Sizes, and limits that were hit.
    pub notes: Vec<String>,
}
