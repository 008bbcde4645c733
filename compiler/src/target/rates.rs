//! How fast an adapter is, and what time follows from that: the one prediction that extraction, the choice between
//! kernels and every report use.

use serde::{Deserialize, Serialize};
use warpweft_plan::{Cost, Groups, Kernel, Plan, Sizes, Step};

/// How fast a typical adapter of a target is, or how fast one was measured to be.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Bytes per second from memory.
    pub bandwidth: f64,
    /// Fused multiply-adds per second, over all lanes.
    pub fmas: f64,
    /// Seconds of one dispatch beside what its workgroups do.
    pub dispatch: f64,
    /// Seconds for which a workgroup that does nothing keeps its place.
    pub launch: f64,
    /// Lanes that must be busy to reach `fmas`.
    pub lanes: u32,
    /// Workgroups that always have a place of their own: cores of a CPU, multiprocessors of a GPU.
    pub units: u32,
    /// What one lane's load of 16 bytes costs, in multiply-adds, when its neighbors load the adjacent ones.
    pub load: f64,
    /// The same when each lane loads from another row.
    pub scattered_load: f64,
    /// The same of a texel of an image, where weights are images.
    pub texel: f64,
    /// What reading 16 bytes from workgroup memory costs, in multiply-adds.
    pub workgroup_load: f64,
    /// What handing one f32 from a lane to the others costs, in multiply-adds.
    pub broadcast: f64,
    /// f32 values that a lane can keep.
    pub registers: u32,
    /// What a product of four signed bytes with four, added up, costs, in multiply-adds.
    #[serde(default = "taken_apart")]
    pub dot4: f64,
}

/// What [`Rates::dot4`] is where a driver takes it apart: eight bytes cut out and widened, four products, four sums.
fn taken_apart() -> f64 {
    20.0
}

/// The part of a kernel's work that the memory or the lanes do while they wait for the other: what is faster hides behind
/// what is slower, but for this share of it.
const SEEN: f64 = 0.1;

/// How a kernel is dispatched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dispatch {
    /// Invocations of a workgroup.
    pub invocations: u32,
    /// Workgroups.
    pub groups: u64,
    /// Bytes to move at the least.
    pub bytes: u64,
}

impl Rates {
    /// Seconds of one dispatch:
    ///
    /// ```text
    /// dispatch + max(memory, lanes) + 0.1 · min(memory, lanes)
    /// memory = bytes · disorder / bandwidth
    /// lanes  = ⌈groups / places⌉ · (launch + what an invocation does, in multiply-adds · invocations · places / fmas)
    /// places = max(units, lanes / invocations)
    /// ```
    pub fn seconds(&self, cost: &Cost, dispatch: Dispatch, sizes: Sizes) -> f64 {
        let work = cost.work(sizes);
        let one = work.fmas
            + work.loads * self.load
            + work.scattered * self.scattered_load
            + work.texels * self.texel
            + work.shared * self.workgroup_load
            + work.broadcasts * self.broadcast;
        let invocations = f64::from(dispatch.invocations.max(1));
        let places = f64::from(self.places(dispatch.invocations));
        let waves = (dispatch.groups as f64 / places).ceil();
        let lanes = waves * (self.launch + one * invocations * places / self.fmas);
        let memory = dispatch.bytes as f64 * cost.disorder / self.bandwidth;
        self.dispatch + lanes.max(memory) + SEEN * lanes.min(memory)
    }

    /// Workgroups of so many invocations that run side by side.
    pub(crate) fn places(&self, invocations: u32) -> u32 {
        (self.lanes / invocations.max(1)).max(self.units).max(1)
    }

    /// Seconds of one step of a plan. Its kernel says what it costs; sizes that a plan cannot have give 0.
    pub fn step(&self, plan: &Plan, step: &Step, sizes: Sizes) -> f64 {
        let Some(kernel) = plan.kernels.get(step.kernel) else { return 0.0 };
        self.kernel(kernel, step.grid, step.bytes.eval(sizes).unwrap_or(0), sizes)
    }

    /// Seconds of a kernel on a grid, moving so many bytes.
    pub fn kernel(&self, kernel: &Kernel, grid: [Groups; 3], bytes: u64, sizes: Sizes) -> f64 {
        let invocations = kernel.workgroup.iter().product();
        let groups = groups(grid, sizes);
        self.seconds(&kernel.cost, Dispatch { invocations, groups, bytes }, sizes)
    }

    /// The least time that the step can take, by its bytes and floating-point operations alone.
    pub fn roofline(&self, bytes: f64, flops: f64) -> f64 {
        (bytes / self.bandwidth).max(flops / 2.0 / self.fmas)
    }
}

/// Workgroups of a grid.
pub(crate) fn groups(grid: [Groups; 3], sizes: Sizes) -> u64 {
    grid.iter().map(|g| g.count(sizes).unwrap_or(0)).fold(1, u64::saturating_mul)
}

#[cfg(test)]
mod tests {
    use warpweft_plan::Work;

    use super::*;

    fn rates() -> Rates {
        Rates {
            bandwidth: 1e9,
            fmas: 1e9,
            dispatch: 1e-6,
            launch: 0.0,
            lanes: 64,
            units: 2,
            load: 10.0,
            scattered_load: 20.0,
            texel: 3.0,
            workgroup_load: 5.0,
            broadcast: 1.0,
            registers: 64,
            dot4: 1.0,
        }
    }

    #[test]
    fn time_is_that_of_the_slower_part() {
        let sizes = Sizes { tokens: 1, context: 1, sequences: 1 };
        let cost = |fmas| Cost::of(Work { fmas, ..Work::default() });
        let seconds = |cost: &Cost, invocations, groups, bytes| {
            (rates().seconds(cost, Dispatch { invocations, groups, bytes }, sizes) - 1e-6) * 1e9
        };
        // Eight workgroups of eight fill 64 lanes; the ninth takes as long as eight.
        assert!((seconds(&cost(100.0), 8, 8, 0) - 6400.0).abs() < 1e-3);
        assert!((seconds(&cost(100.0), 8, 9, 0) - 12800.0).abs() < 1e-3);
        // Large workgroups have a unit each.
        assert!((seconds(&cost(100.0), 256, 1, 0) - 51200.0).abs() < 1e-3);
        assert!((seconds(&cost(100.0), 8, 8, 10_000) - 10640.0).abs() < 1e-3);
        let loads = Cost::of(Work { loads: 1.0, scattered: 1.0, texels: 1.0, shared: 1.0, broadcasts: 1.0, fmas: 0.0 });
        assert!((seconds(&loads, 64, 2, 0) - 39.0 * 128.0).abs() < 1e-3);
    }

    #[test]
    fn a_workgroup_takes_its_place() {
        let rates = Rates { launch: 1e-6, ..rates() };
        let sizes = Sizes { tokens: 1, context: 1, sequences: 1 };
        let seconds = rates.seconds(&Cost::default(), Dispatch { invocations: 64, groups: 5, bytes: 0 }, sizes);
        assert!((seconds - 4e-6).abs() < 1e-12);
    }
}
