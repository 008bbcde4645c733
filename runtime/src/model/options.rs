//! How a model is opened.

use warpweft_plan::OutputKind;

use crate::device::AdapterChoice;
use crate::run::timer::StepClock;

/// How to open a model. The default suits most.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where to run.
    pub adapter: AdapterChoice,
    /// The plan's target to take; the best that the adapter can run if `None`.
    pub target: Option<String>,
    /// Bytes that the model may take on the device. If `None`, what is free where the CPU does the work.
    pub memory: Option<u64>,
    /// Rows that all sessions together can have in the cache. If `None`, room for four as long as the model allows,
    /// or as much as half of the free memory holds. The cache grows with what sessions need.
    pub context: Option<u32>,
    /// Rows in one submission at the most (a single longer sequence still goes alone); 8192 if `None`.
    pub max_rows: Option<u32>,
    /// What is made ready at opening; if `None`, the embedding or what generates text where the
    /// plan has it, else its first output.
    /// Other outputs are made ready when they are first asked for.
    pub output: Option<OutputKind>,
    /// Compile the kernels for a number of rows when a step first has it, instead of those for one row and for many at opening (those
    /// for a few are compiled when they are needed): the shortest way to one result, but the first step of each size waits.
    pub lazy: bool,
    /// Copy weights where a driver that runs on the CPU could read them from the system's pages of the plan file. Such pages load
    /// sooner and processes share them, but the file must not be written to meanwhile (replacing or removing it is fine).
    pub copy_weights: bool,
    /// Run the kernels that the compiler chose, even where the plan has others that were found faster on the adapter's
    /// family.
    pub untuned: bool,
    /// Measure every step, see [`Engine::timed_steps`](crate::Engine::timed_steps).
    pub clock: Option<StepClock>,
}

/// What happens while a model is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// A device is open.
    Device {
        /// The adapter's name.
        adapter: &'a str,
        /// What users should know about it.
        notice: Option<&'a str>,
    },
    /// An output is being made ready.
    Target {
        /// The output.
        output: OutputKind,
        /// The plan's target that runs.
        target: &'a str,
    },
    /// Weights are on their way.
    Weights {
        /// Bytes on the device.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Kernels are being compiled.
    Kernels {
        /// Kernels compiled.
        done: usize,
        /// Kernels in all.
        total: usize,
    },
}

/// Is told of progress.
pub type OnProgress<'a> = &'a mut (dyn FnMut(Progress<'_>) + Send);
