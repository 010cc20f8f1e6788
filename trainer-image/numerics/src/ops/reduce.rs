//! reduce: g = tree over shards * f32(1/S) (spec 5). The arithmetic is in [`crate::reduce`], which
//! workers share across machines; as a graph op it only has a name.

pub(crate) const NAME: &str = "reduce";
