//! A job's proof as a directory: made from a log and from what the tenant may read, and read again for the check
//! (docs/spec/bundle.md). The check itself is `muster_proof::bundle`.
//!
//! | file | what |
//! |---|---|
//! | `dir` | the directory as the check reads it |
//! | `make` | from log and job to a directory |
//! | `leaves` | all entries of a log, and proofs out of them |
//! | `states` | StateRoots out of the tensors themselves |
//! | `logdir` | a log's files as a log |
//!
//! What must not live here: whom to believe; what a person reads.
pub mod dir;
pub mod leaves;
pub mod logdir;
pub mod make;
pub mod states;
