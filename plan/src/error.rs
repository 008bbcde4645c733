//! What can be wrong with a plan or its file.

use std::fmt::Display;

/// Why a plan could not be written, read or accepted.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file system refused something.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried, with the path where there is one.
        action: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes are not those of a plan.
    #[error("not a Warpweft plan: {0}")]
    NotAPlan(String),
    /// Another version of the format.
    #[error("the plan has format version {found:?}, this build reads version {expected:?}; compile the model again")]
    Version {
        /// The version in the file.
        found: String,
        /// The version that this build knows.
        expected: String,
    },
    /// The header is not the one that was written.
    #[error("the plan's header is damaged: its checksum is {found}, the bytes give {expected}")]
    Checksum {
        /// The checksum in the file.
        found: String,
        /// The checksum of the bytes.
        expected: String,
    },
    /// The file is shorter or longer than its header says.
    #[error("the plan is {found} bytes long, its header promises {expected}: the file is truncated or damaged")]
    Length {
        /// Bytes in the file.
        found: u64,
        /// Bytes that the header promises.
        expected: u64,
    },
    /// A field has a value that it cannot have.
    #[error("invalid plan: {at}: found {found}, expected {expected}")]
    Invalid {
        /// Where in the plan.
        at: String,
        /// What is there.
        found: String,
        /// What may be there.
        expected: String,
    },
    /// The writer was called out of order or with the wrong number of bytes; a fault of the caller.
    #[error("plan writer: {0}")]
    Writer(String),
}

impl PlanError {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> PlanError {
        let action = action.into();
        move |source| PlanError::Io { action, source }
    }
}

/// Shorthand for [`PlanError::Invalid`].
pub(crate) fn invalid(at: impl Display, found: impl Display, expected: impl Display) -> PlanError {
    PlanError::Invalid { at: at.to_string(), found: clipped(found), expected: expected.to_string() }
}

/// At most 200 characters of a text that may come from a hostile file.
pub(crate) fn clipped(text: impl Display) -> String {
    let text = text.to_string();
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
