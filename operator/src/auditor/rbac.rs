//! What the ServiceAccount of the hub's auditor (muster-system/muster-auditor) may do. `muster rbac auditor` prints it.
//!
//! Its say in the log comes from the hub's key, not from here: it reads no job, no unit and no provider.
use crate::hub::rbac::{Rule, within};

/// All of them.
#[must_use]
pub fn rules() -> Vec<Rule> {
    vec![
        within(
            "muster-system",
            "find the gateway, and know it again",
            ("", &["configmaps"], &["muster-gateway-public"]),
            &["get"],
        ),
        within(
            "muster-system",
            "say that it is up",
            ("coordination.k8s.io", &["leases"], &["muster-auditor"]),
            &["get", "patch"],
        ),
        within(
            "muster-system",
            "say so for the first time (a name cannot restrict create)",
            ("coordination.k8s.io", &["leases"], &[]),
            &["create"],
        ),
    ]
}
