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
