//! Models of the Hugging Face Hub: taken from its usual cache, or downloaded into it.

mod download;
mod error;
mod files;

use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo, RepoType};

use crate::CliError;
use crate::console::Console;

pub(crate) use download::pull;
pub use error::HubError;

/// The branch that is meant where nothing is said.
pub(crate) const MAIN: &str = "main";
/// What the cache calls the folder of a model, before `OWNER--NAME`.
const PREFIX: &str = "models--";

/// `OWNER/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelName(String);

impl ModelName {
    /// Reads a name of the Hub.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub(crate) fn parse(text: &str) -> Result<ModelName, String> {
        let good = |part: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            part.chars().all(plain) && part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.len() <= 96
        };
        match text.split_once('/') {
            Some((owner, name)) if good(owner) && good(name) => Ok(ModelName(text.to_owned())),
            _ => Err(format!("expected the name of a model such as Qwen/Qwen3-0.6B, found {text:?}")),
        }
    }

    /// The name that a path spells if it cannot be meant as one: nothing is there, and no folder where it would be.
    fn of_path(path: &Path) -> Option<ModelName> {
        let file = ["weft", "safetensors", "json"].iter().any(|end| path.extension().is_some_and(|e| e == *end));
        let here = path.exists() || path.parent().is_some_and(Path::exists);
        if file || here { None } else { ModelName::parse(path.to_str()?).ok() }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    fn repo(&self, revision: &str) -> Repo {
        Repo::with_revision(self.0.clone(), RepoType::Model, revision.to_owned())
    }
}

/// The folder of a model: the path itself, or for `OWNER/NAME`, if there is no such path, its snapshot in the Hub's cache,
/// which is downloaded if it is not complete.
pub(crate) fn resolve(path: &Path, console: &mut Console<'_>) -> Result<PathBuf, CliError> {
    let Some(name) = ModelName::of_path(path) else { return Ok(path.to_owned()) };
    match cached(&cache()?, &name, MAIN) {
        Some(folder) => Ok(folder),
        None => {
            if !console.json {
                console
                    .note(&format!("{} is no path, so it is taken as the name of a model on the Hub", name.as_str()));
            }
            Ok(pull(&name, MAIN, console)?.folder)
        }
    }
}

/// The complete snapshot of a model in the cache.
fn cached(cache: &Cache, name: &ModelName, revision: &str) -> Option<PathBuf> {
    let config = cache.repo(name.repo(revision)).get("config.json")?;
    let folder = config.parent()?;
    files::is_complete(folder).then(|| folder.to_owned())
}

/// The model's name, if `folder` is a snapshot in the cache: `…/models--OWNER--NAME/snapshots/COMMIT`.
pub(crate) fn name_of(folder: &Path) -> Option<String> {
    let snapshots = folder.parent().filter(|parent| parent.ends_with("snapshots"))?;
    let repo = snapshots.parent()?.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    repo.split_once("--").map(|(_, name)| name.to_owned())
}

/// The Hub's cache, where Python's `huggingface_hub` has it too.
fn cache() -> Result<Cache, HubError> {
    let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = given("HF_HUB_CACHE").or_else(|| Some(given("HF_HOME")?.join("hub"))) {
        return std::path::absolute(&folder).map(Cache::new).map_err(|source| HubError::Cache { folder, source });
    }
    let caches = given("XDG_CACHE_HOME").or_else(|| Some(std::env::home_dir()?.join(".cache")));
    caches.map(|caches| Cache::new(caches.join("huggingface/hub"))).ok_or(HubError::NoHome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        for name in ["Qwen/Qwen3-0.6B", "sentence-transformers/all-MiniLM-L6-v2"] {
            assert_eq!(ModelName::of_path(Path::new(name)).as_ref().map(ModelName::as_str), Some(name));
        }
        let paths =
            ["plan.weft", "folder/plan.weft", "a/b/c", "../x", "/x/y", "./x", "x/", "/x", "src/nothing", "a b/c", ""];
        for path in paths {
            assert_eq!(ModelName::of_path(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn snapshots_have_their_models_name() {
        let folder = Path::new("/x/hub/models--Qwen--Qwen3-0.6B/snapshots/c1899de");
        assert_eq!(name_of(folder).as_deref(), Some("Qwen3-0.6B"));
        assert_eq!(name_of(Path::new("/x/models/bert")), None);
    }
}
