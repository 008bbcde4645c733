//! Rates that were measured on this machine's adapters.
//!
//! They lie in `$XDG_CONFIG_HOME/warpweft/rates` (`~/.config`, `~/Library/Preferences`, `%APPDATA%`), a file for each
//! adapter and driver, since a new driver may be as fast as it likes. Deleting them is safe at any time.

use std::fs;
use std::path::PathBuf;

use etcetera::{BaseStrategy, choose_base_strategy};
use serde::{Deserialize, Serialize};
use warpweft_compiler::target::{Rates, Target};
use warpweft_runtime::Adapter;

use crate::CliError;
use crate::compile::adapter_target;
use crate::files;

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Measured {
    pub(crate) adapter: String,
    pub(crate) driver: String,
    pub(crate) backend: String,
    /// The target whose file the rest is from.
    pub(crate) target: String,
    pub(crate) rates: Rates,
}

/// The rates that were measured on an adapter, if they were. A file that cannot be read counts as none.
pub(crate) fn rates(adapter: &Adapter) -> Option<Rates> {
    let text = fs::read_to_string(path(adapter)?).ok()?;
    let measured = serde_json::from_str::<Measured>(&text)
        .inspect_err(|error| tracing::warn!(%error, "measured rates are left aside"))
        .ok()?;
    let numbers = [measured.rates.bandwidth, measured.rates.dispatch, measured.rates.fmas];
    (measured.adapter == adapter.name && numbers.iter().all(|n| n.is_finite() && *n > 0.0)).then_some(measured.rates)
}

/// The target to compile for on an adapter, with measured rates if there are any.
///
/// # Errors
/// As [`adapter_target`].
pub(crate) fn target(adapter: &Adapter) -> Result<&'static Target, CliError> {
    let target = adapter_target(adapter)?;
    Ok(match rates(adapter) {
        // Targets live as long as the process, and a command asks for one or two.
        Some(rates) => Box::leak(Box::new(Target { rates, ..target.clone() })),
        None => target,
    })
}

/// Keeps rates; gives the file.
pub(crate) fn store(adapter: &Adapter, target: &str, rates: &Rates) -> Result<PathBuf, CliError> {
    let path = path(adapter).ok_or_else(|| CliError::Failed("there is no folder for a user's configuration".into()))?;
    let measured = Measured {
        adapter: adapter.name.clone(),
        driver: adapter.driver.clone(),
        backend: adapter.backend.clone(),
        target: target.to_owned(),
        rates: rates.clone(),
    };
    let text = serde_json::to_vec_pretty(&measured).map_err(|e| CliError::Failed(format!("rates as JSON: {e}")))?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(CliError::io(format!("write into {}", folder.display())))?;
    }
    files::write(&path, &text)?;
    Ok(path)
}

/// The file of an adapter: a name that people can read, and a hash that tells all of them apart.
fn path(adapter: &Adapter) -> Option<PathBuf> {
    let folder = choose_base_strategy().ok()?.config_dir().join("warpweft/rates");
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = adapter.name.chars().map(plain).take(40).collect();
    let key = format!("{}\0{}\0{}", adapter.name, adapter.driver, adapter.backend);
    Some(folder.join(format!("{name}-{}.json", &blake3::hash(key.as_bytes()).to_hex()[..12])))
}
