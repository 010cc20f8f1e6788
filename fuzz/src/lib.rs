//! Whatever reads bytes of strangers, as functions of bytes: each must return, and what it accepts must mean what it says. They run
//! in two ways: `make fuzz` searches with libFuzzer, and the test below replays the seeds with thousands of fixed mutations.
//!
//! A crash that `make fuzz` finds becomes a file under `seeds/<target>/` and so a test. `README.md` says which reader has which
//! target.
mod agent;
mod bundle;
mod gateway;
mod history;
mod log;
mod models;
mod proof;
mod requests;
mod text;
mod tiles;
mod tlog;
mod trainer;

/// One reader.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Feeds it.
    pub run: fn(&[u8]),
    /// Bytes that it accepts, from which mutations go far.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
#[must_use]
pub fn all() -> Vec<Target> {
    [
        proof::targets(),
        tiles::targets(),
        tlog::targets(),
        history::targets(),
        trainer::targets(),
        models::targets(),
        gateway::targets(),
        requests::targets(),
        log::targets(),
        agent::targets(),
        bundle::targets(),
        text::targets(),
    ]
    .concat()
}

/// The target of a name.
#[must_use]
pub fn find(name: &str) -> Option<Target> {
    all().into_iter().find(|target| target.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// xorshift64: the same mutations on every machine.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn below(&mut self, end: usize) -> usize {
            usize::try_from(self.next() % u64::try_from(end.max(1)).unwrap()).unwrap()
        }

        /// A few bytes changed, a piece removed, repeated, or taken from another seed.
        fn mutate(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
            let mut bytes = seed.to_vec();
            for _ in 0..=self.below(4) {
                let at = self.below(bytes.len());
                let end = (at + 1 + self.below(16)).min(bytes.len());
                match self.below(6) {
                    0 if !bytes.is_empty() => bytes[at] = u8::try_from(self.next() & 0xff).unwrap(),
                    1 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                    2 => drop(bytes.drain(at.min(bytes.len())..end)),
                    3 => {
                        let piece = bytes[at.min(end)..end].to_vec();
                        bytes.splice(at..at, piece);
                    }
                    4 => bytes.truncate(at),
                    _ => {
                        let from = self.below(other.len());
                        let until = (from + self.below(64)).min(other.len());
                        bytes.splice(at..at, other[from..until].iter().copied());
                    }
                }
            }
            bytes
        }
    }

    #[test]
    fn seeds_and_their_mutations() {
        for target in all() {
            let mut seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{} has no seed", target.name);
            let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target.name);
            let mut files: Vec<_> =
                std::fs::read_dir(kept).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            files.sort();
            seeds.extend(files.iter().map(|file| std::fs::read(file).unwrap()));
            seeds.push(Vec::new());
            let mut random = Random(0x9e37_79b9_7f4a_7c15);
            for seed in &seeds {
                (target.run)(seed);
                for _ in 0..2000 / seeds.len() {
                    let other = random.below(seeds.len());
                    (target.run)(&random.mutate(seed, &seeds[other]));
                }
            }
        }
    }
}
