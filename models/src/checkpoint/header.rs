//! The header of a safetensors file: 8 bytes of length, then JSON that says which bytes are which tensor.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::stored::StoredType;
use crate::error::clip;

/// The longest header that is read, in bytes: the limit of the format's own library.
const MAX_HEADER: u64 = 100_000_000;

/// The most axes of a tensor.
const MAX_AXES: usize = 8;

/// A tensor that a header lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Type of its elements.
    pub stored: StoredType,
    /// Row-major shape; empty for a single number.
    pub shape: Vec<u64>,
    /// First byte, from the start of the file.
    pub begin: u64,
    /// One past the last byte, from the start of the file; at most the file's length.
    pub end: u64,
}

/// What is wrong with a safetensors header.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Too short for the length of the header.
    #[error("not a safetensors file: found {file} bytes, expected at least 8; the download may be incomplete")]
    TooShort {
        /// Length of the file in bytes.
        file: u64,
    },
    /// The header is longer than any real one.
    #[error("not a safetensors file: found a header length of {found} bytes, expected at most {MAX_HEADER}")]
    TooLong {
        /// The length that the file claims.
        found: u64,
    },
    /// The file ends inside the header.
    #[error("the file is cut short: found {file} bytes, expected a header of {header} bytes; download it again")]
    Truncated {
        /// Length that the header should have.
        header: u64,
        /// Length of the file in bytes.
        file: u64,
    },
    /// The header is no JSON, or not of the form that the format asks for.
    #[error("the safetensors header is damaged: {0}")]
    Json(#[from] serde_json::Error),
    /// An element type that is not known.
    #[error("tensor {tensor:?}: found type {found:?}, expected a type of the safetensors format")]
    Type {
        /// The tensor.
        tensor: String,
        /// The type that the header gives.
        found: String,
    },
    /// A tensor with too many axes.
    #[error("tensor {tensor:?}: found {found} axes, expected at most {MAX_AXES}")]
    Axes {
        /// The tensor.
        tensor: String,
        /// Number of axes.
        found: usize,
    },
    /// Offsets that do not lie in the file.
    #[error(
        "tensor {tensor:?}: found bytes {begin}..{end}, expected a range within the file's {data} bytes of data; \
             the download may be incomplete"
    )]
    Range {
        /// The tensor.
        tensor: String,
        /// First byte, from the end of the header.
        begin: u64,
        /// One past the last byte.
        end: u64,
        /// Bytes after the header.
        data: u64,
    },
    /// A range of bytes that does not fit type and shape.
    #[error("tensor {tensor:?}: found {found} bytes, expected {} for {stored} of shape {shape:?}",
            .expected.map_or("less than 2^64 whole bytes".to_owned(), |n| n.to_string()))]
    Size {
        /// The tensor.
        tensor: String,
        /// Length of its range.
        found: u64,
        /// Length that follows from type and shape; `None` if it is no number of bytes.
        expected: Option<u64>,
        /// Its type.
        stored: &'static str,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// A tensor that does not start where the one before it ends.
    #[error("tensor {tensor:?}: found its first byte at {found}, expected {expected}, where {} ends",
            .before.as_ref().map_or("the header".to_owned(), |t| format!("tensor {t:?}")))]
    Order {
        /// The tensor.
        tensor: String,
        /// Its first byte, from the end of the header.
        found: u64,
        /// One past the last byte of the tensor before it.
        expected: u64,
        /// The tensor before it.
        before: Option<String>,
    },
    /// Bytes that belong to no tensor.
    #[error("found {found} bytes of data, expected {expected}, the sum of all tensors")]
    Trailing {
        /// Bytes after the header.
        found: u64,
        /// Bytes that the header accounts for.
        expected: u64,
    },
}

/// Reads the header of a safetensors file whose bytes are `file`, and checks it against them.
///
/// The entries come in the order of their bytes; together they cover the file's data exactly once.
///
/// # Errors
/// When the header is damaged, or claims what does not fit the file.
pub fn read_header(file: &[u8]) -> Result<Vec<Entry>, HeaderError> {
    let length = file.len() as u64;
    let Some((prefix, rest)) = file.split_first_chunk::<8>() else {
        return Err(HeaderError::TooShort { file: length });
    };
    let header = u64::from_le_bytes(*prefix);
    if header > MAX_HEADER {
        return Err(HeaderError::TooLong { found: header });
    }
    let Some((json, data)) = rest.split_at_checked(header as usize) else {
        return Err(HeaderError::Truncated { header, file: length });
    };
    let Header(raw) = serde_json::from_slice(json)?;
    let data = data.len() as u64;
    let mut entries =
        raw.into_iter().map(|(name, raw)| entry(name, raw, data)).collect::<Result<Vec<Entry>, HeaderError>>()?;
    // Tensors of no bytes share their first byte with the next one.
    entries.sort_by(|a, b| (a.begin, a.end, &a.name).cmp(&(b.begin, b.end, &b.name)));
    check_cover(&entries, data)?;
    let start = 8 + header;
    for entry in &mut entries {
        entry.begin += start;
        entry.end += start;
    }
    Ok(entries)
}

/// The checked entry, with offsets from the end of the header.
fn entry(name: String, raw: RawEntry, data: u64) -> Result<Entry, HeaderError> {
    let tensor = || clip(&name);
    let stored =
        StoredType::parse(&raw.dtype).ok_or_else(|| HeaderError::Type { tensor: tensor(), found: clip(&raw.dtype) })?;
    if raw.shape.len() > MAX_AXES {
        return Err(HeaderError::Axes { tensor: tensor(), found: raw.shape.len() });
    }
    let (begin, end) = raw.data_offsets;
    if begin > end || end > data {
        return Err(HeaderError::Range { tensor: tensor(), begin, end, data });
    }
    let expected = stored.bytes(&raw.shape);
    if expected != Some(end - begin) {
        let (found, stored) = (end - begin, stored.name());
        return Err(HeaderError::Size { tensor: tensor(), found, expected, stored, shape: raw.shape });
    }
    Ok(Entry { name, stored, shape: raw.shape, begin, end })
}

/// Fails unless `entries`, sorted by offset, cover `data` bytes exactly once.
fn check_cover(entries: &[Entry], data: u64) -> Result<(), HeaderError> {
    let mut expected = 0;
    let mut before: Option<&str> = None;
    for entry in entries {
        if entry.begin != expected {
            let (tensor, found) = (clip(&entry.name), entry.begin);
            return Err(HeaderError::Order { tensor, found, expected, before: before.map(clip) });
        }
        expected = entry.end;
        before = Some(&entry.name);
    }
    if expected != data {
        return Err(HeaderError::Trailing { found: data, expected });
    }
    Ok(())
}

/// A tensor as the JSON gives it.
#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// All tensors as the JSON gives them. A map type would hide a name that occurs twice.
struct Header(Vec<(String, RawEntry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a member per tensor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut entries = Vec::new();
        let mut names = std::collections::HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format_args!("{:?} occurs twice", clip(&name))));
            }
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let entry = map
                .next_value::<RawEntry>()
                .map_err(|e| A::Error::custom(format_args!("tensor {:?}: {e}", clip(&name))))?;
            entries.push((name, entry));
        }
        Ok(Header(entries))
    }
}
