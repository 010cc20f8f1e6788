use super::*;

const GOOD: &str = "
apiVersion: muster.dev/v1alpha1
kind: TrainingJob
metadata: {name: tiny, namespace: team-a}
spec:
  model: {architecture: gpt2, layers: 1, width: 16, heads: 1, context: 8, vocabulary: 256}
  data: {dataset: tiny}
  training: {steps: 20, batch: 2, shards: 2}
  workers: {count: 1}
";

fn refused(text: &str) -> String {
    match parse(text.as_bytes(), "job.yaml") {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_good_file_is_read_with_the_defaults_of_the_schema_and_of_the_types() {
    let job = parse(GOOD.as_bytes(), "job.yaml").unwrap();
    let mut object: Value = serde_saphyr::from_str(GOOD).unwrap();
    let by_types: TrainingJob = serde_json::from_value(object.take()).unwrap();
    assert_eq!(job, by_types, "one YAML means the same with an API server and without");
    assert_eq!(job.spec.training.interval_steps, 20);
    assert_eq!(job.spec.training.optimizer.learning_rate, "6e-4");
}

#[test]
fn every_example_is_read() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/examples");
    let mut jobs = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if std::fs::read_to_string(&path).unwrap().contains("kind: TrainingJob") {
            read(&path).unwrap();
            jobs += 1;
        }
    }
    assert!(jobs > 0);
}

#[test]
fn what_kubectl_prints_is_read() {
    let text = format!("{GOOD}status: {{phase: Running, observedGeneration: 1}}\n");
    parse(text.as_bytes(), "job.yaml").unwrap();
}

#[test]
fn a_file_that_is_no_job_says_what_it_is() {
    for (text, want) in [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("---\n---\n", "is empty"),
        ("just words", "not an object"),
        ("[1, 2]", "not an object"),
        ("a: [", "not valid YAML"),
        ("a: 1\na: 2\n", "not valid YAML"),
        ("kind: TrainingJob\n", "apiVersion: must be muster.dev/v1alpha1"),
        ("apiVersion: muster.dev/v1alpha1\nkind: Pod\n", "kind: must be TrainingJob, is \"Pod\""),
    ] {
        let error = refused(text);
        assert!(error.contains("job.yaml") && error.contains(want), "{text:?}: {error}");
    }
    let two = format!("{GOOD}---{GOOD}");
    assert!(refused(&two).contains("more than one document"));
    let binary = parse(&[0x7f, b'E', b'L', b'F', 0xff, 0xfe], "job.yaml").unwrap_err().to_string();
    assert!(binary.contains("not a text file"), "{binary}");
    let nul = refused("a: \0\0\0");
    assert!(nul.contains("job.yaml"), "{nul}");
}

#[test]
fn deep_and_repeating_files_are_refused_quickly() {
    let deep = "[".repeat(100_000);
    assert!(refused(&deep).contains("not valid YAML"));
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let list = vec![format!("*a{}", i - 1); 10].join(", ");
        laughs += &format!("a{i}: &a{i} [{list}]\n");
    }
    assert!(refused(&laughs).contains("not valid YAML"));
}

#[test]
fn a_huge_file_is_refused_before_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge.yaml");
    std::fs::File::create(&path).unwrap().set_len(10 << 30).unwrap();
    assert!(read(&path).unwrap_err().to_string().contains("huge.yaml"));
}

#[test]
fn problems_name_the_field() {
    for (from, to, want) in [
        ("metadata: {name: tiny, namespace: team-a}", "", "metadata.name: Required value"),
        ("name: tiny,", "name: Tiny_1,", "metadata.name: Invalid value"),
        ("steps: 20", "stesp: 20", "spec.training.stesp: unknown field; did you mean \"steps\"?"),
        ("steps: 20", "stesp: 20", "spec.training.steps: Required value"),
        ("layers: 1", "layers: one", "spec.model.layers: Invalid value: \"one\": must be of type integer"),
        ("layers: 1", "layers: 1.5", "spec.model.layers"),
        ("layers: 1", "layers: null", "spec.model.layers: Invalid value: null"),
        (
            "layers: 1",
            "layers: 999",
            "spec.model.layers: Invalid value: 999: should be less than or equal to 256",
        ),
        ("gpt2", "gpt3", "spec.model.architecture: Unsupported value: \"gpt3\""),
        (
            "steps: 20",
            "steps: 20, optimizer: {beta1: 0.9}",
            "must be of type string: \"number\"; put it in quotes",
        ),
        ("shards: 2", "shards: 3", "spec.training.shards: Invalid value: must be a power of two"),
        ("batch: 2", "batch: 3", "spec.training.batch: Invalid value: must be divisible by shards"),
        ("count: 1", "count: 4", "spec.workers.count: Invalid value"),
        ("dataset: tiny", "dataset: a/b", "spec.data.dataset: Invalid value: \"a/b\": should match"),
        ("count: 1", "count: 1, resources: {cpu: [1]}", "spec.workers.resources.cpu: Invalid value"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let error = refused(&GOOD.replacen(from, to, 1));
        assert!(error.contains(want), "{from} -> {to}: {error}");
    }
}

/// The corpus of bad objects that a real API server refuses: without one they are refused too, for the same fields.
/// Cases about status or about changes of an object are not a file's business.
#[test]
fn the_corpus_is_refused() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/api/tests/corpus/trainingjob");
    let Ok(entries) = std::fs::read_dir(dir) else {
        println!("SKIP the_corpus_is_refused: operator/api/tests/corpus is not there");
        return;
    };
    let mut refused_cases = 0;
    for entry in entries {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let expected: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("# expect: ")).collect();
        let about_status = expected.iter().any(|e| e.contains("status"));
        if about_status || text.contains("\n---\n") {
            continue;
        }
        let error = refused(&text);
        for want in expected {
            // `spec.training.batch: Invalid value` -> the path; words after it are the API server's own.
            let field = want.split(':').next().unwrap();
            if field.starts_with("spec.") || field.starts_with("metadata.") {
                assert!(error.contains(field), "{}: {field} not in {error}", path.display());
            }
        }
        refused_cases += 1;
    }
    assert!(refused_cases >= 40, "{refused_cases}");
}
