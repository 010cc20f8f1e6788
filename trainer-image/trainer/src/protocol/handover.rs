//! Lines over the sidecar's socket, one JSON object each: `docs/spec/protocol.md` section 3.

use std::io::{self, BufRead};

use muster_proof::Digest;
use serde::{Deserialize, Serialize};

/// The longest line, in bytes. A refusal's message is cut to fit.
pub const MAX_LINE: usize = 4096;
/// The longest message of a refusal, in bytes.
pub const MAX_MESSAGE: usize = 1024;

/// One line from the supervisor to the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Line {
    /// A state lies ready.
    Written(Written),
    /// A step is not finite, and what there is to say of it lies ready: the last line of a pod.
    Failed(FailedStep),
}

/// A failed step that lies ready in the file `<round>-<step>.failed.json` of the hand-overs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FailedStep {
    /// The round whose worker wrote it.
    pub round: u32,
    /// The step that cannot be taken.
    pub step: u64,
}

/// A state that lies ready in the directory `<round>-<step>` of the hand-overs. There is no path in it, so it cannot
/// point anywhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Written {
    /// The round whose worker wrote it.
    pub round: u32,
    /// The state it holds.
    pub step: u64,
    /// How many checkpoints the sidecar keeps.
    pub keep_last: u32,
}

/// One line from the sidecar to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Answer {
    /// The state is a checkpoint on this disk.
    Checkpoint {
        /// Which state.
        step: u64,
        /// Digest of the state.
        state_root: Digest,
        /// Digest of its manifest.
        manifest: Digest,
    },
    /// The checkpoint, or the failure, is durable at the hub, and so are or need not be those before it.
    Durable {
        /// Which state, or failed step.
        step: u64,
    },
    /// The state will never be a checkpoint, or the checkpoint never durable.
    Refused {
        /// Which state.
        step: u64,
        /// What the pod ends with because of it.
        code: u8,
        /// For people.
        message: String,
    },
}

impl Answer {
    /// A refusal whose message fits into a line: cut, and without control characters, whose JSON is six times as long.
    pub fn refused(step: u64, code: u8, message: &str) -> Self {
        let mut short = String::new();
        for c in message.chars().filter(|c| !c.is_control()) {
            if short.len() + c.len_utf8() > MAX_MESSAGE {
                break;
            }
            short.push(c);
        }
        Self::Refused { step, code, message: short }
    }
}

/// The next line's JSON as a value; `None` at the end.
///
/// # Errors
/// `InvalidData` for a line that is too long, not ended or not what it must be; else what the reader says. Nothing of
/// the line is in the error.
pub fn read<T: for<'de> Deserialize<'de>>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    let n = io::Read::take(&mut *from, MAX_LINE as u64).read_until(b'\n', &mut line)?;
    if n == 0 {
        return Ok(None);
    }
    let refuse = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    if line.last() != Some(&b'\n') {
        return Err(refuse("a line that is too long or not ended".into()));
    }
    match serde_json::from_slice(&line) {
        Ok(value) => Ok(Some(value)),
        Err(error) => Err(refuse(format!("not a line of the hand-over (column {})", error.column()))),
    }
}

/// A value as a line.
///
/// # Errors
/// As the writer says.
pub fn write(to: &mut impl io::Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    // In one piece: two threads may write.
    to.write_all(&line)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &impl Serialize) -> String {
        serde_json::to_string(value).unwrap()
    }

    #[test]
    fn lines_read_as_the_specification_writes_them() {
        let digest = Digest::of(b"x");
        let line = Line::Written(Written { round: 2, step: 40, keep_last: 3 });
        let checkpoint = Answer::Checkpoint { step: 40, state_root: digest, manifest: digest };
        assert_eq!(text(&line), r#"{"written":{"round":2,"step":40,"keepLast":3}}"#);
        let failed = Line::Failed(FailedStep { round: 2, step: 43 });
        assert_eq!(text(&failed), r#"{"failed":{"round":2,"step":43}}"#);
        let want = format!(r#"{{"checkpoint":{{"step":40,"stateRoot":"{digest}","manifest":"{digest}"}}}}"#);
        assert_eq!(text(&checkpoint), want);
        assert_eq!(text(&Answer::Durable { step: 40 }), r#"{"durable":{"step":40}}"#);
        let refused = Answer::refused(40, 67, "other bits");
        assert_eq!(text(&refused), r#"{"refused":{"step":40,"code":67,"message":"other bits"}}"#);
        let mut both = Vec::new();
        write(&mut both, &checkpoint).unwrap();
        write(&mut both, &refused).unwrap();
        let mut from = &both[..];
        assert_eq!(read(&mut from).unwrap(), Some(checkpoint));
        assert_eq!(read(&mut from).unwrap(), Some(refused));
        assert_eq!(read::<Answer>(&mut from).unwrap(), None);
    }

    #[test]
    fn other_lines_are_refused_and_not_repeated() {
        let long = format!("{{\"written\":{}", " ".repeat(2 * MAX_LINE));
        for bad in [
            "garbage\n",
            "{\"written\":{\"round\":1,\"step\":4,\"keepLast\":2}}",
            "{\"written\":{\"round\":1,\"step\":4,\"keepLast\":2,\"path\":\"/etc\"}}\n",
            "{\"written\":{\"round\":-1,\"step\":4,\"keepLast\":2}}\n",
            "{\"written\":{\"round\":1,\"step\":4}}\n",
            "{\"exit\":{}}\n",
            "{\"failed\":{\"round\":1,\"step\":4,\"keepLast\":2}}\n",
            "{\"written\":{\"round\":1,\"step\":4,\"keepLast\":2}}{}\n",
            "\n",
            &long,
        ] {
            let error = read::<Line>(&mut bad.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bad}");
            assert!(!error.to_string().contains("garbage"), "{error}");
        }
    }

    #[test]
    fn the_longest_refusal_fits_into_a_line() {
        let mut line = Vec::new();
        write(&mut line, &Answer::refused(u64::MAX, 67, &"\u{1b}\"\\".repeat(4000))).unwrap();
        assert!(line.len() < MAX_LINE, "{}", line.len());
        assert!(read::<Answer>(&mut &line[..]).unwrap().is_some());
    }
}
