// Sixteen bytes: four 32-bit floats.
fn restored(p: vec4<u32>, h: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(p);
}

fn stored(v: vec4<f32>) -> vec4<u32> {
    return bitcast<vec4<u32>>(v);
}

fn kept(v: vec4<f32>) -> vec4<f32> {
    return restored(stored(v), 0u);
}
