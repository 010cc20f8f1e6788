//! The worker process: this binary again, with pipes.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::Sender;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

use super::Options;
use super::attend::Message;
use super::fetch::Dirs;
use crate::failure::Failure;
use crate::protocol::{Assignment, Command as Line, Event, ExitCode, MAX_LINE, OptimizerState, Recompute};
use crate::work::Work;

/// A running worker of round `round`.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
    stdin: Option<ChildStdin>,
}

impl Child {
    /// Starts the worker of an assignment. Its events arrive at `to` with the round's number; stderr is the pod's.
    pub fn spawn(
        options: &Options,
        work: &Work,
        assignment: &Assignment,
        dirs: &Dirs,
        round: u32,
        to: Sender<Message>,
    ) -> Result<Self, Failure> {
        let start = assignment.start.as_ref().map_or(0, |start| start.step);
        let last = options.last_step.map(|step| step.to_string());
        let binary = std::env::current_exe()
            .map_err(|error| Failure::usage(format!("cannot find this program: {error}")))?;
        let mut child = Command::new(binary)
            .arg("worker")
            .arg("--spec")
            .arg(work.spec())
            .arg("--data")
            .arg(work.data())
            .args(dirs.eval_data.iter().flat_map(|dir| [Path::new("--eval-data"), dir]))
            .args(dirs.init.iter().flat_map(|dir| [Path::new("--init"), dir]))
            .arg("--out")
            .arg(work.out())
            .args(["--rank", &assignment.rank.to_string()])
            .args(["--workers", &assignment.workers.to_string()])
            .args(["--threads", &options.threads.to_string()])
            .args(["--interval-steps", &assignment.interval_steps.to_string()])
            .arg("--handover")
            .arg(work.handovers())
            .args(["--round", &round.to_string()])
            .args(["--from-step", &start.to_string()])
            .args(["--listen", &options.listen().to_string()])
            .args(assignment.optimizer_state.iter().flat_map(|place| {
                let OptimizerState::Sharded = place;
                ["--optimizer-state", "sharded"]
            }))
            .args(assignment.recompute.iter().flat_map(|Recompute::Layers| ["--recompute", "layers"]))
            .args(last.iter().flat_map(|last| ["--last-step", last.as_str()]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::new(ExitCode::Disk, format!("cannot start the worker: {error}")))?;
        let stdin = child.stdin.take();
        if let Some(stdout) = child.stdout.take() {
            let reader = std::thread::Builder::new().name("worker".into());
            reader
                .spawn(move || forward(stdout, round, &to))
                .map_err(|error| Failure::usage(format!("cannot start a thread: {error}")))?;
        }
        // Process 1 must reap whatever is orphaned in the pod, so ends are collected by `reap`, not by the handle.
        Ok(Self { pid: Pid::from_child(&child), stdin })
    }

    /// Sends a command. A worker that is gone already is noticed by its end.
    pub fn send(&mut self, line: &Line) {
        if let (Some(stdin), Ok(mut text)) = (&mut self.stdin, serde_json::to_string(line)) {
            text.push('\n');
            drop(stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()));
        }
    }

    pub fn terminate(&self) {
        let _ = kill_process(self.pid, Signal::TERM);
    }

    pub fn kill(&self) {
        let _ = kill_process(self.pid, Signal::KILL);
    }

    /// Collects all children that have ended; the exit code of this one, if it is among them. A signal is 128 and its
    /// number, as shells say it.
    pub fn reap(&self) -> Option<i32> {
        let mut mine = None;
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == self.pid {
                let signalled = status.terminating_signal().map(|signal| 128 + signal);
                mine = Some(status.exit_status().or(signalled).unwrap_or(1));
            }
        }
        mine
    }
}

/// Hands the worker's lines on until its stdout ends.
fn forward(stdout: impl Read, round: u32, to: &Sender<Message>) {
    let mut stdout = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        match stdout.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let Ok(event) = serde_json::from_slice::<Event>(&line) else {
            eprintln!("muster-trainer: warning: not an event: {}", String::from_utf8_lossy(&line).trim_end());
            continue;
        };
        if to.send(Message::Event(round, event)).is_err() {
            break;
        }
    }
    drop(to.send(Message::Silent(round)));
}
