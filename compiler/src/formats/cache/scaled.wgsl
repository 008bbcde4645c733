// The scale of a head whose greatest magnitude is `most`: normal, and such that what it scales is finite.
fn scale_of(most: f32) -> f32 {
    return clamp(most / MOST, 1.0e-30, 3.4e38 / MOST);
}

fn greatest(v: vec4<f32>) -> f32 {
    let a = abs(v);
    return max(max(a.x, a.y), max(a.z, a.w));
}
