//! One error type for everything that can go wrong while a plan runs.

use warpweft_plan::PlanError;

/// Why a model could not be opened or run.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The plan cannot be read or is not valid.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No adapter is there, or none that was asked for.
    #[error("no adapter {wanted}; {}", list("found", found))]
    NoAdapter {
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: Vec<String>,
    },
    /// The adapter gave no device.
    #[error("{adapter} cannot be opened: {message}")]
    NoDevice {
        /// The adapter's name.
        adapter: String,
        /// What the driver said.
        message: String,
    },
    /// No program of the plan runs on the adapter.
    #[error("no program of the plan runs on {adapter}: {}", reasons.join("; "))]
    NoTier {
        /// The adapter's name.
        adapter: String,
        /// For each target what is missing.
        reasons: Vec<String>,
    },
    /// The plan does not compute what was asked for.
    #[error("the plan has no output {wanted}; {}", list("it has", available))]
    NoOutput {
        /// What was asked for.
        wanted: String,
        /// What the plan computes.
        available: Vec<String>,
    },
    /// Steps cannot be measured as was asked for.
    #[error("{adapter} lacks {missing}, so its steps cannot be timed that way")]
    NoClock {
        /// The adapter's name.
        adapter: String,
        /// What it lacks.
        missing: &'static str,
    },
    /// The device's clock contradicts itself or the wall clock.
    #[error("the timestamps of {adapter} cannot be believed: {problem}")]
    Clock {
        /// The adapter's name.
        adapter: String,
        /// What is wrong with them.
        problem: String,
    },
    /// A shader of the plan was refused.
    #[error("kernel {kernel} was refused: {message}")]
    Shader {
        /// The kernel's name.
        kernel: String,
        /// What was wrong with it.
        message: String,
    },
    /// The model needs more memory than there is; nothing was allocated.
    #[error(
        "the model does not fit: weights {} + activations {} + inputs and outputs {}{}, but {} {limit_is}",
        mib(*weights), mib(*activations), mib(*transfers), cached(*cache), mib(*limit)
    )]
    Memory {
        /// Bytes of weights.
        weights: u64,
        /// Bytes of activations for the longest sequence.
        activations: u64,
        /// Bytes of tables, results and their copies.
        transfers: u64,
        /// Bytes of the cache.
        cache: u64,
        /// Bytes that there are.
        limit: u64,
        /// Where the limit comes from.
        limit_is: String,
    },
    /// The device ran out of memory although the account said that it would not.
    #[error("out of memory while {doing}: {message}")]
    OutOfMemory {
        /// What was tried.
        doing: String,
        /// What the driver said.
        message: String,
    },
    /// The device is gone: reset, removed, or its driver crashed. Open the model again.
    #[error("the device was lost while {doing}: {message}")]
    DeviceLost {
        /// What was tried.
        doing: String,
        /// What the driver said.
        message: String,
    },
    /// The device refused a command.
    #[error("the device refused {doing}: {message}")]
    Refused {
        /// What was tried.
        doing: String,
        /// What the driver said.
        message: String,
    },
    /// A sequence has more rows than can be run.
    #[error("sequence {sequence} has {rows} rows, at most {limit} are possible ({why})")]
    TooLong {
        /// Index of the sequence.
        sequence: usize,
        /// Its rows.
        rows: usize,
        /// The most that are possible.
        limit: u64,
        /// What sets the limit.
        why: &'static str,
    },
    /// A context that is longer than the model or the cache allows.
    #[error("a context of {rows} rows, at most {limit} are possible ({why})")]
    Context {
        /// Rows that the session would have.
        rows: usize,
        /// The most that are possible.
        limit: u64,
        /// What sets the limit.
        why: &'static str,
    },
    /// The sessions together hold too many rows.
    #[error("{cache} has no room for {needed} more rows: {free} of {limit} are free")]
    CacheFull {
        /// Which one: that of layers that keep all rows, or that of layers with a sliding window.
        cache: &'static str,
        /// Rows that are needed, in whole pages.
        needed: u64,
        /// Rows that are free.
        free: u64,
        /// Rows that the cache can have.
        limit: u64,
    },
    /// A session of another model.
    #[error("session {session} belongs to another model")]
    Foreign {
        /// Index of the session in the step.
        session: usize,
    },
    /// A sampling option that makes no sense.
    #[error("{name} is {found}, it must be {expected}")]
    Sampling {
        /// The option.
        name: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The model gave scores that are not numbers.
    #[error("the model's scores are not finite numbers; its weights may be damaged")]
    NotFinite,
    /// The plan's chat template is missing, cannot be used, or refuses the messages.
    #[error("the chat template: {0}")]
    Template(String),
    /// A sequence without ids.
    #[error("sequence {sequence} has no ids")]
    Empty {
        /// Index of the sequence.
        sequence: usize,
    },
    /// An id that is not in the vocabulary.
    #[error("sequence {sequence}: id {id} is not below the vocabulary's size {vocab_size}")]
    Id {
        /// Index of the sequence.
        sequence: usize,
        /// The id.
        id: u32,
        /// The vocabulary's size.
        vocab_size: u32,
    },
    /// The plan's tokenizer is missing or cannot be used.
    #[error("the plan's tokenizer: {0}")]
    Tokenizer(String),
    /// A text that the tokenizer refuses.
    #[error("cannot tokenize: {0}")]
    Text(String),
    /// The caller of a low-level function gave buffers that don't match the kernel.
    #[error("kernel {kernel}: {message}")]
    Call {
        /// The kernel's name.
        kernel: String,
        /// What does not match.
        message: String,
    },
}

/// Who can do something about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The caller: another input or option is needed.
    Input,
    /// The plan: it is damaged, or was compiled for something else.
    Plan,
    /// The device or its driver.
    Device,
    /// There is not enough memory.
    Memory,
    /// Warpweft: please report it.
    Bug,
}

impl RuntimeError {
    /// Who can do something about it.
    pub fn fault(&self) -> Fault {
        match self {
            RuntimeError::NoAdapter { .. }
            | RuntimeError::NoOutput { .. }
            | RuntimeError::TooLong { .. }
            | RuntimeError::Context { .. }
            | RuntimeError::Foreign { .. }
            | RuntimeError::Sampling { .. }
            | RuntimeError::Template(_)
            | RuntimeError::Empty { .. }
            | RuntimeError::Id { .. }
            | RuntimeError::Text(_)
            | RuntimeError::Call { .. } => Fault::Input,
            RuntimeError::Plan(_)
            | RuntimeError::Shader { .. }
            | RuntimeError::Tokenizer(_)
            | RuntimeError::NotFinite => Fault::Plan,
            RuntimeError::NoDevice { .. }
            | RuntimeError::NoTier { .. }
            | RuntimeError::NoClock { .. }
            | RuntimeError::Clock { .. }
            | RuntimeError::DeviceLost { .. } => Fault::Device,
            RuntimeError::Memory { .. } | RuntimeError::OutOfMemory { .. } | RuntimeError::CacheFull { .. } => {
                Fault::Memory
            }
            RuntimeError::Refused { .. } => Fault::Bug,
        }
    }
}

fn list(verb: &str, names: &[String]) -> String {
    if names.is_empty() { format!("{verb} none") } else { format!("{verb} {}", names.join(", ")) }
}

fn cached(bytes: u64) -> String {
    if bytes == 0 { String::new() } else { format!(" + cache {}", mib(bytes)) }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
