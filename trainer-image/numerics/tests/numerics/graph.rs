//! Canonical bytes, digest and layout of the graph.

use muster_numerics::graph::{Graph, Op, StepShape};
use muster_numerics::spec::{Architecture, Arithmetic, LlamaShape, ModelSpec, TiedEmbeddings, digest_text};

fn small() -> ModelSpec {
    ModelSpec {
        architecture: Architecture::Gpt2,
        layers: 1,
        width: 16,
        heads: 2,
        context: 4,
        vocabulary: 8,
        tied_embeddings: TiedEmbeddings::Tied,
        llama: None,
    }
}

fn build(model: &ModelSpec, batch: u64, shards: u64) -> Graph {
    Graph::build(model, StepShape { batch, shards }, Arithmetic::F32Chain).unwrap()
}

/// The digest is part of every job's identity: a change here is a new `ops` version.
#[test]
fn canonical_bytes_are_pinned() {
    let graph = build(&small(), 4, 2);
    let text = String::from_utf8(graph.canonical_bytes()).unwrap();
    assert!(text.is_ascii());
    assert!(
        text.starts_with(concat!(
            r#"{"arithmetic":"f32-chain","batch":4,"context":4,"format":"muster.graph/1","nodes":["#,
            r#"{"inputs":[],"name":"embedding","op":"embedding","output":0,"positions":1,"tokens":0},"#,
            r#"{"bias":3,"inputs":[0],"name":"h.0.ln_1","op":"layer_norm","output":1,"weight":2},"#,
            r#"{"bias":5,"inputs":[1],"name":"h.0.attn.qkv","op":"linear","output":2,"weight":4},"#,
            r#"{"heads":2,"inputs":[2],"kv_heads":2,"name":"h.0.attn","op":"attention","output":3},"#,
        )),
        "{text}"
    );
    assert!(
        text.contains(concat!(
            r#""tail":["reduce","clip","adamw"],"#,
            r#""tensors":[{"init":{"divisor":1,"rule":"normal"},"name":"wte","shape":[8,16]},"#,
        )),
        "{text}"
    );
    assert!(text.ends_with(r#""values":[16,16,48,16,16,16,16,64,64,16,16,16,8,1]}"#), "{text}");
    let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(parsed["nodes"].as_array().unwrap().len(), graph.nodes().len());
    assert_eq!(digest_text(&graph.digest()), PINNED);
}

const PINNED: &str = "sha256:38ff977ef2e155be9adcfd4475ae31334d52524c886e462f8bb1bbaa17c603b5";

#[test]
fn everything_that_matters_is_in_the_digest() {
    let base = build(&small(), 4, 2);
    let mut digests = vec![base.digest()];
    let changed = |f: &dyn Fn(&mut ModelSpec)| {
        let mut model = small();
        f(&mut model);
        build(&model, 4, 2).digest()
    };
    digests.push(changed(&|m| m.layers = 2));
    digests.push(changed(&|m| m.width = 32));
    digests.push(changed(&|m| m.heads = 4));
    digests.push(changed(&|m| m.context = 5));
    digests.push(changed(&|m| m.vocabulary = 9));
    digests.push(changed(&|m| m.tied_embeddings = TiedEmbeddings::Untied));
    digests.push(build(&small(), 8, 2).digest());
    digests.push(build(&small(), 4, 4).digest());
    let n = digests.len();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), n);
}

#[test]
fn tensors_are_in_canonical_order_and_contiguous() {
    let mut model = small();
    model.tied_embeddings = TiedEmbeddings::Untied;
    let graph = build(&model, 4, 2);
    let names: Vec<&str> = graph.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "wte",
            "wpe",
            "h.0.ln_1.weight",
            "h.0.ln_1.bias",
            "h.0.attn.qkv.weight",
            "h.0.attn.qkv.bias",
            "h.0.attn.proj.weight",
            "h.0.attn.proj.bias",
            "h.0.ln_2.weight",
            "h.0.ln_2.bias",
            "h.0.mlp.fc.weight",
            "h.0.mlp.fc.bias",
            "h.0.mlp.proj.weight",
            "h.0.mlp.proj.bias",
            "ln_f.weight",
            "ln_f.bias",
            "head.weight",
        ]
    );
    let mut offset = 0;
    for tensor in graph.tensors() {
        assert_eq!(tensor.offset, offset);
        offset = tensor.range().end;
        assert_eq!(tensor.shape().iter().product::<usize>(), tensor.elements());
        assert_eq!(tensor.decays(), tensor.shape().len() == 2);
    }
    assert_eq!(offset, graph.parameters());
    assert_eq!(graph.tensors()[4].shape(), [48, 16]);
    assert_eq!((graph.context(), graph.vocabulary(), graph.sequences_per_shard()), (4, 8, 2));
}

#[test]
fn a_three_layer_graph_has_no_model_specific_node() {
    let mut model = small();
    model.layers = 3;
    let graph = build(&model, 3, 3); // any S at this level
    assert_eq!(graph.nodes().len(), 1 + 3 * 10 + 3);
    assert!(matches!(graph.nodes().last().map(|n| n.op), Some(Op::CrossEntropy(_))));
}

#[test]
fn impossible_shapes_are_refused() {
    let message = |change: &dyn Fn(&mut ModelSpec), batch, shards| {
        let mut model = small();
        change(&mut model);
        let shape = StepShape { batch, shards };
        Graph::build(&model, shape, Arithmetic::F32Chain).unwrap_err().to_string()
    };
    assert_eq!(message(&|m| m.heads = 3, 4, 2), "model.width: must be a multiple of model.heads");
    assert_eq!(message(&|m| m.layers = 0, 4, 2), "model.layers: must be from 1 to 2^30");
    assert!(message(&|_| {}, 4, 3).starts_with("training.batch: must be a multiple"));
    assert!(message(&|_| {}, 4, 0).starts_with("training.batch: must be a multiple"));
    assert!(message(&|m| (m.width, m.vocabulary) = (1 << 29, 1 << 30), 4, 2).contains("overflow"));
    let llama = |m: &mut ModelSpec, kv_heads, mlp_width| {
        m.architecture = Architecture::Llama;
        m.llama = Some(LlamaShape { kv_heads, mlp_width, rope_base: 10_000 });
    };
    assert_eq!(message(&|m| m.architecture = Architecture::Llama, 4, 2), "model.llama: is missing");
    assert_eq!(message(&|m| llama(m, 3, 16), 4, 2), "layers.0.attn: kv_heads must divide heads");
    assert_eq!(message(&|m| llama(m, 0, 16), 4, 2), "model.llama.kvHeads: must be from 1 to 2^30");
    assert_eq!(
        message(&|m| (llama(m, 1, 16), m.heads = m.width).1, 4, 2),
        "model.width: must be a multiple of 2 * model.heads"
    );
}

#[test]
fn llama_has_its_tensors_in_canonical_order() {
    let mut model = small();
    model.architecture = Architecture::Llama;
    model.tied_embeddings = TiedEmbeddings::Untied;
    model.llama = Some(LlamaShape { kv_heads: 1, mlp_width: 24, rope_base: 10_000 });
    let graph = build(&model, 4, 2);
    let names: Vec<&str> = graph.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names[0], "embed.weight");
    assert_eq!(
        names[1..7],
        [
            "layers.0.attn_norm.weight",
            "layers.0.attn.qkv.weight",
            "layers.0.attn.o.weight",
            "layers.0.mlp_norm.weight",
            "layers.0.mlp.gate_up.weight",
            "layers.0.mlp.down.weight",
        ]
    );
    assert_eq!(names[names.len() - 2..], ["norm.weight", "head.weight"]);
    let (d, head) = (model.width as usize, model.width as usize / model.heads as usize);
    assert_eq!(graph.tensors()[2].shape(), [d + 2 * head, d]);
    assert_eq!(graph.tensors()[5].shape(), [48, d]);
    assert_eq!(graph.tensors()[6].shape(), [d, 24]);
    assert_eq!(graph.nodes().len(), 1 + model.layers as usize * 11 + 3);
    let bytes = String::from_utf8(graph.canonical_bytes()).unwrap();
    assert!(bytes.contains(r#""base":10000,"heads":2,"#) && !bytes.contains("positions"), "{bytes}");
}

/// The arithmetic is part of what a graph is.
#[test]
fn arithmetics_are_different_graphs() {
    let of = |arithmetic| Graph::build(&small(), StepShape { batch: 4, shards: 2 }, arithmetic).unwrap();
    let [chain, exact] = [Arithmetic::F32Chain, Arithmetic::I16Exact].map(of);
    assert_ne!(chain.digest(), exact.digest());
    let text = |graph: &Graph| String::from_utf8(graph.canonical_bytes()).unwrap();
    assert_eq!(text(&chain).replace("f32-chain", "i16-exact"), text(&exact));
}
