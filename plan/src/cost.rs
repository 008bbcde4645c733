//! What a kernel's time follows from: counts, which the rates of a device turn into seconds.

use serde::{Deserialize, Serialize};

use crate::Sizes;

/// What one invocation does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Work {
    /// Fused multiply-adds, and other arithmetic that takes as long: unpacking weights, for instance.
    pub fmas: f64,
    /// Loads and stores of 16 bytes, neighbours beside each other.
    pub loads: f64,
    /// The same where each neighbour has a row of its own.
    pub scattered: f64,
    /// Loads of texels of images.
    pub texels: f64,
    /// Loads and stores of 16 bytes of workgroup memory.
    pub shared: f64,
    /// Values handed from one lane to others.
    pub broadcasts: f64,
}

impl Work {
    /// So many times as much.
    pub fn times(self, factor: f64) -> Work {
        Work {
            fmas: self.fmas * factor,
            loads: self.loads * factor,
            scattered: self.scattered * factor,
            texels: self.texels * factor,
            shared: self.shared * factor,
            broadcasts: self.broadcasts * factor,
        }
    }

    /// Both.
    pub fn and(self, other: Work) -> Work {
        Work {
            fmas: self.fmas + other.fmas,
            loads: self.loads + other.loads,
            scattered: self.scattered + other.scattered,
            texels: self.texels + other.texels,
            shared: self.shared + other.shared,
            broadcasts: self.broadcasts + other.broadcasts,
        }
    }

    /// Every count.
    pub(crate) fn counts(self) -> [f64; 6] {
        [self.fmas, self.loads, self.scattered, self.texels, self.shared, self.broadcasts]
    }
}

/// Which rows of its sequence a row meets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keys {
    /// Only those up to itself.
    pub causal: bool,
    /// So many at the most: a window, or a chunk of the context.
    pub most: Option<u32>,
}

impl Keys {
    /// How many these are on average.
    pub fn count(self, sizes: Sizes) -> f64 {
        let new = sizes.tokens as f64 / sizes.sequences.max(1) as f64;
        let unseen = if self.causal { (new - 1.0).max(0.0) / 2.0 } else { 0.0 };
        let seen = (sizes.context as f64 - unseen).max(1.0);
        self.most.map_or(seen, |most| seen.min(most.into()))
    }
}

/// What one invocation of a kernel does in a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// However long the sequence is.
    pub once: Work,
    /// For each of [`Cost::keys`].
    #[serde(default, skip_serializing_if = "is_none")]
    pub key: Work,
    /// The rows of its sequence that it walks.
    #[serde(default)]
    pub keys: Keys,
    /// How many times as long memory takes as it does for bytes in their order.
    #[serde(default = "in_order", skip_serializing_if = "is_in_order")]
    pub disorder: f64,
}

impl Default for Cost {
    fn default() -> Cost {
        Cost { once: Work::default(), key: Work::default(), keys: Keys::default(), disorder: in_order() }
    }
}

fn in_order() -> f64 {
    1.0
}

fn is_in_order(disorder: &f64) -> bool {
    *disorder == in_order()
}

impl Cost {
    /// What it does once, whatever the step.
    pub fn of(once: Work) -> Cost {
        Cost { once, ..Cost::default() }
    }

    /// What it does in a step of these sizes.
    pub fn work(&self, sizes: Sizes) -> Work {
        match is_none(&self.key) {
            true => self.once,
            false => self.once.and(self.key.times(self.keys.count(sizes))),
        }
    }
}

fn is_none(work: &Work) -> bool {
    *work == Work::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_that_are_seen() {
        let sizes = Sizes { tokens: 9, context: 100, sequences: 1 };
        let keys = |causal, most| Keys { causal, most };
        assert_eq!(keys(false, None).count(sizes), 100.0);
        assert_eq!(keys(true, None).count(sizes), 96.0);
        assert_eq!(keys(true, Some(32)).count(sizes), 32.0);
        assert_eq!(keys(true, None).count(Sizes { tokens: 1, ..sizes }), 100.0);
        assert_eq!(keys(true, None).count(Sizes { tokens: 4, context: 7, sequences: 4 }), 7.0);
    }

    #[test]
    fn work_grows_with_the_context() {
        let work = |fmas| Work { fmas, loads: 1.0, ..Work::default() };
        let cost = Cost { key: work(2.0), ..Cost::of(work(5.0)) };
        let sizes = Sizes { tokens: 1, context: 10, sequences: 1 };
        assert_eq!(cost.work(sizes), Work { fmas: 25.0, loads: 11.0, ..Work::default() });
        assert_eq!(Cost::of(work(5.0)).work(sizes), work(5.0));
    }
}
