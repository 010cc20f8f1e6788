//! Whether a run fits into the memory that it may have, before it takes any: a sentence instead of the kernel's kill.
//!
//! Counted is what every run holds for certain at some moment: the state, gradients, activations, and where they are, a state on
//! its way to the disk and a slice of gradients on its way to others. So a run that is refused could not have ended well; one
//! that is not may still need more.

use std::fmt;
use std::fs;
use std::path::Path;

use muster_numerics::exec;

use super::Options;
use super::job::Job;
use super::update::OptimizerState;
use crate::exchange::shards_of;
use crate::failure::Failure;

/// Bytes by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Need {
    parameters: u64,
    moments: u64,
    gradients: u64,
    activations: u64,
    /// A copy of the state for the thread that saves it.
    checkpoint: u64,
}

impl Need {
    fn of(options: &Options, job: &Job) -> Result<Self, Failure> {
        let graph = &job.graph;
        let n = 4 * graph.parameters() as u64;
        let shards = shards_of(job.spec.training.shards, options.workers, options.rank);
        let own = shards.end - shards.start;
        // One for each level of the tree that may be begun.
        let gradients = n * u64::from(64 - own.leading_zeros()).max(1);
        let sharded = options.optimizer_state == OptimizerState::Sharded;
        let activations = exec::activation_bytes(graph, graph.sequences_per_shard(), options.recompute)
            .map_err(|error| Failure::usage(error.to_string()))?;
        Ok(Self {
            parameters: n,
            moments: if sharded { 2 * n / u64::from(options.workers) } else { 2 * n },
            gradients,
            activations,
            checkpoint: if options.rank == 0 { 3 * n } else { 0 },
        })
    }

    fn total(&self) -> u64 {
        self.parameters + self.moments + self.gradients + self.activations + self.checkpoint
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { parameters, moments, gradients, activations, checkpoint } = *self;
        let [parameters, moments, gradients, activations, checkpoint] =
            [parameters, moments, gradients, activations, checkpoint].map(Size);
        write!(
            f,
            "{parameters} of parameters, {moments} of moments, {gradients} of gradients, {activations} of activations"
        )?;
        if self.checkpoint > 0 {
            write!(f, ", {checkpoint} for a checkpoint")?;
        }
        Ok(())
    }
}

/// Refuses a run that cannot fit.
///
/// # Errors
/// [`Failure::usage`] with both sizes, and what would help.
pub(super) fn check(options: &Options, job: &Job) -> Result<(), Failure> {
    let Some(limit) = limit(Path::new("/")) else { return Ok(()) };
    within(&Need::of(options, job)?, limit)
}

fn within(need: &Need, limit: u64) -> Result<(), Failure> {
    if need.total() <= limit {
        return Ok(());
    }
    // Sizes and remedy first: a condition shows the beginning of a long sentence.
    Err(Failure::usage(format!(
        "this worker needs {} of memory at least and may have {}: raise workers.resources.memory, or need less with more \
         training.shards, workers.recompute: Layers, more workers with workers.optimizerState: Sharded, or a smaller model ({need})",
        Size(need.total()),
        Size(limit)
    )))
}

/// Bytes for people.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.0 as f64 / f64::from(1 << 20);
        if mib < 1024.0 { write!(f, "{mib:.1} MiB") } else { write!(f, "{:.1} GiB", mib / 1024.0) }
    }
}

/// The most that this process may have: the machine's memory or what its control groups leave of it (cgroup v2 or v1), whichever
/// is less; `None` if the system does not say. `root` is `/`.
fn limit(root: &Path) -> Option<u64> {
    let read = |path: &str| fs::read_to_string(root.join(path)).ok();
    let machine = read("proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    let groups = read("proc/self/cgroup").unwrap_or_default();
    // Lines are "hierarchy:controllers:group"; that of v2 names no controllers.
    let group = |controller: &str| {
        let mut lines = groups.lines().filter_map(|line| line.split_once(':')?.1.split_once(":/"));
        lines.find(|(names, _)| names.split(',').any(|name| name == controller)).map_or("", |(_, path)| path)
    };
    let v2 = limits(group(""), "sys/fs/cgroup", "memory.max", &read);
    let v1 = limits(group("memory"), "sys/fs/cgroup/memory", "memory.limit_in_bytes", &read);
    machine.into_iter().chain(v2).chain(v1).min()
}

/// What the files `file` of `group` and of those above it up to `mount` say, since a group's limit holds for those below it.
fn limits(group: &str, mount: &str, file: &str, read: &dyn Fn(&str) -> Option<String>) -> Vec<u64> {
    let names: Vec<&str> = group.split('/').filter(|name| !name.is_empty()).collect();
    // A name that leads upwards is of a group outside of this process's view.
    let visible = if names.contains(&"..") { &[] } else { &names[..] };
    let at = |depth: usize| {
        let dir = [mount].iter().chain(&visible[..depth]).copied().collect::<Vec<_>>().join("/");
        // "max" is no number, and no limit.
        read(&format!("{dir}/{file}"))?.trim().parse().ok()
    };
    (0..=visible.len()).filter_map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_smallest_limit_counts() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert_eq!(limit(root), None);
        let write = |path: &str, text: &str| {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        };
        write("proc/meminfo", "MemTotal:       24656844 kB\nMemFree:  1 kB\n");
        assert_eq!(limit(root), Some(24_656_844 * 1024));
        write("proc/self/cgroup", "0::/kubepods/pod1/c\n");
        write("sys/fs/cgroup/kubepods/memory.max", "max\n");
        assert_eq!(limit(root), Some(24_656_844 * 1024));
        write("sys/fs/cgroup/kubepods/pod1/memory.max", "2147483648\n");
        assert_eq!(limit(root), Some(2 * GIB));
        write("sys/fs/cgroup/kubepods/pod1/c/memory.max", "1073741824\n");
        assert_eq!(limit(root), Some(GIB));
        // In a container with a view of its own.
        write("proc/self/cgroup", "0::/\n");
        write("sys/fs/cgroup/memory.max", "3221225472\n");
        assert_eq!(limit(root), Some(3 * GIB));
        write("proc/self/cgroup", "0::/../other\n");
        assert_eq!(limit(root), Some(3 * GIB));
        // Version 1, whose group may not be visible in a container: there its mount is the container's own group.
        write("proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/kubepods/pod1/c\n0::/\n");
        write("sys/fs/cgroup/memory/memory.limit_in_bytes", "1610612736\n");
        assert_eq!(limit(root), Some(3 * GIB / 2));
        write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit(root), Some(3 * GIB));
        write("sys/fs/cgroup/memory/kubepods/pod1/memory.limit_in_bytes", "1073741824\n");
        assert_eq!(limit(root), Some(GIB));
        fs::remove_dir_all(root.join("sys/fs/cgroup/memory")).unwrap();
        write("sys/fs/cgroup/memory.max", "nonsense");
        write("proc/meminfo", "MemTotal: -1 kB");
        assert_eq!(limit(root), None);
    }

    #[test]
    fn what_cannot_fit_is_refused_with_what_would_help() {
        let need = Need {
            parameters: GIB,
            moments: 2 * GIB,
            gradients: GIB,
            activations: GIB / 2,
            checkpoint: 3 * GIB,
        };
        within(&need, need.total()).unwrap();
        let error = within(&need, need.total() - 1).unwrap_err().to_string();
        for part in [
            "7.5 GiB",
            "512.0 MiB of activations",
            "workers.resources.memory",
            "recompute: Layers",
            "Sharded",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
