//! What can run a plan on this machine, and which of it is taken.

use warpweft_plan::Tier;

use super::{IMAGE_ROW, tier};
use crate::RuntimeError;

/// A GPU, or a driver that stands in for one.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Position in the list of [`adapters`].
    pub index: usize,
    /// The driver's name for the device.
    pub name: String,
    /// The driver and its version.
    pub driver: String,
    /// What plans know adapters by that are fast at the same things: driver and vendor.
    pub family: String,
    /// Vulkan, Metal, DX12, GL or WebGPU.
    pub backend: String,
    /// What kind of device it is: `discrete`, `integrated`, `virtual`, `software` or `unknown`.
    pub kind: &'static str,
    /// Subgroups have this size, always; `None` where they don't exist or vary.
    pub subgroup_size: Option<u32>,
    /// Limits of the device.
    pub limits: wgpu::Limits,
    /// Optional features of the device.
    pub features: wgpu::Features,
    pub(crate) inner: wgpu::Adapter,
}

/// Which adapter to take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AdapterChoice {
    /// The first of the list: hardware before software.
    #[default]
    Best,
    /// The one with this index.
    Index(usize),
    /// The first whose name, driver or backend contains this text, in any case.
    Name(String),
}

impl From<&str> for AdapterChoice {
    /// A number below 100 is an index, anything else a name, such as `4090`.
    fn from(text: &str) -> AdapterChoice {
        match text.parse() {
            Ok(index @ 0..100) => AdapterChoice::Index(index),
            _ => AdapterChoice::Name(text.into()),
        }
    }
}

impl Adapter {
    fn new(inner: wgpu::Adapter) -> Adapter {
        let info = inner.get_info();
        let (features, limits) = (inner.features(), inner.limits());
        let (least, most) = (info.subgroup_min_size, info.subgroup_max_size);
        let fixed = features.contains(wgpu::Features::SUBGROUP) && least == most && least > 0;
        Adapter {
            index: 0,
            family: family(&info),
            name: info.name,
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            backend: info.backend.to_string(),
            kind: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => "discrete",
                wgpu::DeviceType::IntegratedGpu => "integrated",
                wgpu::DeviceType::VirtualGpu => "virtual",
                wgpu::DeviceType::Cpu => "software",
                wgpu::DeviceType::Other => "unknown",
            },
            subgroup_size: fixed.then_some(least),
            limits,
            features,
            inner,
        }
    }

    /// Whether the CPU does the work.
    pub fn is_software(&self) -> bool {
        self.kind == "software"
    }

    /// What users should know before they wait: only the CPU is there.
    pub fn notice(&self) -> Option<String> {
        self.is_software().then(|| {
            format!(
                "{} runs on the CPU: it is correct but slow. With a GPU and its Vulkan driver it is faster.",
                self.name
            )
        })
    }

    /// What the adapter lacks to run programs of a tier; `None` if nothing.
    pub fn lacks(&self, tier: &Tier) -> Option<String> {
        tier::lacks(tier, &self.limits, self.features, self.subgroup_size)
    }

    /// Bytes of the largest buffer that a kernel can see.
    pub fn largest_binding(&self) -> u64 {
        self.limits.max_storage_buffer_binding_size.min(self.limits.max_buffer_size)
    }

    /// Bytes of the largest image.
    pub(crate) fn largest_image(&self) -> u64 {
        u64::from(self.limits.max_texture_dimension_2d) * IMAGE_ROW
    }

    /// Bytes of memory that a model can have, where that can be known: what the system has available, if the CPU does the
    /// work. GPUs don't tell.
    pub fn available_memory(&self) -> Option<u64> {
        if self.is_software() { crate::load::memory::available() } else { None }
    }

    /// Lower is better; GL comes last, because its drivers are the least tested.
    fn rank(&self) -> (bool, usize) {
        let kinds = ["discrete", "integrated", "virtual", "unknown", "software"];
        let kind = kinds.iter().position(|k| *k == self.kind).unwrap_or(kinds.len());
        (self.inner.get_info().backend == wgpu::Backend::Gl, kind)
    }

    fn matches(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        [&self.name, &self.driver, &self.backend].iter().any(|field| field.to_lowercase().contains(&text))
    }
}

/// `nvidia 10de`; where a driver has no name, its API has.
fn family(info: &wgpu::AdapterInfo) -> String {
    let driver = if info.driver.trim().is_empty() { info.backend.to_string() } else { info.driver.trim().to_owned() };
    format!("{} {:04x}", driver.to_lowercase(), info.vendor)
}

/// All adapters of this machine, best first: hardware before software, GL last.
pub async fn adapters() -> Vec<Adapter> {
    let mut all = enumerate(wgpu::Backends::PRIMARY, 0).await;
    all.extend(enumerate(wgpu::Backends::GL, all.len()).await);
    all
}

/// The adapter that is asked for.
///
/// # Errors
/// [`RuntimeError::NoAdapter`] with what there is.
pub async fn choose(choice: &AdapterChoice) -> Result<Adapter, RuntimeError> {
    let fits = |adapter: &Adapter| match choice {
        AdapterChoice::Best => true,
        AdapterChoice::Index(index) => adapter.index == *index,
        AdapterChoice::Name(name) => adapter.matches(name),
    };
    // GL is looked at only if nothing else fits: starting it is slow, and noisy without a display.
    let primary = enumerate(wgpu::Backends::PRIMARY, 0).await;
    if let Some(adapter) = primary.iter().find(|a| fits(a)) {
        return Ok(adapter.clone());
    }
    let gl = enumerate(wgpu::Backends::GL, primary.len()).await;
    if let Some(adapter) = gl.iter().find(|a| fits(a)) {
        return Ok(adapter.clone());
    }
    let wanted = match choice {
        AdapterChoice::Best => "is there (on Debian or Ubuntu, mesa-vulkan-drivers brings a software one)".into(),
        AdapterChoice::Index(index) => format!("has the index {index}"),
        AdapterChoice::Name(name) => format!("is called {name:?}"),
    };
    let found = primary.iter().chain(&gl).map(|a| format!("{} ({}, {})", a.index, a.name, a.backend)).collect();
    Err(RuntimeError::NoAdapter { wanted, found })
}

async fn enumerate(backends: wgpu::Backends, first: usize) -> Vec<Adapter> {
    if (backends & wgpu::Instance::enabled_backend_features()).is_empty() {
        return Vec::new();
    }
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends;
    let instance = wgpu::Instance::new(descriptor);
    let mut all: Vec<Adapter> = instance.enumerate_adapters(backends).await.into_iter().map(Adapter::new).collect();
    all.sort_by_key(Adapter::rank);
    all.iter_mut().enumerate().for_each(|(i, adapter)| adapter.index = first + i);
    all
}
