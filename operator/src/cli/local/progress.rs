//! What is seen of a run: a bar on a terminal, lines elsewhere, the workers' own events with `--output json`. All of it on
//! stderr but results and events.
use super::board::Board;
use super::curve::Point;
use crate::cli::output::{self, Output};
use crate::runtime::sanitise;
use indicatif::{ProgressBar, ProgressStyle};
use muster_proof::Digest;
use muster_trainer::protocol::Event;
use std::io::{self, IsTerminal, Write, stdout};
use std::path::Path;
use std::time::{Duration, Instant};

/// Without a terminal, a line at most so often: a log of a long run stays readable.
const LINE_EVERY: Duration = Duration::from_secs(2);

pub(in crate::cli) struct Progress {
    output: Output,
    bar: Option<ProgressBar>,
    /// At most so many.
    steps: u64,
    step: Option<u64>,
    /// The last loss on held-out data, as shown.
    eval: String,
    /// What was last to be shown of the losses.
    losses: String,
    checkpoint: Option<u64>,
    last_line: Option<Instant>,
    /// Nobody reads the events any more. The training goes on: its result is on disk.
    deaf: bool,
    board: Option<Board>,
}

impl Progress {
    pub fn new(output: Output, steps: u64) -> Self {
        let bar = (output == Output::Text && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(steps);
            let template = "step {pos}/{len} {bar:32} {msg}";
            bar.set_style(
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar
        });
        Self { output, bar, steps, deaf: false, ..Self::quiet() }
    }

    /// Shows every step there, too.
    pub(super) fn show_on(&mut self, board: Board) {
        self.board = Some(board);
    }

    /// Says nothing but the workers' own words: for runs that nobody looks at.
    pub fn quiet() -> Self {
        Self {
            output: Output::Json,
            bar: None,
            steps: 0,
            step: None,
            eval: String::new(),
            losses: String::new(),
            checkpoint: None,
            last_line: None,
            deaf: true,
            board: None,
        }
    }

    /// The last step seen, if any.
    pub const fn step(&self) -> Option<u64> {
        self.step
    }

    /// The last checkpoint that this run wrote, if any.
    pub const fn checkpoint(&self) -> Option<u64> {
        self.checkpoint
    }

    /// A sentence for people.
    pub fn note(&self, text: &str) {
        let text = sanitise::line(text, 2000);
        match &self.bar {
            Some(bar) => bar.println(text),
            None => output::note(text),
        }
    }

    /// Takes the bar away and leaves its last words as an ordinary line, so that what follows stands on its own.
    pub fn close(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            if let Some(step) = self.step {
                output::note(format_args!("step {step}/{}  {}", self.steps, bar.message()));
            }
        }
    }

    pub fn event(&mut self, rank: u32, event: &Event) {
        // All workers say when they start and finish; rank 0 speaks for all.
        if rank == 0
            && !self.deaf
            && self.output == Output::Json
            && let Ok(line) = serde_json::to_string(event)
        {
            self.deaf |= writeln!(stdout(), "{line}").and_then(|()| stdout().flush()).is_err();
        }
        self.on_board(rank, event);
        match event {
            Event::Started { step, isa, threads, .. } if rank == 0 => {
                let from = if *step == 0 { "the beginning".into() } else { format!("step {step}") };
                let plural = if *threads == 1 { "" } else { "s" };
                self.note(&format!("from {from}, {threads} thread{plural} a worker, {isa}"));
                if let Some(bar) = &self.bar {
                    bar.set_position(*step);
                }
            }
            Event::Step { step, loss, eval_loss, tokens_per_second, eta_seconds, .. } => {
                self.step = Some(*step);
                if let Some(loss) = eval_loss {
                    self.eval = format!("  held out {:.4} after {step}", number(loss));
                }
                self.show(*step, loss, *tokens_per_second, *eta_seconds);
            }
            Event::Checkpoint { step, .. } => self.checkpoint = Some(*step),
            _ => {}
        }
    }

    fn on_board(&mut self, rank: u32, event: &Event) {
        let Some(board) = &mut self.board else { return };
        let done = match event {
            Event::Started { step, .. } if rank == 0 => board.start(*step),
            Event::Step { .. } => {
                let point = serde_json::to_value(event).ok().and_then(|event| Point::of(&event));
                point.map_or(Ok(()), |point| board.step(&point))
            }
            _ => return,
        };
        if let Err(error) = done {
            // The training goes on: its result is elsewhere.
            self.board = None;
            self.note(&format!("--tensorboard: {error}; no more steps are written there"));
        }
    }

    fn show(&mut self, step: u64, loss: &str, speed: u64, eta: u64) {
        self.losses = format!("loss {:.4}{}", number(loss), self.eval);
        let text = format!("{}  {speed} tok/s  {} left", self.losses, clock(eta));
        if let Some(bar) = &self.bar {
            bar.set_position(step);
            bar.set_message(text);
            return;
        }
        let due = self.last_line.is_none_or(|at| at.elapsed() >= LINE_EVERY);
        if self.output == Output::Text && (due || step == self.steps) {
            output::note(format_args!("step {step}/{}  {text}", self.steps));
            self.last_line = Some(Instant::now());
        }
    }

    /// The result: the one line of stdout that scripts look for.
    pub fn finish(&mut self, step: u64, root: &Digest, out: &Path) -> io::Result<()> {
        let is_early = step < self.steps;
        if let Some(bar) = self.bar.as_ref().filter(|_| is_early) {
            // The steps that were left are left out.
            bar.set_message(self.losses.clone());
        }
        self.close();
        if is_early {
            self.note(&ended_early(step, self.steps, &self.losses));
        }
        let out = out.display();
        self.note(&format!(
            "done: {out}/checkpoints/step-{step:08}; try `muster sample {out} --prompt TEXT`"
        ));
        if self.output == Output::Text {
            output::line(format_args!("stateRoot {root}"))?;
        }
        Ok(())
    }
}

/// Why there are fewer steps than the job may have. `losses` is empty if the run found the job ended.
fn ended_early(step: u64, steps: u64, losses: &str) -> String {
    let losses = if losses.is_empty() { String::new() } else { format!(" ({losses})") };
    format!(
        "training ended after step {step} of {steps}: the evaluation loss reached training.eval.stopAt{losses}"
    )
}

fn number(text: &str) -> f32 {
    text.parse().unwrap_or(f32::NAN)
}

fn clock(seconds: u64) -> String {
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_early_end_says_why() {
        let want = "training ended after step 8 of 20: the evaluation loss reached training.eval.stopAt";
        assert_eq!(super::ended_early(8, 20, ""), want);
        let losses = "loss 2.5000  held out 2.4000 after 8";
        assert_eq!(super::ended_early(8, 20, losses), format!("{want} ({losses})"));
    }

    #[test]
    fn time_left_reads_like_a_clock() {
        assert_eq!(super::clock(59), "0:59");
        assert_eq!(super::clock(3 * 3600 + 62), "3:01:02");
    }
}
