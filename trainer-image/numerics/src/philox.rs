//! Philox4x32-10, the only source of randomness (Salmon et al., "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011), and the normal numbers of the initialisation (spec 7.1, 7.2).

/// Counter word 3: blocks of distinct domains are never shared.
pub const DOMAIN_INIT: u32 = 0;
/// Data order (spec 7.3).
pub const DOMAIN_ORDER: u32 = 1;
/// Synthetic test data of the conformance cases.
pub const DOMAIN_TEST: u32 = 2;

/// One block of four 32-bit words for a counter under a key.
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const M0: u64 = 0xd251_1f53;
    const M1: u64 = 0xcd9e_8d57;
    const W0: u32 = 0x9e37_79b9;
    const W1: u32 = 0xbb67_ae85;
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let p0 = M0 * u64::from(c0);
        let p1 = M1 * u64::from(c2);
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(W0);
        k1 = k1.wrapping_add(W1);
    }
    [c0, c1, c2, c3]
}

/// The key of a seed: (low word, high word).
pub fn key(seed: u64) -> [u32; 2] {
    [seed as u32, (seed >> 32) as u32]
}

/// The scale that turns [`normal_sum`] into a standard deviation of `std`: computed in f64, rounded
/// once. A half-word has variance (2^32 - 1) / 12 and eight of them are added.
pub fn normal_scale(std: f64) -> f32 {
    (std / (8.0f64 * 4_294_967_295.0 / 12.0).sqrt()) as f32
}

/// Sum of the eight half-words of one block, centred: an exact integer of magnitude <= 262140.
pub fn normal_sum(seed: u64, tensor: u32, element: u64) -> i32 {
    let block = philox4x32([element as u32, (element >> 32) as u32, tensor, DOMAIN_INIT], key(seed));
    let sum: u32 = block.iter().map(|w| (w & 0xffff) + (w >> 16)).sum();
    sum as i32 - 262_140
}

/// Element `element` of tensor number `tensor` (index in the graph's canonical order): a sum of
/// uniforms, approximately normal, never beyond 4.9 standard deviations.
pub fn normal(seed: u64, tensor: u32, element: u64, scale: f32) -> f32 {
    normal_sum(seed, tensor, element) as f32 * scale
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (kat_vectors, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]
        );
        assert_eq!(
            philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn normal_numbers_have_the_stated_moments() {
        let scale = normal_scale(0.02);
        let n = 1u64 << 16;
        let (mut sum, mut square) = (0.0f64, 0.0f64);
        for i in 0..n {
            let x = f64::from(normal(5, 3, i, scale));
            assert!(x.abs() <= 0.02 * 4.9);
            sum += x;
            square += x * x;
        }
        assert!((sum / n as f64).abs() < 3e-4);
        assert!(((square / n as f64).sqrt() - 0.02).abs() < 2e-4);
    }
}
