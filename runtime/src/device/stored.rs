//! What kernels bind: a buffer, or an image where shaders have a weight or a matrix as one.

use warpweft_plan::{Access, IMAGE_WIDTH, TEXEL};

use super::Device;

/// Bytes of a row of an image.
pub(crate) const IMAGE_ROW: u64 = IMAGE_WIDTH * TEXEL;

/// Bytes on the device.
#[derive(Clone, Debug)]
pub(crate) enum Stored {
    Buffer(wgpu::Buffer),
    Image(wgpu::Texture, wgpu::TextureView),
}

impl Stored {
    /// Room for so many bytes, which are to be copied there.
    pub(crate) fn new(device: &Device, label: Option<&str>, access: Access, bytes: u64) -> Stored {
        let kind = match access {
            Access::Image | Access::ImageWrite => return Stored::image(device, label, bytes),
            Access::Uniform => wgpu::BufferUsages::UNIFORM,
            Access::Read => wgpu::BufferUsages::STORAGE,
            Access::ReadWrite => wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
        };
        Stored::Buffer(device.gpu.create_buffer(&wgpu::BufferDescriptor {
            label,
            size: bytes,
            usage: kind | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        }))
    }

    fn image(device: &Device, label: Option<&str>, bytes: u64) -> Stored {
        Stored::of(device.gpu.create_texture(&descriptor(label, bytes)))
    }

    /// An image that a texture is.
    pub(super) fn of(texture: wgpu::Texture) -> Stored {
        let view = texture.create_view(&Default::default());
        Stored::Image(texture, view)
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Stored::Buffer(buffer) => buffer.size(),
            Stored::Image(texture, _) => u64::from(texture.height()) * IMAGE_ROW,
        }
    }

    pub(crate) fn resource(&self) -> wgpu::BindingResource<'_> {
        match self {
            Stored::Buffer(buffer) => buffer.as_entire_binding(),
            Stored::Image(_, view) => wgpu::BindingResource::TextureView(view),
        }
    }

    /// Puts `bytes` from `at` on, for an image the first byte of a row; what is left of its last row becomes zero.
    pub(crate) fn write(&self, device: &Device, at: u64, bytes: &[u8]) {
        match self {
            Stored::Buffer(buffer) => device.queue.write_buffer(buffer, at, bytes),
            Stored::Image(texture, _) => {
                let row = IMAGE_ROW as usize;
                let (whole, rest) = bytes.split_at(bytes.len() / row * row);
                let mut last = rest.to_vec();
                last.resize(rest.len().next_multiple_of(row), 0);
                let mut first = at / IMAGE_ROW;
                for rows in [whole, &last] {
                    let (to, layout, size) = rows_of(texture, first, rows.len() as u64);
                    if size.height > 0 {
                        device.queue.write_texture(to, rows, layout, size);
                    }
                    first += u64::from(size.height);
                }
            }
        }
    }

    /// Copies `bytes` from the first on to the first of `copy`, of an image whole rows.
    pub(super) fn copy_out(&self, encoder: &mut wgpu::CommandEncoder, copy: &wgpu::Buffer, bytes: u64) {
        match self {
            Stored::Buffer(buffer) => encoder.copy_buffer_to_buffer(buffer, 0, copy, 0, bytes),
            Stored::Image(texture, _) => {
                let (from, layout, size) = rows_of(texture, 0, bytes.next_multiple_of(IMAGE_ROW));
                encoder.copy_texture_to_buffer(from, wgpu::TexelCopyBufferInfo { buffer: copy, layout }, size);
            }
        }
    }

    /// Copies bytes `from .. from + bytes` of `source` to `at`. For an image all are multiples of a row: of its last row all is
    /// copied.
    pub(crate) fn copy(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        (source, from): (&wgpu::Buffer, u64),
        at: u64,
        bytes: u64,
    ) {
        match self {
            Stored::Buffer(buffer) => encoder.copy_buffer_to_buffer(source, from, buffer, at, bytes),
            Stored::Image(texture, _) => {
                let (to, layout, size) = rows_of(texture, at / IMAGE_ROW, bytes.next_multiple_of(IMAGE_ROW));
                let layout = wgpu::TexelCopyBufferLayout { offset: from, ..layout };
                let from = wgpu::TexelCopyBufferInfo { buffer: source, layout };
                encoder.copy_buffer_to_texture(from, to, size);
            }
        }
    }
}

/// Of images: any device reads it in shaders.
const FORMAT: wgpu::TextureFormat = wgpu::TextureFormat::Rgba32Uint;

/// Rows of an image of so many bytes.
pub(crate) fn image_rows(bytes: u64) -> u64 {
    bytes.div_ceil(IMAGE_ROW).max(1)
}

/// An image of so many bytes.
pub(super) fn descriptor(label: Option<&str>, bytes: u64) -> wgpu::TextureDescriptor<'_> {
    wgpu::TextureDescriptor {
        label,
        size: wgpu::Extent3d {
            width: IMAGE_WIDTH as u32,
            // More rows than fit 32 bits are more than any device has.
            height: u32::try_from(image_rows(bytes)).unwrap_or(u32::MAX),
            depth_or_array_layers: 1,
        },
        mip_level_count: 1,
        sample_count: 1,
        dimension: wgpu::TextureDimension::D2,
        format: FORMAT,
        usage: wgpu::TextureUsages::STORAGE_BINDING | wgpu::TextureUsages::COPY_DST | wgpu::TextureUsages::COPY_SRC,
        view_formats: &[],
    }
}

/// How an image is bound.
pub(super) fn image(access: wgpu::StorageTextureAccess) -> wgpu::BindingType {
    wgpu::BindingType::StorageTexture { access, format: FORMAT, view_dimension: wgpu::TextureViewDimension::D2 }
}

/// Whole rows of an image from `first` on, and how their bytes stand in what is copied.
fn rows_of(
    texture: &wgpu::Texture,
    first: u64,
    bytes: u64,
) -> (wgpu::TexelCopyTextureInfo<'_>, wgpu::TexelCopyBufferLayout, wgpu::Extent3d) {
    let to = wgpu::TexelCopyTextureInfo {
        origin: wgpu::Origin3d { x: 0, y: first as u32, z: 0 },
        ..texture.as_image_copy()
    };
    let layout = wgpu::TexelCopyBufferLayout { offset: 0, bytes_per_row: Some(IMAGE_ROW as u32), rows_per_image: None };
    let height = (bytes / IMAGE_ROW) as u32;
    (to, layout, wgpu::Extent3d { width: IMAGE_WIDTH as u32, height, depth_or_array_layers: 1 })
}
