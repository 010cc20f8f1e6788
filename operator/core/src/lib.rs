//! Pure decisions of the operator: no kube, no tokio, no clock; time and randomness are arguments.

pub mod envelope;
