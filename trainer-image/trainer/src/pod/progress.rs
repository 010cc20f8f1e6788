//! Reports of progress, at most one a second, and what the hub wants in return.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::attend::Message;
use crate::failure::Failure;
use crate::protocol::{Progress, ProgressAnswer};
use crate::relay::Relay;

/// At most so often.
const GAP: Duration = Duration::from_secs(1);
/// Without a new step the last report is repeated: it is how a wish of the hub is heard.
const REPEAT: Duration = Duration::from_secs(3);

/// The thread that reports.
#[derive(Debug)]
pub(super) struct Reporter {
    to: Sender<Progress>,
}

impl Reporter {
    pub fn start(relay: Relay, wishes: Sender<Message>) -> Result<Self, Failure> {
        let (to, from) = channel();
        thread::Builder::new()
            .name("progress".into())
            .spawn(move || run(&relay, &from, &wishes))
            .map_err(|error| Failure::usage(format!("cannot start a thread: {error}")))?;
        Ok(Self { to })
    }

    /// Notes a step; never waits.
    pub fn note(&self, progress: Progress) {
        drop(self.to.send(progress));
    }
}

fn run(relay: &Relay, from: &Receiver<Progress>, wishes: &Sender<Message>) {
    let mut last: Option<Progress> = None;
    let mut warned = false;
    loop {
        match from.recv_timeout(REPEAT) {
            Ok(progress) => last = Some(progress),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // Steps that came while the last report was on its way are told by the newest of them.
        last = from.try_iter().last().or(last);
        let Some(progress) = &last else { continue };
        let began = Instant::now();
        match relay.progress(progress) {
            Ok(answer) if answer.status == 200 => {
                warned = false;
                if let Ok(ProgressAnswer { desired }) = answer.json() {
                    drop(wishes.send(Message::Desired(desired)));
                }
            }
            Ok(answer) if answer.status == 410 => drop(wishes.send(Message::Over)),
            // Nothing is lost: the next report says more.
            Ok(answer) => warn(&mut warned, &answer.unexpected().to_string()),
            Err(error) => warn(&mut warned, &error.to_string()),
        }
        thread::sleep(GAP.saturating_sub(began.elapsed()));
    }
}

/// Once for each outage.
fn warn(warned: &mut bool, text: &str) {
    if !*warned {
        eprintln!("muster-trainer: warning: progress is not reported: {text}; training goes on");
        *warned = true;
    }
}
