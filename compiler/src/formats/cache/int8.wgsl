const MOST: f32 = 127.0; // the greatest code

// Sixteen signed bytes, four of them.
fn restored(p: vec4<u32>, h: u32) -> vec4<f32> {
    return levels_int8(vec4<u32>(p[h]) >> vec4<u32>(0u, 8u, 16u, 24u));
}

// The nearest whole numbers.
fn stored(v: vec4<f32>) -> u32 {
    return pack4xI8Clamp(vec4<i32>(round(clamp(v, vec4<f32>(-MOST), vec4<f32>(MOST)))));
}

fn kept(v: vec4<f32>) -> vec4<f32> {
    return restored(vec4<u32>(stored(v), 0u, 0u, 0u), 0u);
}
