//! The libFuzzer runner: one program, the target's name in `MUSTER_FUZZ_TARGET`. `scripts/fuzz.sh` starts it.
#![no_main]
use std::sync::OnceLock;

use muster_fuzz::{Target, find};

static CHOSEN: OnceLock<Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(init: {
    let name = std::env::var("MUSTER_FUZZ_TARGET").unwrap_or_default();
    match find(&name) {
        Some(target) => drop(CHOSEN.set(target)),
        None => {
            eprintln!("MUSTER_FUZZ_TARGET={name:?}: no such target; `make fuzz` lists them");
            std::process::exit(2);
        }
    }
}, |data: &[u8]| {
    if let Some(target) = CHOSEN.get() {
        (target.run)(data);
    }
});
