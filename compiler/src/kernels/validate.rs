//! Checks of composed kernels: naga's validation, and every back end's writer, so that no platform is the first to
//! find out.

use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, SubgroupOperationSet, ValidationFlags, Validator};

use super::KernelError;
use super::compose::Composed;
use crate::target::Target;

/// Parses and validates a kernel within what the target has, and writes it as SPIR-V, MSL and HLSL.
///
/// # Errors
/// [`KernelError::Invalid`] with the kernel's name and the reason; [`KernelError::WorkgroupBytes`].
pub fn validate(kernel: &Composed, target: &Target) -> Result<(), KernelError> {
    let (module, info) = check(&kernel.wgsl, target.subgroup_size.is_some(), target.int64)
        .map_err(|reason| KernelError::Invalid { kernel: kernel.name.clone(), reason })?;
    let need = workgroup_bytes(&module);
    if need > target.limits.workgroup_bytes {
        return Err(KernelError::WorkgroupBytes { need, limit: target.limits.workgroup_bytes });
    }
    write_all(&module, &info).map_err(|reason| KernelError::Invalid { kernel: kernel.name.clone(), reason })
}

/// Parses and validates WGSL for a device with or without subgroups and 64-bit integers.
pub(crate) fn check(wgsl: &str, subgroups: bool, int64: bool) -> Result<(naga::Module, ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(wgsl).map_err(|e| e.emit_to_string(wgsl))?;
    // `unpack2x16float` is part of WebGPU's floor, but a capability for naga.
    let floor = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let mut capabilities = floor;
    capabilities.set(Capabilities::SUBGROUP, subgroups);
    capabilities.set(Capabilities::SHADER_INT64, int64);
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if subgroups {
        validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    }
    let info = validator.validate(&module).map_err(|e| e.emit_to_string(wgsl))?;
    Ok((module, info))
}

fn workgroup_bytes(module: &naga::Module) -> u32 {
    let context = module.to_ctx();
    let variables = module.global_variables.iter().filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup);
    variables.map(|(_, v)| module.types[v.ty].inner.size(context)).sum()
}

fn write_all(module: &naga::Module, info: &ModuleInfo) -> Result<(), String> {
    let pipeline = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: "main".to_owned() };
    let options = spv::Options { lang_version: (1, 3), ..Default::default() };
    spv::write_vec(module, info, &options, Some(&pipeline)).map_err(|e| format!("SPIR-V: {e}"))?;
    let options = msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
    msl::write_string(module, info, &options, &msl::PipelineOptions::default()).map_err(|e| format!("MSL: {e}"))?;
    let options =
        hlsl::Options { shader_model: hlsl::ShaderModel::V6_0, fake_missing_bindings: true, ..Default::default() };
    let pipeline = hlsl::PipelineOptions::default();
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &pipeline).write(module, info, None).map_err(|e| format!("HLSL: {e}"))?;
    Ok(())
}
