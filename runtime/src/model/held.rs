//! What a model holds on the device: the sizes of the buffers that are there, not what a plan lets one expect.

use super::Engine;
use crate::device::Stored;
use crate::load::memory::Account;

impl Engine {
    /// Bytes of the buffers that it holds now. Until an output has run there are no activations.
    pub fn held(&self) -> Account {
        let mut held = Account {
            weights: self.weights.values().map(Stored::bytes).sum(),
            cache: self.pools.iter().flat_map(|pool| pool.buffers.values()).map(wgpu::Buffer::size).sum(),
            ..Account::default()
        };
        for arena in self.arenas.values() {
            let (activations, transfers) = arena.bytes();
            (held.activations, held.transfers) = (held.activations + activations, held.transfers + transfers);
        }
        held
    }
}
