// Four signed bytes as numbers.
fn levels_int8(codes: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(codes));
}
