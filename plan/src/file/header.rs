//! The header: safetensors' JSON, with the version and a checksum at its very beginning.
//!
//! ```text
//! u64 length | {"__metadata__":{"warpweft.version":"1","warpweft.checksum":"0123456789abcdef","plan":…},"tensor":…} and spaces
//! ```
//!
//! Both stand at fixed places, so that they can be judged before anything is parsed.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::Assets;
use super::checksum::fnv1a;
use crate::error::{PlanError, clipped, invalid};
use crate::{Plan, Tensor};

/// The version of the format that this build reads and writes.
pub const FORMAT_VERSION: &str = "1";

const START: &str = "{\"__metadata__\":{\"warpweft.version\":\"";
const CHECKSUM: &str = "\",\"warpweft.checksum\":\"";
const DIGITS: usize = 16;
const PLAN: &str = "plan";
const WGSL: &str = "wgsl/";
const PROVENANCE: &str = "provenance";
const QUANTIZATION: &str = "quantization";
const OWN: &str = "warpweft.";

/// Longest header: the safetensors library's own limit.
const MAX_HEADER: u64 = 100_000_000;
/// The tensors begin at a multiple of this.
const ALIGNMENT: usize = 64;

/// What a header says.
pub(super) struct Header {
    pub(super) plan: Plan,
    pub(super) assets: Assets,
}

/// The first bytes of a file, up to its first tensor.
pub(super) fn write(plan: &Plan, assets: &Assets) -> Result<Vec<u8>, PlanError> {
    let json = |e: serde_json::Error| PlanError::Writer(format!("cannot write the header: {e}"));
    let mut text = format!("{START}{FORMAT_VERSION}{CHECKSUM}{}\"", "0".repeat(DIGITS));
    let mut bare = plan.clone();
    let (provenance, quantization) = (bare.provenance.take(), bare.quantization.take());
    let shaders: Vec<String> = bare.kernels.iter_mut().map(|k| std::mem::take(&mut k.wgsl)).collect();
    let mut entry = |key: &str, value: &str| -> Result<(), PlanError> {
        let (key, value) = (serde_json::to_string(key).map_err(json)?, serde_json::to_string(value).map_err(json)?);
        text.extend([",", &key, ":", &value]);
        Ok(())
    };
    entry(PLAN, &serde_json::to_string(&bare).map_err(json)?)?;
    for (kernel, wgsl) in bare.kernels.iter().zip(&shaders) {
        entry(&format!("{WGSL}{}", kernel.name), wgsl)?;
    }
    if let Some(provenance) = provenance {
        entry(PROVENANCE, &serde_json::to_string(&provenance).map_err(json)?)?;
    }
    if let Some(quantization) = quantization {
        entry(QUANTIZATION, &serde_json::to_string(&quantization).map_err(json)?)?;
    }
    for (name, value) in &assets.texts {
        let own = [PLAN, PROVENANCE, QUANTIZATION].contains(&name.as_str());
        if own || name.is_empty() || name.starts_with(WGSL) || name.starts_with(OWN) {
            return Err(PlanError::Writer(format!("an asset cannot be named {name:?}")));
        }
        entry(name, value)?;
    }
    text.push('}');
    for (tensor, [start, end]) in plan.tensors.iter().zip(offsets(&plan.tensors)?) {
        let name = serde_json::to_string(&tensor.name).map_err(json)?;
        let (dtype, shape) = (tensor.dtype.name().to_uppercase(), &tensor.shape);
        let _ = write!(text, ",{name}:{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{start},{end}]}}");
    }
    text.push('}');
    while (text.len() + 8) % ALIGNMENT != 0 {
        text.push(' ');
    }
    if text.len() as u64 > MAX_HEADER {
        return Err(PlanError::Writer(format!("a header of {} bytes, at most {MAX_HEADER} fit", text.len())));
    }
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.into_bytes());
    seal(&mut bytes);
    Ok(bytes)
}

/// Writes the checksum of a header that has this build's version into its place.
pub(super) fn seal(bytes: &mut [u8]) {
    let at = 8 + START.len() + FORMAT_VERSION.len() + CHECKSUM.len();
    let sum = fnv1a([&bytes[..at], &bytes[at + DIGITS..]]);
    bytes[at..at + DIGITS].copy_from_slice(format!("{sum:016x}").as_bytes());
}

/// Bytes of the header behind the length field `first`, in a file of `size` bytes.
pub(super) fn length(first: [u8; 8], size: u64) -> Result<usize, PlanError> {
    let length = u64::from_le_bytes(first);
    if length > MAX_HEADER {
        let problem =
            format!("its first 8 bytes announce a header of {length} bytes, at most {MAX_HEADER} is possible");
        return Err(PlanError::NotAPlan(problem));
    }
    if length > size.saturating_sub(8) {
        return Err(PlanError::Length { found: size, expected: length.saturating_add(8) });
    }
    usize::try_from(length).map_err(|_| PlanError::NotAPlan(format!("a header of {length} bytes")))
}

/// Reads a header, its length field included; the plan is checked, the file's size is not.
pub(super) fn read(bytes: &[u8]) -> Result<Header, PlanError> {
    verify(bytes)?;
    let json = |e: serde_json::Error| PlanError::NotAPlan(format!("its header: {}", clipped(e)));
    let Entries { mut metadata, tensors } = serde_json::from_slice(&bytes[8..]).map_err(json)?;
    let missing = |key: &str| PlanError::NotAPlan(format!("its metadata has no {:?}", clipped(key)));
    let text = metadata.remove(PLAN).ok_or_else(|| missing(PLAN))?;
    let mut plan: Plan =
        serde_json::from_str(&text).map_err(|e| PlanError::NotAPlan(format!("its plan: {}", clipped(e))))?;
    drop(text);
    for kernel in &mut plan.kernels {
        let key = format!("{WGSL}{}", kernel.name);
        kernel.wgsl = metadata.remove(&key).ok_or_else(|| missing(&key))?;
    }
    if plan.provenance.is_some() {
        return Err(PlanError::NotAPlan("its plan has a provenance, which belongs beside it".into()));
    }
    if plan.quantization.is_some() {
        return Err(PlanError::NotAPlan("its plan has a quantization, which belongs beside it".into()));
    }
    if let Some(text) = metadata.remove(PROVENANCE) {
        let parsed = serde_json::from_str(&text);
        plan.provenance = Some(parsed.map_err(|e| PlanError::NotAPlan(format!("its provenance: {}", clipped(e))))?);
    }
    if let Some(text) = metadata.remove(QUANTIZATION) {
        let parsed = serde_json::from_str(&text);
        plan.quantization = Some(parsed.map_err(|e| PlanError::NotAPlan(format!("its quantization: {}", clipped(e))))?);
    }
    metadata.retain(|key, _| !key.starts_with(OWN));
    if let Some(key) = metadata.keys().find(|key| key.starts_with(WGSL)) {
        return Err(invalid(format!("metadata {:?}", clipped(key)), "a shader of no kernel", "one for each kernel"));
    }
    plan.check()?;
    check_tensors(&plan.tensors, tensors)?;
    Ok(Header { plan, assets: Assets { texts: metadata } })
}

/// Judges the fixed part: the version first, then the checksum.
fn verify(bytes: &[u8]) -> Result<(), PlanError> {
    let no_plan = || PlanError::NotAPlan("its header does not begin as a plan's does".into());
    let text = bytes.get(8..).and_then(|b| b.strip_prefix(START.as_bytes())).ok_or_else(no_plan)?;
    let end = text.iter().take(80).position(|&b| b == b'"').ok_or_else(no_plan)?;
    let (version, rest) = text.split_at(end);
    if version != FORMAT_VERSION.as_bytes() {
        let found = String::from_utf8_lossy(version).into_owned();
        return Err(PlanError::Version { found, expected: FORMAT_VERSION.into() });
    }
    let digits = rest.strip_prefix(CHECKSUM.as_bytes()).and_then(|r| r.get(..DIGITS)).ok_or_else(no_plan)?;
    let at = 8 + START.len() + FORMAT_VERSION.len() + CHECKSUM.len();
    let sum = format!("{:016x}", fnv1a([&bytes[..at], &bytes[at + DIGITS..]]));
    if digits != sum.as_bytes() {
        let found = String::from_utf8_lossy(digits).into_owned();
        return Err(PlanError::Checksum { found, expected: sum });
    }
    Ok(())
}

/// First and last byte of each tensor, counted from the end of the header.
pub(super) fn offsets(tensors: &[Tensor]) -> Result<Vec<[u64; 2]>, PlanError> {
    let mut end = 0u64;
    let next = |tensor: &Tensor| {
        let start = end;
        end = end.checked_add(tensor.bytes()?)?;
        Some([start, end])
    };
    let offsets: Option<Vec<_>> = tensors.iter().map(next).collect();
    offsets.ok_or_else(|| invalid("tensors", "more than 2^64 bytes", "a size that fits"))
}

/// The safetensors part must say what the plan says.
fn check_tensors(tensors: &[Tensor], mut entries: BTreeMap<String, Entry>) -> Result<(), PlanError> {
    for (tensor, data_offsets) in tensors.iter().zip(offsets(tensors)?) {
        let at = format!("tensor {:?} in the header", clipped(&tensor.name));
        let dtype = tensor.dtype.name().to_uppercase();
        let expected = Entry { dtype, shape: tensor.shape.clone(), data_offsets };
        match entries.remove(&tensor.name) {
            Some(entry) if entry == expected => {}
            Some(entry) => return Err(invalid(at, format!("{entry:?}"), format!("{expected:?}"))),
            None => return Err(invalid(at, "nothing", format!("{expected:?}"))),
        }
    }
    match entries.keys().next() {
        Some(name) => {
            Err(invalid(format!("tensor {:?} in the header", clipped(name)), "it", "only the plan's tensors"))
        }
        None => Ok(()),
    }
}

/// What safetensors says of one tensor.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The header's JSON. A key that occurs twice is refused: two readers could see two files.
struct Entries {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, Entry>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Entries, D::Error> {
        struct Header;
        impl<'de> Visitor<'de> for Header {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a safetensors header")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut metadata: Option<Unique<String>> = None;
                let mut tensors = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    let twice = if key == "__metadata__" {
                        metadata.replace(map.next_value()?).is_some()
                    } else {
                        tensors.insert(key.clone(), map.next_value()?).is_some()
                    };
                    if twice {
                        return Err(A::Error::custom(format!("{:?} twice", clipped(key))));
                    }
                }
                let metadata = metadata.ok_or_else(|| A::Error::custom("no __metadata__"))?.0;
                Ok(Entries { metadata, tensors })
            }
        }
        deserializer.deserialize_map(Header)
    }
}

/// A map without repeated keys.
struct Unique<V>(BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Unique<V>, D::Error> {
        struct Map<V>(std::marker::PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Map<V> {
            type Value = Unique<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique<V>, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, V>()? {
                    if entries.insert(key.clone(), value).is_some() {
                        return Err(A::Error::custom(format!("{:?} twice", clipped(key))));
                    }
                }
                Ok(Unique(entries))
            }
        }
        deserializer.deserialize_map(Map(std::marker::PhantomData))
    }
}
