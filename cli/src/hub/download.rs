//! Downloading into the Hub's cache, and going on where it stopped.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::Cache;
use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use indicatif::{ProgressBar, ProgressDrawTarget};

use super::error::{Asked, status};
use super::{HubError, ModelName, cache, files};
use crate::CliError;
use crate::console::Console;
use crate::units;

const ENDPOINT: &str = "https://huggingface.co";
/// Attempts at a file whose download breaks off.
const ATTEMPTS: u32 = 3;
/// Time before another attempt.
const PAUSE: Duration = Duration::from_millis(500);

/// A model that is in the cache.
pub(crate) struct Pulled {
    pub(crate) folder: PathBuf,
    /// The commit.
    pub(crate) commit: String,
    /// How many files it needs, and how many of them were downloaded now.
    pub(crate) files: usize,
    pub(crate) downloaded: usize,
    pub(crate) bytes: u64,
}

/// Downloads what is missing of a model.
pub(crate) fn pull(name: &ModelName, revision: &str, console: &mut Console<'_>) -> Result<Pulled, CliError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
    let endpoint = endpoint.trim_end_matches('/');
    let asked = Asked { endpoint, name: name.as_str(), revision };
    let cache = cache()?;
    let mut builder = ApiBuilder::from_cache(cache.clone()).with_endpoint(endpoint.to_owned());
    if let Some(token) = variable("HF_TOKEN") {
        builder = builder.with_token(Some(token));
    }
    let builder = builder.with_user_agent("warpweft", env!("CARGO_PKG_VERSION"));
    let api = builder.build().map_err(|error| asked.error("the list of files", &error))?;
    let repo = api.repo(name.repo(revision));
    let info = repo.info().map_err(|error| asked.error("the list of files", &error))?;
    let all: Vec<&str> = info.siblings.iter().map(|sibling| sibling.rfilename.as_str()).collect();
    let needed = files::needed(&all);
    if !needed.iter().any(|file| files::is_weights(file)) {
        let like =
            |file: &&&str| [".bin", ".pt", ".pth", ".gguf", ".onnx", ".safetensors"].iter().any(|e| file.ends_with(e));
        let found: Vec<&str> = all.iter().filter(like).take(4).copied().collect();
        let found = if found.is_empty() { "no weights at all".to_owned() } else { found.join(", ") };
        return Err(HubError::NoWeights { name: name.as_str().to_owned(), found }.into());
    }
    let (_, interactive) = console.messages();
    let download = Download { api: &api, repo: &repo, asked, cache: &cache, name, revision, interactive };
    let folder = cache.repo(name.repo(revision)).pointer_path(&info.sha);
    let (mut downloaded, mut bytes) = (0, 0);
    for file in &needed {
        let path = folder.join(file);
        if !path.exists() {
            let fetched = download.file(file)?;
            downloaded += 1;
            if files::is_weights(file) && !console.json {
                console.note(&format!("downloaded {file}: {}", units::bytes(fetched)));
            }
        }
        bytes += std::fs::metadata(&path).map_err(CliError::io(format!("read {}", path.display())))?.len();
    }
    Ok(Pulled { folder, commit: info.sha, files: needed.len(), downloaded, bytes })
}

struct Download<'d> {
    api: &'d Api,
    repo: &'d ApiRepo,
    asked: Asked<'d>,
    cache: &'d Cache,
    name: &'d ModelName,
    revision: &'d str,
    /// Whether bars can be drawn.
    interactive: bool,
}

impl Download<'_> {
    /// Downloads a file; returns its size. What is there of it from an earlier attempt is kept.
    fn file(&self, file: &str) -> Result<u64, CliError> {
        let mut attempt = 1;
        let size = Cell::new(0);
        loop {
            let error = match self.repo.download_with_progress(file, Watch::new(&size, self.interactive)) {
                Ok(path) => return self.checked(file, &path, size.get()),
                Err(error) => error,
            };
            let again = match (&error, status(&error)) {
                // All of it is there already, and the Hub has nothing to send.
                (_, Some(416)) => self.forget_part(file).is_some(),
                (ApiError::InvalidResume, _) => self.forget_part(file).is_some(),
                (ApiError::IoError(_), _) => true,
                (ApiError::RequestError(_), status) => status.is_none_or(|status| status >= 500),
                _ => false,
            };
            // Where not even the first byte came, the network is gone.
            if !again || attempt == ATTEMPTS || size.get() == 0 {
                return Err(self.asked.error(file, &error).into());
            }
            tracing::debug!(file, attempt, %error, "download goes on");
            std::thread::sleep(PAUSE);
            attempt += 1;
        }
    }

    /// Removes what an earlier attempt has left of a file.
    fn forget_part(&self, file: &str) -> Option<()> {
        let metadata = self.api.metadata(&self.repo.url(file)).ok()?;
        let part = self.cache.repo(self.name.repo(self.revision)).blob_path(metadata.etag()).with_extension("part");
        std::fs::remove_file(part).ok()
    }

    /// The size of a file that has come; one that is not as long as it should be is removed.
    fn checked(&self, file: &str, path: &Path, expected: u64) -> Result<u64, CliError> {
        let found = std::fs::metadata(path).map_err(CliError::io(format!("read {}", path.display())))?.len();
        if found == expected {
            return Ok(found);
        }
        let blob = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        for damaged in [&blob, path] {
            // Whoever was faster has removed it already.
            let _ = std::fs::remove_file(damaged);
        }
        let problem = format!("found {found} bytes, expected {expected}");
        let Asked { endpoint, name, .. } = self.asked;
        let (endpoint, name, file) = (endpoint.to_owned(), name.to_owned(), file.to_owned());
        Err(HubError::Download { endpoint, name, file, problem }.into())
    }
}

/// Shows how a download goes on, and keeps its size.
struct Watch<'s> {
    bar: ProgressBar,
    size: &'s Cell<u64>,
}

impl<'s> Watch<'s> {
    fn new(size: &'s Cell<u64>, interactive: bool) -> Watch<'s> {
        let target = if interactive { ProgressDrawTarget::stderr_with_hz(12) } else { ProgressDrawTarget::hidden() };
        Watch { bar: ProgressBar::with_draw_target(None, target), size }
    }
}

impl Progress for Watch<'_> {
    fn init(&mut self, size: usize, file: &str) {
        self.size.set(size as u64);
        self.bar.reset();
        self.bar.init(size, file);
    }

    fn update(&mut self, size: usize) {
        self.bar.inc(size as u64);
    }

    fn finish(&mut self) {
        self.bar.finish_and_clear();
    }
}
