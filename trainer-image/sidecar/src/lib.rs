//! The sidecar: what stands between a trainer and everybody else. The trainer writes states; the sidecar makes
//! checkpoints of them, signs them with a key that the trainer never sees, and brings them to the agent's relay.
//! `docs/spec/protocol.md` section 3 is its contract.
//!
//! | module | thought |
//! |---|---|
//! | `key` | the key, made at first start and kept as long as the pod |
//! | `hear` | the socket: lines of the trainer's supervisor, and answers to it |
//! | `take` | one hand-over: digests, manifest, its place among the checkpoints |
//! | `bind` | who this is, and the key made known to the relay |
//! | `kept` | records, manifests and links on the disk, until they are durable |
//! | `queue` | what is not durable yet, in order |
//! | `upload` | checkpoints and commits to the relay, on a thread, for as long as it takes |
//!
//! It keeps nothing in memory that it could not do without: started again, it is told once more what is not durable, and
//! finds the rest on the disk. It gives nothing up: when too much waits for the relay it takes no more, and the worker
//! waits.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod bind;
mod hear;
mod kept;
mod key;
mod queue;
mod take;
mod upload;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use muster_trainer::checkpoint::Store;
use muster_trainer::failure::Failure;
use muster_trainer::files;
use muster_trainer::protocol::ExitCode;
use muster_trainer::relay::{self, Relay};
use muster_trainer::work::Work;
use signal_hook::consts::{SIGINT, SIGTERM};

use bind::Binder;
use hear::Answers;
use kept::Kept;
use take::Taker;
use upload::Uploads;

/// From SIGTERM until an upload that is under way is given up. SIGTERM comes when the trainer has ended, at the latest
/// 20 s into the pod's grace of 30 s.
const GRACE: Duration = Duration::from_secs(8);
/// How often signals are looked at.
const TICK: Duration = Duration::from_millis(50);

/// The environment, as the agent's template sets it.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "muster-sidecar",
    version,
    about = "Makes checkpoints of what a trainer writes and brings them to the relay"
)]
pub struct Options {
    /// The agent's relay.
    #[command(flatten)]
    pub relay: relay::Options,
    /// The scratch directory that trainer and sidecar share.
    #[arg(long, env = "MUSTER_WORK", value_name = "DIR", default_value = "/work")]
    pub work: PathBuf,
    /// Where the key is kept: a directory that nobody else can see.
    #[arg(long, env = "MUSTER_KEYS", value_name = "DIR", default_value = "/keys")]
    pub keys: PathBuf,
}

/// Serves until SIGTERM, then brings what is under way to its end if there is time.
///
/// # Errors
/// A wrong option, a directory that cannot be used, or a thread that died; started again it goes on.
pub fn run(options: &Options) -> Result<(), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, stop.clone())
            .map_err(|error| Failure::usage(format!("cannot handle signals: {error}")))?;
    }
    let key = key::open(&options.keys)?;
    let relay = Relay::new(&options.relay)?;
    let work = Work::new(&options.work);
    // What an earlier process left half-done; it will be told of it again. What waits for the relay stays: the store may
    // have forgotten it.
    files::create_dirs(&work.handovers()).map_err(disk)?;
    Store::new(&work.job()).sweep()?;
    let kept = Kept::open(&work).map_err(disk)?;

    let answers = Arc::new(Answers::default());
    let binder = Binder::new(relay, key);
    let uploads = Uploads::start(binder, kept.clone(), answers.clone())?;
    let taker = Taker::start(work.clone(), kept, uploads.clone(), answers.clone())?;
    let listener = hear::bind(&work.socket()).map_err(disk)?;
    let ear = hear::start(listener, taker.clone(), answers)?;
    eprintln!("muster-sidecar: listens at {}", work.socket().display());
    while !stop.load(Ordering::Relaxed) {
        if ear.is_finished() || taker.has_died() || uploads.has_died() {
            // A panic; its message is above. A process that only looks alive would hold up the job for ever.
            return Err(Failure::new(ExitCode::PeerLost, "a thread died; starting again helps"));
        }
        thread::sleep(TICK);
    }
    let told = Instant::now();
    while (taker.is_busy() || uploads.is_busy()) && told.elapsed() < GRACE {
        thread::sleep(TICK);
    }
    Ok(())
}

fn disk(error: files::FileError) -> Failure {
    Failure::new(ExitCode::Disk, error.to_string())
}

fn warn(text: &str) {
    eprintln!("muster-sidecar: warning: {text}");
}
