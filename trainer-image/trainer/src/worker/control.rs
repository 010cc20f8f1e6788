//! What the outside wants of a worker: commands on stdin, signals, and the end of stdin.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::exchange::StepVotes;
use crate::failure::Failure;
use crate::protocol::{Command, ExitCode, MAX_LINE, Peer};

/// Wishes as they arrive; the training loop looks at them between steps.
#[derive(Debug)]
pub(super) struct Control {
    stop: Arc<AtomicBool>,
    shared: Arc<Shared>,
    peers: Receiver<Vec<Peer>>,
}

#[derive(Debug, Default)]
struct Shared {
    drain: AtomicBool,
    /// A line that was no command: the parent is not who we think.
    refused: Mutex<Option<Failure>>,
}

impl Control {
    /// Starts listening to stdin and to SIGTERM and SIGINT.
    pub fn start() -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let signals = || {
            // The second ^C of an impatient person ends the process at once; registered first, so that it sees
            // the flag as the signal before left it.
            signal_hook::flag::register_conditional_shutdown(
                SIGINT,
                i32::from(ExitCode::Stopped.code()),
                stop.clone(),
            )?;
            signal_hook::flag::register(SIGTERM, stop.clone())?;
            signal_hook::flag::register(SIGINT, stop.clone())
        };
        signals().map_err(|error| Failure::usage(format!("cannot handle signals: {error}")))?;
        let shared = Arc::new(Shared::default());
        let (to, peers) = channel();
        let (stdin_shared, stdin_stop) = (shared.clone(), stop.clone());
        std::thread::Builder::new()
            .name("stdin".into())
            .spawn(move || {
                if let Err(failure) = listen(io::stdin().lock(), &stdin_shared, &to)
                    && let Ok(mut refused) = stdin_shared.refused.lock()
                {
                    *refused = Some(failure);
                }
                // End of stdin: the parent is gone, and nobody would ever stop this process.
                stdin_stop.store(true, Ordering::Relaxed);
            })
            .map_err(|error| Failure::usage(format!("cannot start a thread: {error}")))?;
        Ok(Self { stop, shared, peers })
    }

    /// The flag that is set when the worker shall stop at the next step boundary.
    pub fn stop(&self) -> &Arc<AtomicBool> {
        &self.stop
    }

    /// What this worker votes for in the coming exchange.
    pub fn votes(&self) -> StepVotes {
        StepVotes {
            drain: self.shared.drain.load(Ordering::Relaxed),
            stop: self.stop.load(Ordering::Relaxed),
        }
    }

    /// Waits for the `peers` command.
    pub fn peers(&self) -> Result<Vec<Peer>, Failure> {
        loop {
            match self.peers.recv_timeout(Duration::from_millis(100)) {
                Ok(peers) => return Ok(peers),
                Err(RecvTimeoutError::Timeout) if !self.stop.load(Ordering::Relaxed) => {}
                Err(_) => return Err(self.stopped("before it started")),
            }
        }
    }

    /// Why the worker stops, for the exit.
    pub fn stopped(&self, when: &str) -> Failure {
        let refused = self.shared.refused.lock().ok().and_then(|refused| refused.clone());
        refused.unwrap_or_else(|| {
            Failure::new(ExitCode::Stopped, format!("stopped on request {when}; start again to go on"))
        })
    }
}

fn listen(stdin: impl Read, shared: &Shared, to: &Sender<Vec<Peer>>) -> Result<(), Failure> {
    let mut stdin = BufReader::new(stdin);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = stdin.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line);
        match read {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(_) => return Ok(()),
        }
        let refuse = |why: &str| Failure::usage(format!("stdin: not a command: {why}"));
        if line.last() != Some(&b'\n') {
            return Err(refuse("a line that is too long or not ended"));
        }
        match serde_json::from_slice(&line).map_err(|error| refuse(&error.to_string()))? {
            Command::Drain {} => shared.drain.store(true, Ordering::Relaxed),
            Command::Peers { peers } => drop(to.send(peers)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> (Result<(), Failure>, bool, Vec<Vec<Peer>>) {
        let (shared, (to, from)) = (Shared::default(), channel());
        let result = listen(text.as_bytes(), &shared, &to);
        drop(to);
        (result, shared.drain.load(Ordering::Relaxed), from.iter().collect())
    }

    #[test]
    fn commands_are_heard_and_other_lines_refused() {
        let key = "ab".repeat(32);
        let peers =
            format!(r#"{{"command":"peers","peers":[{{"address":"127.0.0.1:1","key":"sha256:{key}"}}]}}"#);
        let (result, drain, heard_peers) = heard(&format!("{peers}\n{{\"command\":\"drain\"}}\n"));
        assert!(result.is_ok() && drain && heard_peers.len() == 1);
        for bad in [
            "garbage\n".to_owned(),
            "{\"command\":\"drain\"}".to_owned(),
            format!("{}\n", peers.replace("ab", "zz")),
            format!("{}\n", " ".repeat(MAX_LINE)),
        ] {
            let failure = heard(&bad).0.unwrap_err();
            assert_eq!(failure.code, ExitCode::BadSpec);
            assert!(failure.message.contains("stdin"), "{}", failure.message);
        }
    }
}
