//! What users say about calibration.

use std::path::{Path, PathBuf};

use clap::Args;
use warpweft_compiler::lossy::Scheme;
use warpweft_runtime::AdapterChoice;

use super::{Limits, Setting, Wanted};
use crate::CliError;
use crate::args::Quantize;
use crate::units::parse_bytes;

/// The name that stands for the text that comes with this program.
const BUNDLED: &str = "bundled";
/// Growth of perplexity that is allowed if nothing is said.
const BUDGET: f64 = 0.01;

/// How weights are rounded by what goes through the model.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Calibration")]
pub(crate) struct CalibrationOptions {
    /// Round weights by what goes through the model over a text: FILE, or `bundled` for documentation and code that come
    /// with this program. The closer the text is to what the model will be used for, the better. Runs the model on the
    /// device; takes minutes instead of seconds and loses about half as much as rounding each weight on its own.
    #[arg(long, value_name = "FILE")]
    calibrate: Option<PathBuf>,

    /// For --quantize auto: how much perplexity may grow, such as 1%, as measured on parts of the text that no weight was
    /// rounded by. The fewest bytes within it are taken; 1% if neither this nor --fit is given.
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    budget: Option<f64>,

    /// For --quantize auto: bytes that the packed weights may take, such as 4GiB. The least loss within them is taken.
    /// Cache and activations come on top (`compile-model fit` tells how much).
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    fit: Option<u64>,

    /// Adapter to calibrate on: its index in `compile-model devices`, or a part of its name, driver or backend.
    #[arg(long, value_name = "INDEX|NAME")]
    adapter: Option<String>,

    /// Memory that the unrounded model may take on the device while it is calibrated.
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    memory: Option<u64>,
}

impl CalibrationOptions {
    /// What is to be calibrated; `None` if nothing is.
    ///
    /// # Errors
    /// [`CliError::Usage`] for options that make no sense together.
    pub(crate) fn wanted(&self, quantize: Option<Quantize>) -> Result<Option<Wanted>, CliError> {
        let usage = |text: &str| Err(CliError::Usage(text.to_owned()));
        match (quantize, &self.calibrate) {
            (Some(Quantize::Auto), _) => {
                let budget = self.budget.or(self.fit.is_none().then_some(BUDGET));
                Ok(Some(Wanted::Auto(Limits { loss: budget.map(f64::ln_1p), bytes: self.fit })))
            }
            (_, _) if self.budget.is_some() || self.fit.is_some() => {
                usage("--budget and --fit choose formats: they need --quantize auto")
            }
            (Some(Quantize::All(Scheme { matrices, ends })), Some(_)) => {
                Ok(Some(Wanted::Formats { matrices, tables: ends }))
            }
            (None, Some(_)) => usage("--calibrate rounds weights: it needs --quantize FORMAT or --quantize auto"),
            (Some(Quantize::All(_)) | None, None) => Ok(None),
        }
    }

    /// Where and by what.
    pub(crate) fn setting<'s>(&'s self, without: &'s [String]) -> Setting<'s> {
        let text = self.calibrate.as_deref().filter(|path| *path != Path::new(BUNDLED));
        let adapter = self.adapter.as_deref().map_or(AdapterChoice::Best, AdapterChoice::from);
        Setting { text, adapter, memory: self.memory, without }
    }
}

/// A part as people write it: `1%`, `0.5%`.
fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|n| n.trim().parse::<f64>().ok());
    let valid = number.filter(|n| n.is_finite() && *n > 0.0 && *n <= 1000.0);
    valid.map(|n| n / 100.0).ok_or_else(|| format!("expected a growth such as 1%, found {text:?}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn percents_have_their_sign() {
        assert_eq!(parse_percent("1%").unwrap(), 0.01);
        assert_eq!(parse_percent("0.5 %").unwrap(), 0.005);
        for wrong in ["1", "%", "-1%", "NaN%", "0%", "1e9%"] {
            assert!(parse_percent(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn options_have_to_go_together() {
        let all = CalibrationOptions {
            calibrate: Some("bundled".into()),
            budget: Some(0.01),
            fit: Some(1 << 30),
            ..CalibrationOptions::default()
        };
        let int4 = Some(Quantize::All("int4".parse().unwrap()));
        assert!(all.wanted(int4).is_err());
        assert!(all.wanted(None).is_err());
        let Some(Wanted::Auto(limits)) = all.wanted(Some(Quantize::Auto)).unwrap() else { unreachable!() };
        assert_eq!(limits, Limits { loss: Some(0.01f64.ln_1p()), bytes: Some(1 << 30) });
        let plain = CalibrationOptions { calibrate: Some("x".into()), ..CalibrationOptions::default() };
        assert!(matches!(plain.wanted(int4), Ok(Some(Wanted::Formats { .. }))));
        assert!(plain.wanted(None).is_err());
        assert_eq!(plain.setting(&[]).text, Some(Path::new("x")));
        assert_eq!(all.setting(&[]).text, None);
        assert_eq!(CalibrationOptions::default().wanted(int4).unwrap(), None);
        let Some(Wanted::Auto(limits)) = CalibrationOptions::default().wanted(Some(Quantize::Auto)).unwrap() else {
            unreachable!()
        };
        assert_eq!(limits, Limits { loss: Some(0.01f64.ln_1p()), bytes: None });
    }
}
