//! Which files a job reads beside its dataset, as its resolved spec names them: each list by the digest of its manifest. Read without
//! the trainer, by whoever has to bring the files (docs/spec/numerics.md, section 8).

use serde::Deserialize;

use crate::{Digest, evaluation};

/// See the module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Inputs {
    /// The manifest of the dataset that is evaluated on; `None` for a job that evaluates nothing.
    pub held_out: Option<Digest>,
    /// The manifest of the model whose weights the job begins with; `None` if its seed makes them.
    pub init: Option<Digest>,
}

#[derive(Deserialize)]
struct Spec {
    training: Training,
    init: Option<Named>,
}

#[derive(Deserialize)]
struct Training {
    eval: Option<Eval>,
}

#[derive(Deserialize)]
struct Eval {
    data: Named,
}

#[derive(Deserialize)]
struct Named {
    manifest: Digest,
}

impl Inputs {
    /// Reads a resolved spec.
    ///
    /// # Errors
    /// [`evaluation::Error`]: bytes that are no spec.
    pub fn of_spec(spec: &[u8]) -> Result<Self, evaluation::Error> {
        let Spec { training, init } = evaluation::part_of(spec)?;
        Ok(Self {
            held_out: training.eval.map(|eval| eval.data.manifest),
            init: init.map(|model| model.manifest),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_names_what_it_reads() {
        let (data, model) = (Digest::of(b"held out"), Digest::of(b"model"));
        let eval = format!(r#"{{"eval":{{"data":{{"manifest":"{data}"}},"everySteps":4}},"steps":10}}"#);
        let init = format!(r#""init":{{"manifest":"{model}"}},"#);
        for (init, training, held_out, begins) in [
            ("", r#"{"steps":10}"#, None, None),
            ("", &*eval, Some(data), None),
            (&*init, r#"{"steps":10}"#, None, Some(model)),
            (&*init, &*eval, Some(data), Some(model)),
        ] {
            let spec = format!(r#"{{{init}"training":{training}}}"#);
            let said = Inputs::of_spec(spec.as_bytes()).unwrap();
            assert_eq!(said, Inputs { held_out, init: begins }, "{spec}");
        }
    }

    #[test]
    fn what_is_no_spec_names_nothing() {
        let given = br#"{"init":"Given","training":{"steps":1}}"#;
        for bad in [&b""[..], b"{}", b"[]", br#"{"training":{"eval":7}}"#, given, b"{\"training\":{} }"] {
            Inputs::of_spec(bad).unwrap_err();
        }
        assert!(matches!(Inputs::of_spec(&vec![b' '; 64 * 1024 + 1]), Err(evaluation::Error::TooLong)));
    }
}
