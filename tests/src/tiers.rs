//! The adapters of this machine and what they can run.

use warpweft_compiler::target::Target;
use warpweft_plan::PlanFile;
use warpweft_runtime::{Adapter, AdapterChoice, Model, Options, adapters, block_on};

/// A target on an adapter.
#[derive(Clone, Debug)]
pub struct Runner {
    /// The adapter's place among all.
    pub adapter: Adapter,
    /// A target that it can run.
    pub target: &'static Target,
}

impl Runner {
    /// Opens a plan there.
    pub fn open(&self, file: PlanFile) -> Model {
        Model::from_plan(file, &self.options(), &mut |_| ()).unwrap()
    }

    /// The options that name this adapter and target.
    pub fn options(&self) -> Options {
        Options {
            adapter: AdapterChoice::Index(self.adapter.index),
            target: Some(self.target.name.clone()),
            ..Options::default()
        }
    }
}

impl std::fmt::Display for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}", self.target.name, self.adapter.name)
    }
}

/// Fixtures that run everywhere.
const EVERYWHERE: [&str; 4] = ["bert", "modernbert", "gemma3", "llama"];

/// Where a fixture runs: some everywhere, each other one on one target, in turns, and on the same in all tests. Fixtures have
/// sizes of their own and so kernels of their own, and those take a driver longer to compile than to run.
pub fn runners_of(fixture: &str) -> Vec<Runner> {
    let mut all = runners();
    if EVERYWHERE.contains(&fixture) {
        return all;
    }
    let turn = fixture.bytes().map(usize::from).sum::<usize>() % all.len();
    vec![all.swap_remove(turn)]
}

/// Each target that each adapter can run, the GL ones left out: they are the same drivers again.
pub fn runners() -> Vec<Runner> {
    let adapters: Vec<Adapter> = block_on(adapters()).into_iter().filter(|a| a.backend != "gl").collect();
    let runs = |adapter: &Adapter, target: &Target| adapter.lacks(&target.tier()).is_none();
    let runners: Vec<Runner> = adapters
        .into_iter()
        .flat_map(|adapter| {
            let targets = Target::all().iter().filter(|t| runs(&adapter, t)).collect::<Vec<_>>();
            targets.into_iter().map(move |target| Runner { adapter: adapter.clone(), target })
        })
        .collect();
    assert!(!runners.is_empty(), "no adapter: on Debian or Ubuntu, mesa-vulkan-drivers brings a software one");
    runners
}
