//! The sidecar's share of a pod: the same for every worker of every job, on top of what the envelope asks for. The agent's
//! template gives it, and whoever counts what fits into a provider's quota adds it to each worker.

/// CPU in millicores: a checkpoint's digests take seconds, not the trainer's time.
pub const CPU_MILLIS: i64 = 100;
/// The same as a Kubernetes quantity.
pub const CPU: &str = "100m";
/// Memory in bytes, its key's volume included: it holds blocks of a state, never all of it.
pub const MEMORY_BYTES: i64 = 256 << 20;
/// The same as a Kubernetes quantity.
pub const MEMORY: &str = "256Mi";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_spellings_are_of_one_share() {
        assert_eq!(CPU, format!("{CPU_MILLIS}m"));
        assert_eq!(MEMORY, format!("{}Mi", MEMORY_BYTES >> 20));
    }
}
