//! The command line as a person meets it: help, wrong usage, exit codes, generated files.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that panics has failed")]

mod support;

use support::{Site, run};

#[test]
fn help_is_on_stdout_and_names_every_command() {
    let ran = run(&["--help"]).succeeded();
    for command in [
        "hub",
        "registrar",
        "gateway",
        "agent",
        "local",
        "data",
        "download",
        "sample",
        "eval",
        "export",
        "provider",
        "crd",
        "rbac",
        "version",
    ] {
        assert!(ran.stdout.contains(&format!("\n  {command} ")), "{command}: {}", ran.stdout);
    }
    assert_eq!(ran.stderr, "");
}

#[test]
fn wrong_usage_is_2_and_says_what_is_wrong() {
    for (arguments, word) in [
        (&["trian"][..], "trian"),
        (&[], "Usage"),
        (&["local"], "--data"),
        (&["local", "job.yaml", "--data", "kjv", "--out", "o"], "NAME=DIR"),
        (&["local", "job.yaml", "--data", "kjv=d", "--out", "o", "--workers", "0"], "--workers"),
        (&["data", "import", "kjv", "dir", "--store", "s"], "NAMESPACE/NAME"),
        (&["data", "prepare", "--out", "o"], "FILE"),
        (&["rbac", "everyone"], "everyone"),
        (&["download", "--out", "o"], "NAMESPACE/JOB"),
        (&["gateway", "--store", "s"], "--public-url"),
        (&["hub", "--store", "s"], "--trainer-image"),
        (&["provider", "create-token", "east", "--ttl", "1h"], "15m"),
        (&["provider", "create-token", "east", "--create"], "--owner"),
    ] {
        run(arguments).failed(2, &[word]);
    }
}

#[test]
fn missing_things_are_named_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let none = dir.path().join("none");
    let (none, out) = (none.to_str().unwrap(), dir.path().join("out"));
    let out = out.to_str().unwrap();
    run(&["data", "prepare", none, "--out", out]).failed(1, &["error: ", none]);
    run(&["data", "import", "a/b", none, "--store", out]).failed(1, &[none, "muster data prepare"]);
    run(&["data", "list", "--store", none]).failed(1, &[none, "--store"]);
    run(&["download", "a/b", "--out", out, "--kubeconfig", none]).failed(1, &[none, "--kubeconfig"]);
    for verb in ["create-token", "accept", "cordon", "drain", "revoke"] {
        run(&["provider", verb, "east", "--kubeconfig", none]).failed(1, &[none, "--kubeconfig"]);
    }
    run(&["hub", "rotate-key", "--state", none]).failed(1, &[none, "--state"]);
    run(&["local", none, "--data", "a=b", "--out", out]).failed(64, &[none]);
    assert!(!dir.path().join("out").exists(), "a command that failed leaves nothing");
}

#[test]
fn the_committed_definitions_are_the_generated_ones() {
    let dir = tempfile::tempdir().unwrap();
    run(&["crd", "--out", dir.path().to_str().unwrap()]).succeeded();
    let mut files = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let file = entry.unwrap();
        let committed =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds").join(file.file_name());
        let same = std::fs::read(file.path()).unwrap() == std::fs::read(&committed).unwrap();
        assert!(same, "{} is out of date: run `make generate`", committed.display());
        files += 1;
    }
    assert!(files >= 4);
    let all = run(&["crd"]).succeeded().stdout;
    assert_eq!(all.matches("\nkind: CustomResourceDefinition").count(), files);
}

#[test]
fn versions_are_told_to_programs_too() {
    let text = run(&["version", "--output", "json"]).succeeded().stdout;
    assert!(text.contains("\"arithmetic\":\"muster.ops/1\""), "{text}");
}

/// SIGKILL, and the same command again: from where the disk had it, to the same bytes.
#[test]
fn a_killed_prepare_goes_on_to_the_same_dataset() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let line = b"In the beginning was the word, and it was long.\n";
    std::fs::write(at("text"), line.repeat((96 << 20) / line.len())).unwrap();
    let prepare =
        |out: &str| ["data", "prepare", &at("text"), "--out", &at(out), "--threads", "2"].map(String::from);
    let state = dir.path().join(".cut.partial/state.json");
    let arguments = prepare("cut");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut child = support::command(&arguments).spawn().unwrap();
    while !state.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before anything was durable");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().unwrap();
    support::end(child);
    assert!(!dir.path().join("cut").exists());
    let again = run(&arguments).succeeded();
    assert!(again.stderr.contains("going on after"), "{again:?}");
    let whole = prepare("whole");
    let whole = run(&whole.iter().map(String::as_str).collect::<Vec<_>>()).succeeded();
    assert_eq!(again.stdout, whole.stdout);
    let same = |name: &str| {
        let read = |out: &str| std::fs::read(dir.path().join(out).join(name)).unwrap();
        assert!(read("cut") == read("whole"), "{name}");
    };
    ["manifest.json", "tokens-00000.bin", "tokens-00001.bin", "tokens-00002.bin"].into_iter().for_each(same);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn a_dataset_is_made_imported_and_listed() {
    let site = Site::new();
    let made = run(&["data", "prepare", &site.at("text"), "--out", &site.at("again")]).succeeded();
    let digest = made.stdout.trim();
    assert!(digest.starts_with("sha256:"), "{made:?}");
    let (set, store) = (site.at("again"), site.at("store"));
    let uid = "11111111-0000-4000-8000-000000000000";
    let import = |name: &str| run(&["data", "import", name, &set, "--store", &store, "--namespace-uid", uid]);
    let imported = import("team-a/tiny").succeeded();
    assert_eq!(imported.stdout.trim(), digest);
    let listed = run(&["data", "list", "--store", &site.at("store")]).succeeded().stdout;
    assert!(listed.contains("team-a     tiny") && listed.contains(digest), "{listed}");
    import("Team/tiny").failed(2, &["Team"]);
    std::fs::write(site.path("again/tokens-00000.bin"), b"xx").unwrap();
    import("team-a/tiny").failed(1, &["tokens-00000.bin"]);
}

/// `muster crd | head` once panicked: the standard library's `println!` does when nobody reads.
#[test]
fn a_reader_that_leaves_is_no_crash() {
    let mut child = support::command(&["crd"]).spawn().unwrap();
    drop(child.stdout.take());
    let ran = support::end(child);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(141), ""));
    let site = Site::new();
    let all = site.local("job.yaml", "out", &["--output", "json"]);
    let mut child = support::command(&all.iter().map(String::as_str).collect::<Vec<_>>()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(support::end(child).code, Some(0));
    assert!(site.path("out/checkpoints/step-00000024").is_dir());
}
