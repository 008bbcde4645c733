//! The names of formats, as options, graphs, plans and kernels have them.

use std::fmt;
use std::str::FromStr;

use super::{Format, Group};

/// A name that no format has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found:?} is no weight format; there are f32, f16, bf16, int8, int8-g32, int4-g32, int4-g64, int4-g128, fp8, \
     fp8-g128, mxfp4 and nf4-g64; after -g stands any multiple of 8, and -sym after int4 means without zero points"
)]
pub struct UnknownFormat {
    /// What was given.
    pub found: String,
}

impl Format {
    /// The name in options, graphs and reports: `int4-g32-sym`. One scale for a row is `int8` and `fp8`, but `int4-row`
    /// and `nf4-row`, because nobody means that by `int4`.
    pub fn name(self) -> String {
        match self {
            Format::F32 | Format::F16 | Format::Bf16 | Format::Mxfp4 => self.suffix().to_owned(),
            Format::Int8(Group::Row) | Format::Fp8(Group::Row) => self.suffix().to_owned(),
            Format::Int8(Group::Of(n)) | Format::Fp8(Group::Of(n)) | Format::Nf4(Group::Of(n)) => {
                format!("{}-g{n}", self.suffix())
            }
            Format::Nf4(Group::Row) => "nf4-row".to_owned(),
            Format::Int4 { group, zeros } => {
                let group = match group {
                    Group::Row => "row".to_owned(),
                    Group::Of(n) => format!("g{n}"),
                };
                format!("int4-{group}{}", if zeros { "" } else { "-sym" })
            }
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Format, UnknownFormat> {
        let mut parts = text.split('-');
        let (base, group, sym, rest) = (parts.next(), parts.next(), parts.next(), parts.next());
        let number = group.and_then(|g| g.strip_prefix('g')).and_then(|n| n.parse().ok());
        let group = match (group, number) {
            (None | Some("row"), _) => Some(Group::Row),
            (Some(_), Some(n)) => Some(Group::Of(n)),
            (Some(_), None) => None,
        };
        let format = match (base, group) {
            (Some("f32"), Some(Group::Row)) => Some(Format::F32),
            (Some("f16"), Some(Group::Row)) => Some(Format::F16),
            (Some("bf16"), Some(Group::Row)) => Some(Format::Bf16),
            (Some("mxfp4"), Some(Group::Row)) => Some(Format::Mxfp4),
            (Some("int8"), Some(group)) => Some(Format::Int8(group)),
            (Some("fp8"), Some(group)) => Some(Format::Fp8(group)),
            (Some("nf4"), Some(group)) => Some(Format::Nf4(group)),
            (Some("int4"), Some(group)) => Some(Format::Int4 { group, zeros: sym != Some("sym") }),
            _ => None,
        };
        // The name itself is what is compared, so that there is one spelling of each format.
        let known = format.filter(|f| rest.is_none() && f.check_groups().is_ok() && f.name() == text);
        known.ok_or_else(|| UnknownFormat { found: text.to_owned() })
    }
}
