//! What can be wrong with the Hub, the network, or a name.

use std::io;
use std::path::PathBuf;

use hf_hub::api::sync::ApiError;

/// Why a model could not be had from the Hub.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The Hub has no such model or revision.
    #[error("{endpoint} has no model {name} with a revision {revision:?}")]
    NotFound {
        /// Where it was looked for.
        endpoint: String,
        /// `OWNER/NAME`.
        name: String,
        /// The branch, tag or commit.
        revision: String,
    },
    /// The Hub wants to know who asks. It says the same of models that do not exist.
    #[error(
        "{endpoint} shows {name} to nobody it does not know (401): there is no such model, or it is private or gated"
    )]
    Unauthorized {
        /// Where it was looked for.
        endpoint: String,
        /// `OWNER/NAME`.
        name: String,
    },
    /// The account may not read the model.
    #[error("{endpoint} does not give {name} to this account (403): it is gated or private")]
    Forbidden {
        /// Where it was looked for.
        endpoint: String,
        /// `OWNER/NAME`.
        name: String,
    },
    /// The repository holds no weights that can be read.
    #[error("{name} has no model.safetensors and no shards of one; found {found}")]
    NoWeights {
        /// `OWNER/NAME`.
        name: String,
        /// Files that might be weights.
        found: String,
    },
    /// The Hub cannot be reached, or breaks off.
    #[error("{file} of {name} cannot be downloaded from {endpoint}: {problem}")]
    Download {
        /// Where it was looked for.
        endpoint: String,
        /// `OWNER/NAME`.
        name: String,
        /// What was asked for.
        file: String,
        /// What happened.
        problem: String,
    },
    /// The cache cannot be used.
    #[error("the cache of models {} cannot be used: {source}", .folder.display())]
    Cache {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody says where the cache is.
    #[error("the Hub's cache has no place: there is no home directory, and HF_HOME is not set")]
    NoHome,
}

/// What was asked of the Hub.
pub(super) struct Asked<'a> {
    pub(super) endpoint: &'a str,
    pub(super) name: &'a str,
    pub(super) revision: &'a str,
}

impl Asked<'_> {
    /// What an error of the client means.
    pub(super) fn error(&self, file: &str, error: &ApiError) -> HubError {
        let (endpoint, name) = (self.endpoint.to_owned(), self.name.to_owned());
        match status(error) {
            Some(401) => HubError::Unauthorized { endpoint, name },
            Some(403) => HubError::Forbidden { endpoint, name },
            Some(404) => HubError::NotFound { endpoint, name, revision: self.revision.to_owned() },
            _ => HubError::Download { endpoint, name, file: file.to_owned(), problem: error.to_string() },
        }
    }
}

/// The HTTP status with which the Hub refused something.
pub(super) fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        _ => None,
    }
}

impl HubError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            HubError::NotFound { .. } => {
                "check the name on the model's page; --revision takes a branch, a tag or a commit"
            }
            HubError::Unauthorized { .. } => {
                "check the name; for a private or gated model, set HF_TOKEN or log in with `hf auth login`"
            }
            HubError::Forbidden { .. } => "accept the terms on the model's page, with the account that the token is of",
            HubError::NoWeights { .. } => {
                "look for another repository of the model, or write it again with transformers: \
                 save_pretrained(folder, safe_serialization=True)"
            }
            HubError::Download { .. } => {
                "run the same command again when the network is back: it goes on where it stopped; HF_ENDPOINT names a \
                 mirror, and a folder that was copied from elsewhere needs no network"
            }
            HubError::Cache { .. } | HubError::NoHome => "set HF_HOME to a folder that can be written",
        }
    }
}
