// Sixteen bytes: eight 16-bit floats, four of them.
fn restored(p: vec4<u32>, h: u32) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(p[2u * h]), unpack2x16float(p[2u * h + 1u]));
}

// The nearest ones; beyond the greatest, ±65504, that. WGSL leaves it to the device how pack2x16float rounds, so the
// thirteen bits that a 16-bit float does not have are rounded away before, to even.
fn stored(v: vec4<f32>) -> vec2<u32> {
    let bits = bitcast<vec4<u32>>(clamp(v, vec4<f32>(-65504.0), vec4<f32>(65504.0)));
    let even = (bits >> vec4<u32>(13u)) & vec4<u32>(1u);
    let x = bitcast<vec4<f32>>((bits + vec4<u32>(0xfffu) + even) & vec4<u32>(0xffffe000u));
    return vec2<u32>(pack2x16float(x.xy), pack2x16float(x.zw));
}

fn kept(v: vec4<f32>) -> vec4<f32> {
    return restored(vec4<u32>(stored(v), 0u, 0u), 0u);
}
