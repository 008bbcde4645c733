// Sixteen signed bytes: four of them, as numbers.
fn levels_int8(packed: vec4<u32>, h: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(packed[h]));
}
