//! Images whose bytes are the pages of a plan file, where the CPU is the device: nothing is copied, and processes that run the same
//! plan share it. (`VK_EXT_external_memory_host`)

use std::sync::atomic::Ordering;

use ash::vk;
use warpweft_plan::Mapping;
use wgpu::hal::vulkan::{Api, TextureMemory};
use wgpu::hal::{self, MemoryFlags};

use super::stored::{self, IMAGE_ROW, image_rows};
use super::{Adapter, Device, Stored};

const HANDLE: vk::ExternalMemoryHandleTypeFlags = vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;
const USAGE: vk::ImageUsageFlags = vk::ImageUsageFlags::from_raw(
    vk::ImageUsageFlags::STORAGE.as_raw()
        | vk::ImageUsageFlags::TRANSFER_SRC.as_raw()
        | vk::ImageUsageFlags::TRANSFER_DST.as_raw(),
);
const FORMAT: vk::Format = vk::Format::R32G32B32A32_UINT;
const TILING: vk::ImageTiling = vk::ImageTiling::LINEAR;
/// How an image is used first.
const FIRST: wgpu::TextureUses = wgpu::TextureUses::STORAGE_READ_ONLY;

/// Opens an adapter with what images of pages take; `None` if it does not have it, or its memory is not the CPU's.
pub(super) fn open(adapter: &Adapter, descriptor: &wgpu::DeviceDescriptor<'_>) -> Option<(wgpu::Device, wgpu::Queue)> {
    if !adapter.is_software() {
        return None;
    }
    // SAFETY: the handle is not destroyed.
    let inner = unsafe { adapter.inner.as_hal::<Api>() }?;
    if !inner.physical_device_capabilities().supports_extension(ash::ext::external_memory_host::NAME) {
        return None;
    }
    let extend = Box::new(|arguments: hal::vulkan::CreateDeviceCallbackArgs<'_, '_, '_>| {
        arguments.extensions.push(ash::ext::external_memory_host::NAME);
    });
    let (features, limits) = (descriptor.required_features, &descriptor.required_limits);
    // SAFETY: one extension is added that the device supports.
    let opened = unsafe { inner.open_with_callback(features, limits, &descriptor.memory_hints, Some(extend)) }.ok()?;
    drop(inner);
    // SAFETY: it was made from this adapter with these features.
    unsafe { adapter.inner.create_device_from_hal::<Api>(opened, descriptor) }.ok()
}

/// Makes images of pages.
pub(crate) struct Mapper<'d> {
    device: &'d Device,
    host: ash::ext::external_memory_host::Device,
    /// What addresses are multiples of.
    alignment: usize,
    /// Of the largest image.
    largest: vk::Extent3D,
}

/// An image that Vulkan knows and wgpu does not yet, or one that wgpu gives back.
struct Raw {
    device: ash::Device,
    image: vk::Image,
    memory: vk::DeviceMemory,
    /// What they are made of; it goes last.
    _pages: Mapping,
}

impl Drop for Raw {
    fn drop(&mut self) {
        // SAFETY: both were made by this device, and nobody has them any more.
        unsafe {
            self.device.destroy_image(self.image, None);
            self.device.free_memory(self.memory, None);
        }
    }
}

impl<'d> Mapper<'d> {
    /// Bytes behind those of an image that must belong to its pages, because drivers round the number of rows up. Nobody reads them.
    pub(crate) const BEHIND: u64 = 64 * IMAGE_ROW;

    /// `None` where a device has no such images.
    pub(crate) fn new(device: &'d Device) -> Option<Mapper<'d>> {
        // SAFETY: the handle is not destroyed.
        let inner = unsafe { device.gpu.as_hal::<Api>() }?;
        if !inner.enabled_device_extensions().contains(&ash::ext::external_memory_host::NAME) {
            return None;
        }
        let instance = inner.shared_instance().raw_instance();
        let mut external = vk::PhysicalDeviceExternalImageFormatInfo::default().handle_type(HANDLE);
        let format = vk::PhysicalDeviceImageFormatInfo2::default()
            .format(FORMAT)
            .ty(vk::ImageType::TYPE_2D)
            .tiling(TILING)
            .usage(USAGE)
            .push_next(&mut external);
        let mut importable = vk::ExternalImageFormatProperties::default();
        let mut allowed = vk::ImageFormatProperties2::default().push_next(&mut importable);
        let mut host = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut host);
        let physical = inner.raw_physical_device();
        // SAFETY: the chains are whole; a device that could be opened knows both calls.
        unsafe {
            instance.get_physical_device_image_format_properties2(physical, &format, &mut allowed).ok()?;
            instance.get_physical_device_properties2(physical, &mut properties);
        }
        let largest = allowed.image_format_properties.max_extent;
        let features = importable.external_memory_properties.external_memory_features;
        let alignment =
            usize::try_from(host.min_imported_host_pointer_alignment).ok().filter(|n| n.is_power_of_two())?;
        features.contains(vk::ExternalMemoryFeatureFlags::IMPORTABLE).then(|| Mapper {
            device,
            host: ash::ext::external_memory_host::Device::new(instance, inner.raw_device()),
            alignment,
            largest,
        })
    }

    /// An image of bytes that are mapped, for each of `images`: its label, its bytes, and the pages that hold them. `None` where the driver
    /// does not take them.
    pub(crate) fn images(&self, images: Vec<(&str, u64, Mapping)>) -> Vec<Option<Stored>> {
        // SAFETY: the handle is not destroyed.
        let Some(inner) = (unsafe { self.device.gpu.as_hal::<Api>() }) else {
            return images.iter().map(|_| None).collect();
        };
        let raw = inner.raw_device();
        let make = |(label, bytes, pages)| match self.raw(raw, bytes, pages) {
            Ok(made) => Some((label, bytes, made)),
            Err(error) => {
                tracing::debug!(label, error, "copied, not mapped");
                None
            }
        };
        let made: Vec<Option<(&str, u64, Raw)>> = images.into_iter().map(make).collect();
        // Their content is there: the driver is told before anyone reads it.
        let barriers: Vec<_> = made.iter().flatten().map(|(_, _, raw)| filled(raw.image)).collect();
        let mut encoder = self.device.gpu.create_command_encoder(&Default::default());
        let record = |encoder: Option<&mut hal::vulkan::CommandEncoder>| {
            let Some(encoder) = encoder else { return };
            let (from, to) = (vk::PipelineStageFlags::HOST, vk::PipelineStageFlags::ALL_COMMANDS);
            // SAFETY: the commands are being recorded, and the images live until their textures are gone.
            unsafe {
                let commands = encoder.raw_handle();
                raw.cmd_pipeline_barrier(commands, from, to, vk::DependencyFlags::empty(), &[], &[], &barriers);
            }
        };
        if !barriers.is_empty() {
            // SAFETY: the commands are neither ended nor destroyed.
            unsafe { encoder.as_hal_mut::<Api, _, ()>(record) };
            self.device.queue.submit([encoder.finish()]);
        }
        made.into_iter().map(|made| made.map(|(label, bytes, raw)| self.wrapped(&inner, label, bytes, raw))).collect()
    }

    fn raw(&self, device: &ash::Device, bytes: u64, pages: Mapping) -> Result<Raw, String> {
        let failed = |e: vk::Result| e.to_string();
        let first = (pages.first() as usize).checked_next_multiple_of(self.alignment).ok_or("no aligned address")?;
        let skipped = first - pages.first() as usize;
        let at = pages.start().checked_sub(skipped).ok_or("the driver wants larger pages")?;
        let length = (pages.length().saturating_sub(skipped) / self.alignment * self.alignment) as u64;
        let mut external = vk::ExternalMemoryImageCreateInfo::default().handle_types(HANDLE);
        let wgpu::Extent3d { width, height, .. } = stored::descriptor(None, bytes).size;
        if width > self.largest.width || height > self.largest.height {
            return Err(format!("{width} by {height} texels, at most {:?}", self.largest));
        }
        let info = vk::ImageCreateInfo::default()
            .image_type(vk::ImageType::TYPE_2D)
            .format(FORMAT)
            .extent(vk::Extent3D { width, height, depth: 1 })
            .mip_levels(1)
            .array_layers(1)
            .samples(vk::SampleCountFlags::TYPE_1)
            .tiling(TILING)
            .usage(USAGE)
            .sharing_mode(vk::SharingMode::EXCLUSIVE)
            .initial_layout(vk::ImageLayout::PREINITIALIZED)
            .push_next(&mut external);
        let plane = vk::ImageSubresource { aspect_mask: vk::ImageAspectFlags::COLOR, mip_level: 0, array_layer: 0 };
        // From here on what was made is given back by `Raw`; memory that is null is none.
        // SAFETY: the device was asked whether it has such images.
        let image = unsafe { device.create_image(&info, None) }.map_err(failed)?;
        let mut raw = Raw { device: device.clone(), image, memory: vk::DeviceMemory::null(), _pages: pages };
        // SAFETY: the image was just made, with linear tiling.
        let (layout, need) =
            unsafe { (device.get_image_subresource_layout(image, plane), device.get_image_memory_requirements(image)) };
        if layout.offset != 0 || layout.row_pitch != IMAGE_ROW {
            return Err(format!("rows of {} bytes at {}", layout.row_pitch, layout.offset));
        }
        if !(at as u64).is_multiple_of(need.alignment) || at as u64 + need.size > length {
            return Err(format!("{} bytes at multiples of {}, found {length} at {at}", need.size, need.alignment));
        }
        let mut pointer = vk::MemoryHostPointerPropertiesEXT::default();
        let address = first as *mut std::ffi::c_void;
        // SAFETY: the pages live as long as `raw`.
        unsafe {
            let ask = self.host.fp().get_memory_host_pointer_properties_ext;
            ask(self.host.device(), HANDLE, address, &mut pointer).result().map_err(failed)?;
        }
        let kinds = need.memory_type_bits & pointer.memory_type_bits;
        if kinds == 0 {
            return Err("no kind of memory for it".into());
        }
        let mut import = vk::ImportMemoryHostPointerInfoEXT::default().handle_type(HANDLE).host_pointer(address);
        let allocate = vk::MemoryAllocateInfo::default()
            .allocation_size(length)
            .memory_type_index(kinds.trailing_zeros())
            .push_next(&mut import);
        // SAFETY: the pages are the process's own, `length` bytes from `address` on.
        unsafe {
            raw.memory = device.allocate_memory(&allocate, None).map_err(failed)?;
            device.bind_image_memory(image, raw.memory, at as u64).map_err(failed)?;
        }
        Ok(raw)
    }

    fn wrapped(&self, inner: &hal::vulkan::Device, label: &str, bytes: u64, raw: Raw) -> Stored {
        let descriptor = stored::descriptor(Some(label), bytes);
        let described = hal::TextureDescriptor {
            label: Some(label),
            size: descriptor.size,
            mip_level_count: descriptor.mip_level_count,
            sample_count: descriptor.sample_count,
            dimension: descriptor.dimension,
            format: descriptor.format,
            usage: FIRST | wgpu::TextureUses::COPY_SRC | wgpu::TextureUses::COPY_DST,
            memory_flags: MemoryFlags::empty(),
            view_formats: Vec::new(),
        };
        let (image, held, mapped) = (raw.image, image_rows(bytes) * IMAGE_ROW, self.device.mapped.clone());
        mapped.fetch_add(held, Ordering::Relaxed);
        let give_back = Box::new(move || {
            drop(raw);
            mapped.fetch_sub(held, Ordering::Relaxed);
        });
        // SAFETY: the image is as described, its memory is bound, and both live until they are given back.
        let texture = unsafe {
            let texture = inner.texture_from_raw(image, &described, Some(give_back), TextureMemory::External);
            self.device.gpu.create_texture_from_hal::<Api>(texture, &descriptor, FIRST)
        };
        Stored::of(texture)
    }
}

/// The host has written what an image holds.
fn filled(image: vk::Image) -> vk::ImageMemoryBarrier<'static> {
    vk::ImageMemoryBarrier::default()
        .src_access_mask(vk::AccessFlags::HOST_WRITE)
        .dst_access_mask(
            vk::AccessFlags::SHADER_READ | vk::AccessFlags::TRANSFER_READ | vk::AccessFlags::TRANSFER_WRITE,
        )
        .old_layout(vk::ImageLayout::PREINITIALIZED)
        .new_layout(vk::ImageLayout::GENERAL)
        .src_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
        .dst_queue_family_index(vk::QUEUE_FAMILY_IGNORED)
        .image(image)
        .subresource_range(vk::ImageSubresourceRange {
            aspect_mask: vk::ImageAspectFlags::COLOR,
            base_mip_level: 0,
            level_count: 1,
            base_array_layer: 0,
            layer_count: 1,
        })
}
