//! What a run measured, step by step: `metrics.jsonl` of its directory (docs/spec/checkpoint.md) and the workers' events have it
//! under the same names.
use crate::runtime::files::read_capped;
use serde_json::Value;
use std::io;
use std::path::Path;

/// The longest file that is read, in bytes: some ten million steps.
const MAX_METRICS: u64 = 1 << 30;
const METRICS_FILE: &str = "metrics.jsonl";

/// What is measured: the name in the file, and the one that plots show.
pub(super) const MEASURES: [(&str, &str); 5] = [
    ("loss", "loss"),
    ("evalLoss", "eval_loss"),
    ("gradNorm", "grad_norm"),
    ("lr", "learning_rate"),
    ("tokensPerSecond", "tokens_per_second"),
];

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Point {
    pub step: u64,
    /// As [`MEASURES`] has them; what is not there, or not finite, is `None`.
    pub values: [Option<f64>; MEASURES.len()],
}

impl Point {
    /// Reads a line or an event; `None` for what is not of a step.
    pub fn of(value: &Value) -> Option<Self> {
        let number = |name: &str| {
            let value = value.get(name)?;
            let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
            number.filter(|number: &f64| number.is_finite())
        };
        let step = value.get("step")?.as_u64()?;
        value.get("loss")?;
        Some(Self { step, values: MEASURES.map(|(name, _)| number(name)) })
    }
}

/// The steps of a job directory; none if it has no metrics. A line that a crash cut off is passed over.
pub(super) fn read(out: &Path) -> io::Result<Vec<Point>> {
    let bytes = match read_capped(&out.join(METRICS_FILE), MAX_METRICS) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let lines = bytes.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(|line| Point::of(&serde_json::from_slice(line).ok()?)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_and_events_are_points() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), []);
        let text = "{\"gradNorm\":\"2\",\"loss\":\"1.5\",\"lr\":\"1e-5\",\"step\":1,\"tokensPerSecond\":7}\n\
                    {\"loss\":\"NaN\",\"step\":2,\"evalLoss\":\"3.25\"}\nnot a line\n[1]\n{\"step\":3,\"lo";
        std::fs::write(dir.path().join(METRICS_FILE), text).unwrap();
        let points = read(dir.path()).unwrap();
        assert_eq!(points.len(), 2);
        assert_eq!(points[0].values, [Some(1.5), None, Some(2.0), Some(1e-5), Some(7.0)]);
        assert_eq!((points[1].step, points[1].values[0], points[1].values[1]), (2, None, Some(3.25)));
        assert_eq!(Point::of(&json!({"event": "checkpoint", "step": 4})), None);
        assert_eq!(Point::of(&json!({"event": "step", "step": 4, "loss": "2"})).unwrap().step, 4);
    }
}
