//! evaluate: the mean loss of a state on held-out sequences (spec 6.5). The forward nodes make the token losses, each sequence on
//! its own; here is what becomes of them.

use crate::kernel;

pub(crate) const NAME: &str = "evaluate";

/// tree over the sequences' losses / f32(E); what is not finite becomes the largest finite f32, which a record can hold.
pub(crate) fn evaluation_loss(losses: Vec<f32>) -> f32 {
    let count = losses.len() as f32;
    let mean = kernel::tree(losses) / count;
    if mean.is_finite() { mean } else { f32::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_added_and_the_sum_is_divided_once() {
        for i in 0..200 {
            let x = |k: u32| 1.0 + (i * 7 + k * 13) as f32 / 97.0;
            let got = evaluation_loss((0..6).map(x).collect());
            let want = (((x(0) + x(1)) + (x(2) + x(3))) + (x(4) + x(5))) / 6.0;
            assert_eq!(got.to_bits(), want.to_bits());
        }
        assert_eq!(evaluation_loss(vec![2.5]), 2.5);
    }

    #[test]
    fn what_is_not_finite_is_the_largest_number() {
        for bad in [[1.0, f32::NAN], [f32::INFINITY, 1.0], [f32::INFINITY, -f32::INFINITY], [f32::MAX; 2]] {
            assert_eq!(evaluation_loss(bad.to_vec()).to_bits(), 0x7f7f_ffff, "{bad:?}");
        }
    }
}
