//! `compile-model devices`

use clap::Args;
use serde::Serialize;
use warpweft_runtime::{Adapter, adapters, block_on};

use crate::CliError;
use crate::compile::adapter_target;
use crate::console::Console;
use crate::report::Table;
use crate::units;

/// List the adapters of this machine, best first.
///
/// The tier is the target whose programs an adapter would run. `--adapter` of the other commands takes an index of this
/// list, or a part of a name, driver or backend.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  compile-model devices
  compile-model devices --json | jq -r '.adapters[0].tier'")]
pub(crate) struct Devices {}

#[derive(Serialize)]
struct Report {
    adapters: Vec<AdapterReport>,
}

#[derive(Serialize)]
struct AdapterReport {
    index: usize,
    name: String,
    kind: &'static str,
    backend: String,
    driver: String,
    /// `None` where not even the floor runs.
    tier: Option<&'static str>,
    /// Why there is no tier.
    problem: Option<String>,
    subgroup_size: Option<u32>,
    f16: bool,
    timestamps: bool,
    limits: Limits,
}

#[derive(Serialize)]
struct Limits {
    buffer_bytes: u64,
    binding_bytes: u64,
    storage_buffers: u32,
    workgroup_bytes: u32,
    workgroup_invocations: u32,
}

pub(crate) fn run(_: &Devices, console: &mut Console<'_>) -> Result<(), CliError> {
    let found = block_on(adapters());
    let report = Report { adapters: found.iter().map(describe).collect() };
    if console.json {
        console.print_json(&report)?;
    } else if !report.adapters.is_empty() {
        console.print(&table(&report))?;
    }
    if found.is_empty() {
        return Err(CliError::Failed(
            "no adapter is there; install a Vulkan driver (on Debian or Ubuntu, mesa-vulkan-drivers brings a software one)"
                .into(),
        ));
    }
    if !console.json && found.iter().all(Adapter::is_software) {
        console.note("note: only the CPU is there, behind a software driver: results are right, but slow");
    }
    Ok(())
}

fn describe(adapter: &Adapter) -> AdapterReport {
    let (tier, problem) = match adapter_target(adapter) {
        Ok(target) => (Some(target.name.as_str()), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let limits = &adapter.limits;
    AdapterReport {
        index: adapter.index,
        name: adapter.name.clone(),
        kind: adapter.kind,
        backend: adapter.backend.clone(),
        driver: adapter.driver.clone(),
        tier,
        problem,
        subgroup_size: adapter.subgroup_size,
        f16: adapter.features.contains(wgpu::Features::SHADER_F16),
        timestamps: adapter.features.contains(wgpu::Features::TIMESTAMP_QUERY),
        limits: Limits {
            buffer_bytes: limits.max_buffer_size,
            binding_bytes: limits.max_storage_buffer_binding_size,
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            workgroup_invocations: limits.max_compute_invocations_per_workgroup,
        },
    }
}

fn table(report: &Report) -> String {
    let titles = [">#", "adapter", "kind", "backend", "driver", "tier", ">subgroups", ">binding", ">workgroup"];
    let mut table = Table::new(&titles);
    for adapter in &report.adapters {
        table.row([
            adapter.index.to_string(),
            adapter.name.clone(),
            adapter.kind.to_owned(),
            adapter.backend.clone(),
            adapter.driver.clone(),
            adapter.tier.unwrap_or("none").to_owned(),
            adapter.subgroup_size.map_or("vary".to_owned(), |size| size.to_string()),
            units::bytes(adapter.limits.binding_bytes),
            units::bytes(adapter.limits.workgroup_bytes.into()),
        ]);
    }
    table.text()
}
