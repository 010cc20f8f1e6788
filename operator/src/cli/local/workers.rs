//! One start of all worker processes: spawn, introduce to each other, listen, and wait for the last exit
//! (docs/spec/protocol.md section 1).
use super::progress::Progress;
use crate::cli::Failure;
use crate::runtime::Shutdown;
use muster_proof::Digest;
use muster_trainer::protocol::{Command as Order, Event, ExitCode, Peer};
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// How long workers may take to notice that one of them is gone, or that they shall stop (one step may be long).
const LOST_PEER_GRACE: Duration = Duration::from_secs(5);
const STOP_GRACE: Duration = Duration::from_secs(120);

/// How to start the workers.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Launch {
    pub program: PathBuf,
    pub spec: PathBuf,
    pub data: PathBuf,
    /// What the job is evaluated on, if it is.
    pub eval_data: Option<PathBuf>,
    /// Directory of the model whose weights the job begins with, if it does.
    pub init: Option<PathBuf>,
    pub out: PathBuf,
    pub workers: u32,
    pub threads: u16,
    pub interval_steps: i64,
    pub keep_last: i32,
    pub from_step: Option<u64>,
    /// Ends after this step instead of the job's last.
    pub last_step: Option<u64>,
    pub isa: String,
    /// Computes activations inside of layers again.
    pub recompute: bool,
    /// Each worker keeps a slice of the optimiser's moments.
    pub sharded: bool,
}

/// How one start ended.
#[derive(Debug)]
pub(in crate::cli) enum End {
    /// All steps done, or as many as the stop rule wants.
    Finished { step: u64, state_root: Digest },
    /// A person asked.
    Stopped,
    /// Starting again would not help: the trainer's exit code and its message.
    Refused { code: u8, message: String },
    /// A worker died. Starting again may help.
    Crashed(Crash),
}

/// A worker's death.
#[derive(Debug)]
pub(in crate::cli) struct Crash {
    pub code: u8,
    pub message: String,
}

enum News {
    Event(Event),
    /// A line on stdout that is no event: another program, or a broken one.
    Garbage(String),
    Words(String),
    Exit(ExitStatus),
}

/// Runs all workers to their end.
pub(in crate::cli) async fn run(
    launch: &Launch,
    stop: &Shutdown,
    progress: &mut Progress,
) -> Result<End, Failure> {
    let (sender, news) = mpsc::channel(1024);
    let mut crew = Crew::default();
    for rank in 0..launch.workers {
        crew.add(spawn(launch, rank)?, rank, &sender);
    }
    drop(sender);
    crew.watch(news, stop, progress).await
}

fn spawn(launch: &Launch, rank: u32) -> Result<Child, Failure> {
    let mut command = Command::new(&launch.program);
    command
        .arg("worker")
        .arg("--spec")
        .arg(&launch.spec)
        .arg("--data")
        .arg(&launch.data)
        .arg("--out")
        .arg(&launch.out);
    for (flag, value) in [
        ("--rank", rank.to_string()),
        ("--workers", launch.workers.to_string()),
        ("--threads", launch.threads.to_string()),
        ("--interval-steps", launch.interval_steps.to_string()),
        ("--keep-last", launch.keep_last.to_string()),
        ("--isa", launch.isa.clone()),
    ] {
        command.args([flag, &value]);
    }
    if let Some(dir) = &launch.eval_data {
        command.arg("--eval-data").arg(dir);
    }
    if let Some(dir) = &launch.init {
        command.arg("--init").arg(dir);
    }
    if launch.recompute {
        command.args(["--recompute", "layers"]);
    }
    if launch.sharded {
        command.args(["--optimizer-state", "sharded"]);
    }
    if let Some(step) = launch.from_step {
        command.args(["--from-step", &step.to_string()]);
    }
    if let Some(step) = launch.last_step {
        command.args(["--last-step", &step.to_string()]);
    }
    // A group of its own: Ctrl-C reaches us alone, and we tell the workers. If we die, the end of their stdin does.
    command.process_group(0).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|e| Failure::new(format!("cannot start {}: {e}", launch.program.display())))
}

#[derive(Default)]
struct Crew {
    members: Vec<Member>,
    /// The first failure that is nobody else's fault; a lost peer only if there is no other.
    cause: Option<(u32, ExitStatus)>,
    /// What the workers said of their failure.
    errors: Vec<(u32, u8, String)>,
    /// Lines of stderr that may repeat an error.
    last_words: Vec<(u32, String)>,
    finished: Option<(u64, Digest)>,
}

struct Member {
    pid: Option<Pid>,
    stdin: Option<ChildStdin>,
    peer: Option<Peer>,
    running: bool,
}

impl Crew {
    fn add(&mut self, mut child: Child, rank: u32, sender: &mpsc::Sender<(u32, News)>) {
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let stdin = child.stdin.take();
        self.members.push(Member { pid, stdin, peer: None, running: true });
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let sender = sender.clone();
        tokio::spawn(async move {
            let event = |line: String| match serde_json::from_str(&line) {
                Ok(event) => News::Event(event),
                Err(_) => News::Garbage(line),
            };
            // Both to their ends before the exit is told: the last words explain it.
            tokio::join!(lines(out, rank, &sender, event), lines(err, rank, &sender, News::Words));
            if let Ok(status) = child.wait().await {
                let _ = sender.send((rank, News::Exit(status))).await;
            }
        });
    }

    async fn watch(
        mut self,
        mut news: mpsc::Receiver<(u32, News)>,
        stop: &Shutdown,
        progress: &mut Progress,
    ) -> Result<End, Failure> {
        let mut stopping = false;
        let mut deadline: Option<Instant> = None;
        let asked = stop.wait();
        tokio::pin!(asked);
        loop {
            let patience = async {
                match deadline {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut asked, if !stopping => {
                    stopping = true;
                    deadline = Some(Instant::now() + STOP_GRACE);
                    progress.note("stopping after this step; Ctrl-C again stops at once");
                    self.signal(Signal::TERM);
                }
                () = patience => {
                    self.signal(Signal::KILL);
                    deadline = None;
                }
                item = news.recv() => match item {
                    None => break,
                    Some((rank, item)) => {
                        self.hear(rank, item, progress).await?;
                        if self.cause.is_some() && deadline.is_none() {
                            deadline = Some(Instant::now() + LOST_PEER_GRACE);
                        }
                    }
                },
            }
        }
        Ok(self.end(stopping))
    }

    async fn hear(&mut self, rank: u32, news: News, progress: &mut Progress) -> Result<(), Failure> {
        match news {
            // The trainer says its failure both as an event and in words; which comes first is chance. Once is enough.
            News::Words(line) if line.starts_with("muster-trainer: ") => self.last_words.push((rank, line)),
            News::Words(line) => progress.note(&format!("worker {rank}: {line}")),
            News::Garbage(line) => progress.note(&format!("worker {rank} said what is no event: {line}")),
            News::Exit(status) => {
                self.exited(rank, status);
                for (_, line) in self.last_words.extract_if(.., |(who, _)| *who == rank) {
                    if !self.errors.iter().any(|(_, _, message)| line.contains(message.as_str())) {
                        progress.note(&format!("worker {rank}: {line}"));
                    }
                }
            }
            News::Event(event) => {
                progress.event(rank, &event);
                match event {
                    Event::Listening { address, public_key } => {
                        self.introduce(rank, Peer { address, key: public_key.key_id() }).await?;
                    }
                    Event::Finished { step, state_root: Some(root) } => self.finished = Some((step, root)),
                    Event::Error { code, message } => self.errors.push((rank, code, message)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// When all workers listen, each is told where the others are and which keys they hold. No signature: what a child says
    /// comes through its own pipe.
    async fn introduce(&mut self, rank: u32, peer: Peer) -> Result<(), Failure> {
        if let Some(member) = self.members.get_mut(rank as usize) {
            member.peer = Some(peer);
        }
        let peers: Vec<_> = self.members.iter().filter_map(|m| m.peer).collect();
        if peers.len() < self.members.len() {
            return Ok(());
        }
        let line = serde_json::to_string(&Order::Peers { peers })? + "\n";
        for member in &mut self.members {
            if let Some(stdin) = &mut member.stdin {
                // A worker that cannot be told has died; its exit says so.
                let _ = stdin.write_all(line.as_bytes()).await;
                let _ = stdin.flush().await;
            }
        }
        Ok(())
    }

    fn exited(&mut self, rank: u32, status: ExitStatus) {
        if let Some(member) = self.members.get_mut(rank as usize) {
            // The pid may be somebody else's from now on.
            (member.running, member.stdin) = (false, None);
        }
        if status.success() {
            return;
        }
        let peer_lost = |s: &ExitStatus| s.code() == Some(i32::from(ExitCode::PeerLost.code()));
        if self.cause.as_ref().is_none_or(|(_, old)| peer_lost(old) && !peer_lost(&status)) {
            self.cause = Some((rank, status));
        }
    }

    fn signal(&self, signal: Signal) {
        for member in self.members.iter().filter(|m| m.running) {
            if let Some(pid) = member.pid {
                // An error means that it ended just now.
                let _ = kill_process(pid, signal);
            }
        }
    }

    fn end(self, stopping: bool) -> End {
        let Some((rank, status)) = self.cause else {
            return match self.finished {
                Some((step, state_root)) => End::Finished { step, state_root },
                None if stopping => End::Stopped,
                None => End::Crashed(Crash { code: 1, message: "the workers ended without a result".into() }),
            };
        };
        let said = self.errors.into_iter().find(|(who, ..)| *who == rank).map(|(_, _, message)| message);
        let known = status.code().and_then(ExitCode::from_code);
        match known {
            Some(ExitCode::Stopped) if stopping => End::Stopped,
            Some(ExitCode::Done | ExitCode::Stopped | ExitCode::PeerLost) | None => {
                let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
                let how = said.unwrap_or_else(|| status.to_string());
                let message = format!("worker {rank} died: {how}");
                End::Crashed(Crash { code: u8::try_from(code).unwrap_or(1), message })
            }
            Some(code) => End::Refused {
                code: code.code(),
                message: said.unwrap_or_else(|| format!("worker {rank} ended with {status}")),
            },
        }
    }
}

/// Sends each line of a pipe; bytes that are no text are shown as such.
async fn lines(
    pipe: Option<impl AsyncRead + Unpin>,
    rank: u32,
    sender: &mpsc::Sender<(u32, News)>,
    wrap: impl Fn(String) -> News,
) {
    let Some(pipe) = pipe else { return };
    let (mut pipe, mut line) = (BufReader::new(pipe), Vec::new());
    while pipe.read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if !text.is_empty() && sender.send((rank, wrap(text))).await.is_err() {
            return;
        }
        line.clear();
    }
}
