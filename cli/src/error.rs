//! What ends a command, as one line for people and an exit code for machines.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use warpweft_compiler::CompileError;
use warpweft_models::CheckpointError;
use warpweft_plan::PlanError;
use warpweft_runtime::RuntimeError;

use crate::hub::HubError;
use crate::interrupt;

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// Arguments that parse but cannot be meant.
    #[error("{0}")]
    Usage(String),
    /// A path that does not exist.
    #[error("{}: no such file or folder", .path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// The command has to read or write something and cannot.
    #[error("{action}: {source}")]
    Io {
        /// What was tried, with the path.
        action: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A model cannot be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A plan cannot be read or written.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A plan cannot be run.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A model cannot be had from the Hugging Face Hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// What was asked for was done, and what it showed is not good.
    #[error("{0}")]
    Failed(String),
    /// Whoever read the output has gone.
    #[error("the output was closed")]
    Closed,
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl CliError {
    /// Wraps an input/output error; `action` is what was tried: "write out.safetensors".
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> CliError {
        let action = format!("cannot {}", action.into());
        move |source| match source.kind() {
            io::ErrorKind::BrokenPipe => CliError::Closed,
            _ => CliError::Io { action, source },
        }
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            CliError::Usage(_) => 2,
            CliError::Interrupted => interrupt::CODE,
            CliError::Closed => 0,
            _ => 1,
        }
    }

    /// The error and its causes in one line; `None` if there is nobody to tell.
    pub(crate) fn message(&self) -> Option<String> {
        if matches!(self, CliError::Closed) {
            return None;
        }
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let part = error.to_string();
            // Many errors print their cause themselves.
            if !text.contains(&part) {
                text = format!("{text}: {part}");
            }
            cause = error.source();
        }
        Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    /// What to do about it, where that is known.
    pub(crate) fn hint(&self) -> Option<String> {
        let text = match self {
            CliError::NotFound { .. } => {
                "give a plan (made by `compile-model build`), the folder of a Hugging Face checkpoint, or a model's name on \
                 the Hub: OWNER/NAME"
            }
            CliError::Hub(error) => error.hint(),
            CliError::Plan(error) | CliError::Runtime(RuntimeError::Plan(error)) => return plan_hint(error),
            CliError::Runtime(RuntimeError::NoAdapter { .. }) => "`compile-model devices` lists what there is",
            CliError::Runtime(RuntimeError::NoTier { .. }) => {
                "compile the model again for this adapter: `compile-model build CHECKPOINT --targets all`"
            }
            CliError::Runtime(RuntimeError::Memory { .. }) => {
                "a smaller form of the weights helps: `compile-model build CHECKPOINT --weights f16`, or of the cache: \
                 `--cache int8`; `--memory` sets another limit"
            }
            CliError::Runtime(RuntimeError::NoOutput { wanted, .. }) if WRITING.contains(&wanted.as_str()) => {
                "only language models write text; `compile-model embed` turns texts into vectors"
            }
            CliError::Runtime(RuntimeError::NoOutput { .. }) => {
                "`compile-model inspect PLAN` shows what a plan computes; logits need a language model or a checkpoint with \
                 an MLM head, embeddings an encoder"
            }
            CliError::Runtime(RuntimeError::Context { why, .. }) if why.contains("cache") => {
                "`--context N` makes room for more, as far as memory allows; `compile-model fit MODEL` tells how far that is"
            }
            CliError::Runtime(RuntimeError::CacheFull { .. }) => "`--context N` makes room for more rows",
            CliError::Runtime(RuntimeError::Tokenizer(_)) => "without a tokenizer, give token ids: --ids 101,7592,102",
            CliError::Runtime(RuntimeError::Shader { .. } | RuntimeError::Refused { .. }) => {
                "this is a fault of Warpweft or of the driver; `compile-model doctor` narrows it down"
            }
            CliError::Runtime(RuntimeError::DeviceLost { .. }) => {
                "the driver reset the device; `compile-model doctor` tells whether its kernels are right"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// What the runtime asks a plan for in order to write text.
const WRITING: [&str; 3] = ["candidates", "next", "for sessions"];

fn plan_hint(error: &PlanError) -> Option<String> {
    let text = match error {
        PlanError::Version { .. } | PlanError::Checksum { .. } | PlanError::Length { .. } => {
            "make the plan again with `compile-model build CHECKPOINT -o PLAN`"
        }
        PlanError::NotAPlan(_) => "plans are made by `compile-model build CHECKPOINT -o PLAN`",
        _ => return None,
    };
    Some(text.to_owned())
}
