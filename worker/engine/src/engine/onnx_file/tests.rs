//! Files as no exporter would write them.

use std::{fs::File, io::Write};

use proptest::prelude::*;

use super::{FileError, FileSource, check, inspect};

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn number(field: u64, value: u64) -> Vec<u8> {
    let mut message = Vec::new();
    varint(&mut message, field << 3);
    varint(&mut message, value);
    message
}

fn bytes(field: u64, content: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    varint(&mut message, field << 3 | 2);
    varint(&mut message, content.len() as u64);
    [message.as_slice(), content].concat()
}

/// A message within others, the innermost first.
fn within(path: &[u64], content: Vec<u8>) -> Vec<u8> {
    path.iter().fold(content, |content, field| bytes(*field, &content))
}

fn tensor(name: &str, dimensions: &[u64]) -> Vec<u8> {
    let dimensions = dimensions.iter().flat_map(|dimension| number(1, *dimension));
    [dimensions.collect(), number(2, 1), bytes(8, name.as_bytes()), bytes(9, &[0; 8])].concat()
}

/// A tensor that says that it is elsewhere.
fn external() -> Vec<u8> {
    let entry = [bytes(1, b"location"), bytes(2, b"../../etc/passwd")].concat();
    [tensor("weights", &[2]), bytes(13, &entry), number(14, 1)].concat()
}

fn refusal(file: &[u8]) -> String {
    inspect(&mut &*file).expect_err("it is refused").to_string()
}

/// Every place of a file where a tensor may be.
const TENSORS: [&[u8]; 9] = [
    // The graph's own, and those of its nodes' attributes: one, many, sparse.
    &[5, 7],
    &[5, 5, 1, 7],
    &[10, 5, 1, 7],
    &[1, 22, 5, 1, 7],
    &[2, 15, 7],
    // In a graph that an attribute holds, and in one in that.
    &[5, 6, 5, 1, 7],
    &[5, 11, 5, 1, 6, 5, 1, 7],
    // In a function, and in what trains.
    &[5, 5, 7, 25],
    &[5, 1, 20],
];

fn path(place: &[u8]) -> Vec<u64> {
    place.iter().map(|field| u64::from(*field)).collect()
}

#[test]
fn a_tensor_in_another_file_is_refused_wherever_it_stands() {
    for place in TENSORS {
        let said = refusal(&within(&path(place), external()));
        assert!(said.contains("\"weights\" is in another file") && said.contains("SHA-256"), "{place:?}: {said}");
        assert!(inspect(&mut within(&path(place), tensor("weights", &[2])).as_slice()).is_ok(), "{place:?}");
    }
    // Half of it, in any order, and taken back afterwards.
    for said in [
        number(14, 1),
        number(14, 1 << 32 | 1),
        bytes(13, b""),
        [number(14, 1), number(14, 0)].concat(),
        [number(14, 0), bytes(13, b"\x0A\x01x")].concat(),
    ] {
        let file = within(&[5, 7], [said.clone(), tensor("t", &[1])].concat());
        assert!(refusal(&file).contains("in another file"), "{said:?}");
    }
    // A message that comes twice is both together.
    let twice = [within(&[5, 7], tensor("t", &[1])), within(&[5, 7], external())].concat();
    assert!(refusal(&twice).contains("in another file"));
}

#[test]
fn nodes_that_lead_elsewhere_are_refused() {
    for node in ["EPContext", "PythonOp", "ATen"] {
        for place in [&[4, 1, 7][..], &[4, 1, 6, 5, 1, 7], &[4, 7, 25]] {
            assert!(refusal(&within(place, node.into())).contains(node), "{place:?}");
        }
    }
    assert!(inspect(&mut within(&[4, 1, 7], "MatMul".into()).as_slice()).is_ok());
    let property = [bytes(1, b"ort_config"), bytes(2, b"{}")].concat();
    assert!(refusal(&bytes(14, &property)).contains("ort_config"));
    // ONNX Runtime goes by the mark at byte 4, whatever else the file is.
    assert!(refusal(&[number(1, 9), bytes(2, b"ORTM")].concat()).contains("own format"));
}

#[test]
fn what_has_no_end_is_refused() {
    let deep = (0..40).fold(Vec::new(), |graph, _| within(&[6, 5, 1], graph));
    assert!(matches!(inspect(&mut bytes(7, &deep).as_slice()), Err(FileError::TooDeep)));
    // Nodes without anything take hundreds of bytes each once they are read.
    let many = bytes(7, &[0x0A, 0].repeat(17 << 20));
    assert!(matches!(inspect(&mut many.as_slice()), Err(FileError::TooMuch)));
    // As much as weights is nothing unusual.
    let weights = within(&[5, 7], bytes(9, &vec![0; 40 << 20]));
    assert!(inspect(&mut weights.as_slice()).is_ok());
}

fn metadata() -> embed_schemas::ModelMetadata {
    let version = embed_testkit::registry().join("models/all-minilm-l6-v2/v1.0.0");
    serde_json::from_slice(&std::fs::read(version.join("metadata.json")).unwrap()).unwrap()
}

#[test]
fn quantization_that_goes_by_the_batch_is_found_wherever_it_stands() {
    // In the graph, in a branch of it, in a function.
    for place in [&[4u64, 1, 7][..], &[4, 1, 6, 5, 1, 7], &[4, 7, 25]] {
        let dependent = |operator: &str| {
            let file = place.iter().fold(operator.as_bytes().to_vec(), |content, field| bytes(*field, &content));
            inspect(&mut file.as_slice()).unwrap().batch_dependent
        };
        assert!(dependent("DynamicQuantizeLinear") && dependent("DynamicQuantizeMatMul"), "{place:?}");
        assert!(!dependent("QuantizeLinear") && !dependent("MatMulInteger"), "{place:?}");
    }
}

#[test]
fn a_table_of_positions_bounds_the_length() {
    let mut metadata = metadata();
    for name in ["embeddings/position.weight", "model.embeddings.position_embeddings.weight"] {
        let file = within(&[5, 7], tensor(name, &[300, 4]));
        metadata.max_seq_length = 300;
        assert_eq!(check(file.as_slice(), &metadata).unwrap().positions, Some(300));
        metadata.max_seq_length = 301;
        let said = check(file.as_slice(), &metadata).unwrap_err().to_string();
        assert!(said.contains("`max_seq_length` is 301") && said.contains("300 positions"), "{said}");
    }
    let other = within(&[5, 7], tensor("encoder.relative_attention_bias.weight", &[32, 12]));
    assert!(check(other.as_slice(), &metadata).is_ok());
}

#[test]
fn the_real_graph_passes_and_says_what_it_has() {
    let file = embed_testkit::registry().join("models/all-minilm-l6-v2/v1.0.0/fp32.onnx");
    let facts = check(FileSource::new(File::open(&file).unwrap()).unwrap(), &metadata()).unwrap();
    assert_eq!((facts.positions, facts.vocabulary), (Some(512), Some(30_522)));
    assert_eq!(inspect(&mut std::fs::read(file).unwrap().as_slice()).unwrap(), facts);
}

/// A node of the worker's own operators.
fn own(operator: &str, inputs: &[&str], outputs: &[&str]) -> Vec<u8> {
    let names = |field, all: &[&str]| all.iter().flat_map(|name| bytes(field, name.as_bytes())).collect::<Vec<_>>();
    [names(1, inputs), names(2, outputs), bytes(4, operator.as_bytes()), bytes(7, b"ai.akidb")].concat()
}

fn graph(nodes: &[Vec<u8>]) -> Vec<u8> {
    bytes(7, &nodes.iter().flat_map(|node| bytes(1, node)).collect::<Vec<_>>())
}

/// An encoder without layers, but for its attention.
fn encoder() -> [Vec<u8>; 5] {
    [
        own("Embed", &["ids", "mask", "words", "places", "scale", "shift"], &["states", "starts", "tiles"]),
        own("Linear", &["states", "weight", "bias"], &["projected"]),
        own("Attend", &["projected", "tiles"], &["attended"]),
        own("AddNorm", &["attended", "states", "scale", "shift"], &["normed"]),
        own("Pool", &["normed", "starts"], &["embedding"]),
    ]
}

#[test]
fn own_operators_read_only_where_embed_says() {
    let sound = inspect(&mut graph(&encoder()).as_slice()).unwrap();
    assert!(sound.own_operators && !inspect(&mut within(&[4, 1, 7], "Pool".into()).as_slice()).unwrap().own_operators);
    let long = "x".repeat(600);
    let second = own("EmbedQuantize", &["ids"], &["states2", "starts2", "tiles2", "quantized"]);
    for (at, node, said) in [
        (
            2,
            own("Attend", &["projected", "mine"], &["attended"]),
            "takes \"mine\" as input 1, which has to be the tiles",
        ),
        (2, own("AttendQuantize", &["projected", "starts"], &["attended"]), "has to be the tiles"),
        (2, own("Attend", &["projected"], &["attended"]), "takes \"\" as input 1"),
        (2, own("Attend", &["mine", "tiles"], &["attended"]), "takes \"mine\" as input 0, which has to be states"),
        (4, own("Pool", &["normed", "tiles"], &["embedding"]), "has to be the starts"),
        (4, own("Pool", &["weight", "starts"], &["embedding"]), "takes \"weight\" as input 0"),
        (1, own("Linear", &["weight", "weight", "bias"], &["projected"]), "which has to be states"),
        (3, own("AddNorm", &["attended", "mine", "scale", "shift"], &["normed"]), "takes \"mine\" as input 1"),
        (1, second, "is the second that says where texts are"),
        (1, own("Linear", &["states", "weight", "bias"], &["tiles"]), "gives out \"tiles\" again"),
        (1, own("Nonlinear", &["states"], &["projected"]), "is not known"),
        (2, own("Attend", &["projected", &long], &["attended"]), "a name of more than 512 bytes"),
        // The last of several names counts, as for protobuf.
        (2, [bytes(7, b""), own("Attend", &["projected", "mine"], &["attended"])].concat(), "has to be the tiles"),
    ] {
        let mut nodes = encoder();
        nodes[at] = node;
        let refused = refusal(&graph(&nodes));
        assert!(refused.contains("of ai.akidb") && refused.contains(said), "{said}: {refused}");
    }
    // A graph that comes in two parts is both together; what is called like an output of `Embed` in another domain is none.
    let parts = encoder();
    assert!(inspect(&mut [graph(&parts[2..]), graph(&parts[..2])].concat().as_slice()).is_ok());
    let other = [own("Embed", &[], &["states", "starts", "tiles"]), bytes(7, b"other")].concat();
    assert!(refusal(&graph(&[[other].as_slice(), &parts[1..]].concat())).contains("of ai.akidb"));
}

#[test]
fn own_operators_stand_in_the_graph_itself() {
    // In a branch, in a function, in what trains.
    for place in [&[1_u64, 6, 5, 1, 7][..], &[1, 11, 5, 1, 7], &[7, 25], &[1, 1, 20]] {
        let [embed, ..] = encoder();
        let said = refusal(&within(place, embed));
        assert!(said.contains("is in a function, or in a graph within the graph"), "{place:?}: {said}");
    }
    let function = [bytes(1, b"Embed"), bytes(10, b"ai.akidb")].concat();
    assert!(refusal(&[graph(&encoder()), bytes(25, &function)].concat()).contains("is a function of the graph's"));
}

#[test]
fn what_the_pipeline_writes_of_own_operators_passes() {
    let models = embed_testkit::repository().join("deploy/models");
    let script = "import sys, test_kernels as t\n\
        calibration = t.calibrate(t.tiny_checkpoint(), t.random_sequences(64), threads=1, seed=0)\n\
        for i, model in enumerate([t.in_fp16(), t.in_fp16('cls'), t.in_fp8(t.plan_of(calibration))]):\n\
        \x20open(f'{sys.argv[1]}/{i}.onnx', 'wb').write(model.SerializeToString())";
    let folder = tempfile::tempdir().unwrap();
    let mut python = std::process::Command::new(embed_testkit::repository().join(".venv/bin/python"));
    let path = std::env::join_paths([models.clone(), models.join("tests")]).unwrap();
    let ran = python.args(["-c", script]).arg(folder.path()).env("PYTHONPATH", path).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    for i in 0..3 {
        let model = std::fs::read(folder.path().join(format!("{i}.onnx"))).unwrap();
        assert!(inspect(&mut model.as_slice()).unwrap().own_operators, "{i}");
    }
}

/// Messages of the fields that are looked into, of others, and of none.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![1_u64..27, any::<u32>().prop_map(|field| u64::from(field >> 3).max(1))];
    let leaf = prop::collection::vec(any::<u8>(), 0..12);
    leaf.prop_recursive(6, 64, 5, move |inner| {
        let part = prop_oneof![
            3 => (field.clone(), inner).prop_map(|(field, content)| bytes(field, &content)),
            1 => (field.clone(), any::<u64>()).prop_map(|(field, value)| number(field, value)),
        ];
        prop::collection::vec(part, 0..5).prop_map(|parts| parts.concat())
    })
}

proptest! {
    #[test]
    fn whatever_it_is_the_answer_is_the_same_in_memory_and_on_disk(file in message(), cut in 0_usize..40) {
        let file = &file[..file.len().saturating_sub(cut)];
        let mut disk = tempfile::tempfile().unwrap();
        disk.write_all(file).unwrap();
        let from_disk = inspect(&mut FileSource::new(disk).unwrap());
        prop_assert_eq!(format!("{:?}", inspect(&mut &*file)), format!("{from_disk:?}"));
    }

    /// Beside anything else, as long as it can be read at all.
    #[test]
    fn what_is_external_is_found_beside_anything(before in message(), after in message(), place in 0_usize..TENSORS.len()) {
        // What has no end takes what comes behind it for its own.
        if matches!(inspect(&mut before.as_slice()), Err(FileError::Malformed(_))) {
            return Ok(());
        }
        let file = [before, within(&path(TENSORS[place]), external()), after].concat();
        prop_assert!(inspect(&mut file.as_slice()).is_err());
    }
}
