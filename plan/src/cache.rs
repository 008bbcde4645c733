//! How the rows of caches are stored.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How a cache stores numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheFormat {
    /// 32-bit floats.
    F32,
    /// 16-bit floats. What is beyond ±65504 is stored as that.
    #[default]
    F16,
    /// Signed bytes, and for each head of a row an f32 by which they are multiplied.
    Int8,
    /// 8-bit floats (e4m3fn), and for each head of a row an f32 by which they are multiplied.
    Fp8,
}

impl CacheFormat {
    /// All formats.
    pub const ALL: [CacheFormat; 4] = [CacheFormat::F32, CacheFormat::F16, CacheFormat::Int8, CacheFormat::Fp8];

    /// The name in options, plans and reports.
    pub fn name(self) -> &'static str {
        match self {
            CacheFormat::F32 => "f32",
            CacheFormat::F16 => "f16",
            CacheFormat::Int8 => "int8",
            CacheFormat::Fp8 => "fp8",
        }
    }

    /// 32-bit words of four columns.
    pub fn words(self) -> u32 {
        match self {
            CacheFormat::F32 => 4,
            CacheFormat::F16 => 2,
            CacheFormat::Int8 | CacheFormat::Fp8 => 1,
        }
    }

    /// Whether each head of a row has a scale.
    pub fn is_scaled(self) -> bool {
        match self {
            CacheFormat::F32 | CacheFormat::F16 => false,
            CacheFormat::Int8 | CacheFormat::Fp8 => true,
        }
    }
}

impl fmt::Display for CacheFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no format of caches has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found {0:?}, expected f32, f16, int8 or fp8")]
pub struct ParseCacheFormatError(String);

impl FromStr for CacheFormat {
    type Err = ParseCacheFormatError;

    fn from_str(name: &str) -> Result<CacheFormat, ParseCacheFormatError> {
        let named = CacheFormat::ALL.into_iter().find(|format| format.name() == name);
        named.ok_or_else(|| ParseCacheFormatError(name.to_owned()))
    }
}

/// The rows of a cache: heads, each of whole sixteens of bytes, so that a kernel loads vec4s. In each page of
/// [`PAGE_ROWS`](crate::PAGE_ROWS) rows all those of one head stand side by side, then those of the next, because attention
/// walks along the rows of one head.
///
/// A head is its columns with zeros up to a multiple of eight (f32, f16) or sixteen; then, if the format has a scale, the
/// scale as an f32 and twelve bytes of nothing. It stands with its head and apart from those of others because a vec4 must
/// be written by one workgroup alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheRows {
    /// How numbers are stored.
    pub format: CacheFormat,
    /// Heads of a row.
    pub heads: u32,
    /// Columns of a head.
    pub columns: u32,
}

impl CacheRows {
    /// 32-bit words of the columns of a head, a multiple of four; the next one is the scale, if there is one.
    pub fn code_words(&self) -> u32 {
        let padded = if self.format.is_scaled() { 16 } else { 8 };
        (self.columns.div_ceil(padded) * (padded / 4)).saturating_mul(self.format.words())
    }

    /// 32-bit words of a head, a multiple of four.
    pub fn head_words(&self) -> u32 {
        self.code_words().saturating_add(if self.format.is_scaled() { 4 } else { 0 })
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> u64 {
        (u64::from(self.heads) * u64::from(self.head_words())).saturating_mul(4)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_read() {
        for format in CacheFormat::ALL {
            assert_eq!(format.name().parse(), Ok(format));
            assert_eq!(serde_json::to_string(&format).unwrap(), format!("{:?}", format.name()));
        }
        let error = "f8".parse::<CacheFormat>().unwrap_err().to_string();
        assert!(error.contains("f8") && error.contains("int8 or fp8"), "{error}");
    }

    #[test]
    fn rows_are_whole_sixteens_of_bytes() {
        let bytes = |format, heads, columns| CacheRows { format, heads, columns }.row_bytes();
        assert_eq!(CacheFormat::ALL.map(|format| bytes(format, 1, 128)), [512, 256, 144, 144]);
        assert_eq!(CacheFormat::ALL.map(|format| bytes(format, 3, 20)), [288, 144, 144, 144]);
        assert_eq!(CacheFormat::ALL.map(|format| bytes(format, 2, 1)), [64, 32, 64, 64]);
        assert_eq!(CacheFormat::ALL.map(|format| bytes(format, 1, 512)), [2048, 1024, 528, 528]);
        // What a hostile file may say.
        assert_eq!(bytes(CacheFormat::F32, u32::MAX, u32::MAX), u64::from(u32::MAX).pow(2).saturating_mul(4));
    }
}
