//! The socket: what the trainer's supervisor says, and what is answered. The pod is one tenant's and the socket's other
//! end may run anything: a line that is none ends its connection, and there are few of those.

use std::io::{self, BufReader};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use muster_trainer::failure::Failure;
use muster_trainer::files::{FileError, Named as _};
use muster_trainer::protocol::handover::{self, Answer};

use crate::take::Taker;
use crate::warn;

/// Connections at a time. A supervisor has one.
const CONNECTIONS: usize = 4;
/// An answer that is not taken for so long is dropped with its connection: who comes back is answered anew.
const WRITE: Duration = Duration::from_secs(1);
/// After an error of accepting, which lasts.
const PAUSE: Duration = Duration::from_millis(200);

/// Answers go to everybody who is connected: who did not ask knows that. To the one that connected last would let any
/// process of the pod cut the supervisor off.
#[derive(Debug, Default)]
pub struct Answers(Mutex<Vec<(u64, UnixStream)>>);

impl Answers {
    fn connect(&self, stream: UnixStream) -> u64 {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = streams.iter().map(|(id, _)| id + 1).max().unwrap_or(0);
        streams.push((id, stream));
        id
    }

    fn disconnect(&self, id: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| *known != id);
    }

    /// Sends an answer, or drops it: nothing waits for the supervisor.
    pub fn send(&self, answer: &Answer) {
        for (_, to) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            if handover::write(to, answer).is_err() {
                // Its reader notices, and forgets it.
                drop(to.shutdown(Shutdown::Both));
            }
        }
    }
}

/// Listens at `path`; what an earlier process left there is replaced.
pub fn bind(path: &Path) -> Result<UnixListener, FileError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(FileError::new("remove", path, error));
        }
        _ => {}
    }
    UnixListener::bind(path).named("listen at", path)
}

/// Starts to hear. The thread ends only with the process.
pub fn start(listener: UnixListener, taker: Taker, answers: Arc<Answers>) -> Result<JoinHandle<()>, Failure> {
    let open = Arc::new(AtomicUsize::new(0));
    let accept = move || {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn(&format!("cannot accept a connection: {error}"));
                    thread::sleep(PAUSE);
                    continue;
                }
            };
            if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
                open.fetch_sub(1, Ordering::Relaxed);
                warn("too many connections; this one is closed");
                continue;
            }
            let (taker, answers, open) = (taker.clone(), answers.clone(), Counted(open.clone()));
            let hear = move || {
                if let Err(error) = hear(stream, &taker, &answers) {
                    warn(&format!("a connection is closed: {error}"));
                }
                drop(open);
            };
            if let Err(error) = thread::Builder::new().name("hear".into()).spawn(hear) {
                warn(&format!("cannot start a thread: {error}"));
            }
        }
    };
    thread::Builder::new()
        .name("accept".into())
        .spawn(accept)
        .map_err(|error| Failure::usage(format!("cannot start a thread: {error}")))
}

/// A connection that counts while this lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn hear(stream: UnixStream, taker: &Taker, answers: &Answers) -> io::Result<()> {
    stream.set_write_timeout(Some(WRITE))?;
    let me = answers.connect(stream.try_clone()?);
    let mut from = BufReader::new(&stream);
    let end = loop {
        match handover::read(&mut from) {
            Ok(Some(line)) => taker.push(line),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    // The copy for answers would keep the connection open.
    answers.disconnect(me);
    drop(stream.shutdown(Shutdown::Both));
    end
}
