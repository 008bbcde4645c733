//! What a compile aims at: features, limits and rates, read from `targets/*.toml`.

mod rates;

use std::sync::OnceLock;

use serde::Deserialize;
use warpweft_plan::Tier;

use crate::kernels::cached::{INVOCATIONS, Uncut};

pub(crate) use rates::groups;
pub use rates::{Dispatch, Rates};

/// A class of adapters.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Its name in options and plans.
    pub name: String,
    /// Lanes of a subgroup, the same for every dispatch; none where subgroups cannot be used.
    pub subgroup_size: Option<u32>,
    /// It has 64-bit integers, and loads what is no weight as such: where a load is a loop over lanes and components, as on a
    /// processor, it costs by the component and not by the byte.
    pub int64: bool,
    /// Storage images of one kernel. Weights are read as such where there are any: where a load of a buffer is a loop over
    /// lanes, that of an image is not.
    pub images: u32,
    /// WGSL extensions that its shaders are written with.
    pub enable: Vec<String>,
    /// What a kernel may ask for.
    pub limits: Limits,
    /// How fast a typical adapter is.
    pub rates: Rates,
}

/// What a kernel may ask for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Invocations in one workgroup.
    pub workgroup_invocations: u32,
    /// Bytes of one storage binding.
    pub binding_bytes: u64,
    /// Storage buffers in one kernel.
    pub storage_buffers: u32,
    /// Loop iterations of one invocation: some drivers stop silently beyond.
    pub loop_trips: u64,
}

impl Target {
    /// The target of that name.
    pub fn named(name: &str) -> Option<&'static Target> {
        Target::all().iter().find(|t| t.name == name)
    }

    /// All targets, the floor first, then by subgroup size.
    pub fn all() -> &'static [Target] {
        static TARGETS: OnceLock<Vec<Target>> = OnceLock::new();
        TARGETS.get_or_init(|| SOURCES.iter().filter_map(|source| toml::from_str(source).ok()).collect())
    }

    /// The target with subgroups of `size`.
    pub fn with_subgroups(size: u32) -> Option<&'static Target> {
        Target::all().iter().find(|t| t.subgroup_size == Some(size))
    }

    /// Up to where one row's context is not cut: a tile takes four keys of a lane at a time, in at most 15 iterations.
    pub fn uncut(&self) -> Uncut {
        let keys = u64::from(4 * self.subgroup_size.unwrap_or(8)) * self.limits.loop_trips.div_ceil(16);
        Uncut {
            places: self.rates.places(self.subgroup_size.unwrap_or(INVOCATIONS)),
            keys: u32::try_from(keys).unwrap_or(u32::MAX),
        }
    }

    /// What a program for this target asks of an adapter.
    pub fn tier(&self) -> Tier {
        Tier {
            subgroup_size: self.subgroup_size,
            int64: self.int64,
            workgroup_bytes: self.limits.workgroup_bytes,
            workgroup_invocations: self.limits.workgroup_invocations,
            binding_bytes: self.limits.binding_bytes,
            storage_buffers: self.limits.storage_buffers,
            images: self.images,
        }
    }
}

const SOURCES: [&str; 6] = [
    include_str!("../../targets/webgpu.toml"),
    include_str!("../../targets/subgroup4.toml"),
    include_str!("../../targets/subgroup8.toml"),
    include_str!("../../targets/subgroup16.toml"),
    include_str!("../../targets/subgroup32.toml"),
    include_str!("../../targets/subgroup64.toml"),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_file_is_a_target() {
        for source in SOURCES {
            toml::from_str::<Target>(source).unwrap();
        }
        let names: Vec<_> = Target::all().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["webgpu", "subgroup4", "subgroup8", "subgroup16", "subgroup32", "subgroup64"]);
        for target in Target::all() {
            assert_eq!(Target::named(&target.name), Some(target));
            assert!(
                target.subgroup_size.is_none_or(|s| s.is_power_of_two() && Target::with_subgroups(s) == Some(target))
            );
            assert_eq!(target.limits, Target::all()[0].limits, "only subgroups are asked for beyond WebGPU's defaults");
            assert_eq!(target.tier().subgroup_size, target.subgroup_size);
            assert_eq!((target.tier().int64, target.tier().images), (target.int64, target.images));
        }
        assert_eq!(Target::named("cuda"), None);
    }
}
