//! FNV-1a, 64 bits. Each step is a bijection of the state, so one changed byte always changes the sum.

/// The checksum of the concatenation of `parts`.
pub(super) fn fnv1a<const N: usize>(parts: [&[u8]; N]) -> u64 {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    parts.iter().flat_map(|part| part.iter()).fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_values() {
        assert_eq!(fnv1a([b""]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a([b"a"]), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a([b"foo", b"bar"]), 0x8594_4171_f739_67e8);
    }
}
