//! Which of a plan's targets an adapter can run.

use warpweft_plan::{IMAGE_WIDTH, OutputKind, Plan, Program, Tier};

use super::Adapter;
use super::stored::image_rows;
use crate::RuntimeError;

/// What is missing for a tier; `None` if nothing.
pub(super) fn lacks(
    tier: &Tier,
    limits: &wgpu::Limits,
    features: wgpu::Features,
    subgroup_size: Option<u32>,
) -> Option<String> {
    if tier.int64 && !features.contains(wgpu::Features::SHADER_INT64) {
        return Some("64-bit integers".to_owned());
    }
    if let Some(wanted) = tier.subgroup_size.filter(|wanted| Some(*wanted) != subgroup_size) {
        let has = subgroup_size.map_or("none of a fixed size".into(), |n| format!("{n}"));
        return Some(format!("subgroups of {wanted} (has {has})"));
    }
    let texels = if tier.images > 0 { IMAGE_WIDTH.max(image_rows(tier.binding_bytes)) } else { 0 };
    let numbers = [
        (
            "bytes of workgroup memory",
            u64::from(tier.workgroup_bytes),
            limits.max_compute_workgroup_storage_size.into(),
        ),
        (
            "invocations in a workgroup",
            u64::from(tier.workgroup_invocations),
            limits.max_compute_invocations_per_workgroup.into(),
        ),
        ("bytes in a storage binding", tier.binding_bytes, limits.max_storage_buffer_binding_size),
        (
            "storage buffers in a shader",
            tier.storage_buffers.into(),
            limits.max_storage_buffers_per_shader_stage.into(),
        ),
        ("storage images in a shader", tier.images.into(), limits.max_storage_textures_per_shader_stage.into()),
        ("texels along an image", texels, limits.max_texture_dimension_2d.into()),
    ];
    numbers.into_iter().find(|(_, wanted, has)| has < wanted).map(|(what, n, has)| format!("{n} {what} (has {has})"))
}

/// The target whose programs for `output` should run on `adapter`: the one that asks for the most of what it can do.
///
/// # Errors
/// [`RuntimeError::NoOutput`] if the plan does not compute it, [`RuntimeError::NoTier`] if the adapter runs no target.
pub fn best_target<'p>(
    plan: &'p Plan,
    output: OutputKind,
    adapter: &Adapter,
    wanted: Option<&str>,
) -> Result<&'p str, RuntimeError> {
    let programs: Vec<&Program> = plan.programs.iter().filter(|p| p.output.kind == output).collect();
    if programs.is_empty() {
        let has = |kind: &&OutputKind| plan.programs.iter().any(|p| p.output.kind == **kind);
        let available = OutputKind::ALL.iter().filter(has).map(|kind| kind.name().to_owned()).collect();
        return Err(RuntimeError::NoOutput { wanted: output.name().into(), available });
    }
    let mut reasons: Vec<String> = Vec::new();
    let mut fitting: Vec<&Program> = Vec::new();
    for program in programs {
        let lack = match wanted.filter(|name| *name != program.target) {
            Some(name) => Some(format!("is not {name}, which was asked for")),
            None => adapter.lacks(&program.tier).map(|lack| format!("needs {lack}")),
        };
        match lack {
            None => fitting.push(program),
            Some(lack) => reasons.push(format!("{} {lack}", program.target)),
        }
    }
    let best = fitting.into_iter().max_by_key(|p| {
        let tier = &p.tier;
        (tier.subgroup_size.is_some(), tier.workgroup_invocations, tier.workgroup_bytes, tier.binding_bytes)
    });
    reasons.dedup();
    best.map(|p| p.target.as_str()).ok_or_else(|| RuntimeError::NoTier { adapter: adapter.name.clone(), reasons })
}
