//! Two lanes through the SHA extensions of x86-64 (Intel SDM volume 2, SHA256RNDS2, SHA256MSG1, SHA256MSG2).
//!
//! The instructions keep a state as ABEF and CDGH, most significant word first. Four rounds take four words of the message at a
//! time; a group of sixteen words makes the next.
use std::arch::is_x86_feature_detected;
use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_set_epi64x, _mm_sha256msg1_epu32,
    _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
};

/// The constants of the rounds: FIPS 180-4 section 4.2.2.
const K: [[u32; 4]; 16] = [
    [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
    [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
    [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
    [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
    [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
    [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
    [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
    [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
    [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
    [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
    [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
    [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
    [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
    [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
    [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
    [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
];

/// Both states after their blocks; `false`, and nothing done, without the instructions.
pub fn compress_two(states: &mut [[u32; 8]; 2], a: &[[u8; 64]], b: &[[u8; 64]]) -> bool {
    if !(is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1")) {
        return false;
    }
    // SAFETY: the processor has what the function is compiled for, as was asked just now. Nothing in it is unsafe but that.
    unsafe { two_lanes(states, a, b) };
    true
}

#[target_feature(enable = "sha,sse4.1")]
fn two_lanes(states: &mut [[u32; 8]; 2], a: &[[u8; 64]], b: &[[u8; 64]]) {
    let [first, second] = states;
    let (mut one, mut two) = (load(first), load(second));
    for (a, b) in a.iter().zip(b) {
        let (before_one, before_two) = (one, two);
        let (mut a, mut b) = (words(a), words(b));
        for group in 0..4 {
            for i in 0..4 {
                if group > 0 {
                    a[i] = next(a[i], a[(i + 1) % 4], a[(i + 2) % 4], a[(i + 3) % 4]);
                    b[i] = next(b[i], b[(i + 1) % 4], b[(i + 2) % 4], b[(i + 3) % 4]);
                }
                let k: __m128i = bytemuck::cast(K[4 * group + i]);
                let (wk_a, wk_b) = (_mm_add_epi32(a[i], k), _mm_add_epi32(b[i], k));
                one.cdgh = _mm_sha256rnds2_epu32(one.cdgh, one.abef, wk_a);
                two.cdgh = _mm_sha256rnds2_epu32(two.cdgh, two.abef, wk_b);
                one.abef = _mm_sha256rnds2_epu32(one.abef, one.cdgh, _mm_shuffle_epi32(wk_a, 0x0E));
                two.abef = _mm_sha256rnds2_epu32(two.abef, two.cdgh, _mm_shuffle_epi32(wk_b, 0x0E));
            }
        }
        (one, two) = (plus(one, before_one), plus(two, before_two));
    }
    (*first, *second) = (store(one), store(two));
}

#[derive(Clone, Copy)]
struct Lane {
    abef: __m128i,
    cdgh: __m128i,
}

#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn plus(lane: Lane, before: Lane) -> Lane {
    Lane { abef: _mm_add_epi32(lane.abef, before.abef), cdgh: _mm_add_epi32(lane.cdgh, before.cdgh) }
}

/// Four words of the message schedule out of the sixteen before them, w0 to w3: FIPS 180-4 section 6.2.2 step 1.
#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn next(w0: __m128i, w1: __m128i, w2: __m128i, w3: __m128i) -> __m128i {
    let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8(w3, w2, 4));
    _mm_sha256msg2_epu32(sum, w3)
}

/// A block's words, which are big-endian.
#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn words(block: &[u8; 64]) -> [__m128i; 4] {
    let big_endian = _mm_set_epi64x(0x0C0D_0E0F_0809_0A0B, 0x0405_0607_0001_0203);
    let [w0, w1, w2, w3]: [__m128i; 4] = bytemuck::pod_read_unaligned(block);
    [
        _mm_shuffle_epi8(w0, big_endian),
        _mm_shuffle_epi8(w1, big_endian),
        _mm_shuffle_epi8(w2, big_endian),
        _mm_shuffle_epi8(w3, big_endian),
    ]
}

/// From A..H in order to the two registers.
#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn load(state: &[u32; 8]) -> Lane {
    let [dcba, hgfe]: [__m128i; 2] = bytemuck::cast(*state);
    let (cdab, efgh) = (_mm_shuffle_epi32(dcba, 0xB1), _mm_shuffle_epi32(hgfe, 0x1B));
    Lane { abef: _mm_alignr_epi8(cdab, efgh, 8), cdgh: _mm_blend_epi16(efgh, cdab, 0xF0) }
}

/// And back.
#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn store(lane: Lane) -> [u32; 8] {
    let (feba, dchg) = (_mm_shuffle_epi32(lane.abef, 0x1B), _mm_shuffle_epi32(lane.cdgh, 0xB1));
    bytemuck::cast([_mm_blend_epi16(feba, dchg, 0xF0), _mm_alignr_epi8(dchg, feba, 8)])
}
