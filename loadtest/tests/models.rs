//! Variants come and go, and versions are swapped, through the commands that a person uses, with a real worker.

use std::{fs, path::Path, process::Output};

use crate::support::{Stack, embed};
use embed_testkit::{Daemon, sibling_binary, wait_for};
use serde_json::Value;

const MODEL: &str = "all-minilm-l6-v2";

fn run(stack: &Stack, arguments: &str) -> Output {
    embed(&stack.nats).args(arguments.split(' ')).output().unwrap()
}

fn succeed(stack: &Stack, arguments: &str) -> Value {
    let output = run(stack, arguments);
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a worker says of a variant; null if it does not serve it.
fn listed(stack: &Stack, variant: &str) -> Value {
    let list = succeed(stack, "models list --json");
    let variants = list["workers"][0]["variants"].as_array().cloned().unwrap_or_default();
    variants.into_iter().find(|one| one["variant"] == variant).unwrap_or_default()
}

#[test]
fn a_variant_is_served_asked_and_given_up() {
    let stack = Stack::start();
    let served = succeed(&stack, &format!("models serve {MODEL} canary --wait --json"));
    assert_eq!(served["consumers"]["created"].as_array().unwrap().len(), 2, "{served}");
    assert_eq!(served["workers"][0]["progress"]["live"]["version"], "v1.0.0", "{served}");
    assert_eq!(listed(&stack, "canary")["live"]["precision"], "fp32");
    // What a call may have to wait for: `embed-loadtest accept` measures by it.
    assert_eq!(listed(&stack, "canary")["live"]["online_run_us"], 40_000);
    // Calls and jobs reach it.
    let asked = succeed(&stack, "ask --json --variant canary hello");
    assert_eq!((&asked["variant"], &asked["version"]), (&"canary".into(), &"v1.0.0".into()));
    let stored = succeed(&stack, "publish --json --wait --timeout 2m --variant canary hello");
    assert_eq!((&stored["variant"], &stored["space"]), (&"canary".into(), &asked["space"]));
    let space = asked["space"].as_str().unwrap();
    assert_eq!(succeed(&stack, &format!("ask --json --space {space} hello"))["variant"], "fp32");
    let other = run(&stack, "ask --json --space sha256:other hello");
    assert!(!other.status.success() && String::from_utf8_lossy(&other.stderr).contains("other_space"), "{other:?}");

    // A version that does not exist leaves the one that is live, and the reason comes back.
    let missing = run(&stack, &format!("models serve {MODEL} canary --version v9 --wait"));
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(missing.status.code() == Some(1) && said.contains("has no version v9"), "{said}");
    let canary = listed(&stack, "canary");
    assert_eq!((&canary["live"]["version"], &canary["failed"]["version"]), (&"v1.0.0".into(), &"v9".into()));

    // As the default it takes what names no variant, calls and jobs alike.
    succeed(&stack, &format!("models serve {MODEL} canary --default --wait --json"));
    wait_for("the default to move", || (succeed(&stack, "ask --json hello")["variant"] == "canary").then_some(()));
    assert_eq!(succeed(&stack, "publish --json --wait --timeout 2m hello")["variant"], "canary");
    assert!(
        run(&stack, "init --check --ack-wait 2s").status.success(),
        "what is served is as `embed init` would make it"
    );
    assert!(!run(&stack, &format!("models unserve {MODEL} canary")).status.success(), "it needs an heir");
    succeed(&stack, &format!("models unserve {MODEL} canary --default fp32 --json"));
    wait_for("the variant to go", || listed(&stack, "canary").is_null().then_some(()));
    wait_for("the default to come back", || {
        let asked = run(&stack, "ask --json --timeout 60s hello");
        let result: Value = serde_json::from_slice(&asked.stdout).unwrap_or_default();
        (result["variant"] == "fp32").then_some(())
    });
    assert_eq!(succeed(&stack, "publish --json --wait --timeout 2m hello")["variant"], "fp32");
    let gone = run(&stack, "ask --json --variant canary hello");
    assert!(String::from_utf8_lossy(&gone.stderr).contains("unknown_model"), "{gone:?}");
}

/// A registry with two versions of the model, the same but for their names.
fn two_versions(root: &Path) {
    let model = Path::new("models").join(MODEL);
    let source = fs::canonicalize(embed_testkit::registry().join(&model).join("v1.0.0")).unwrap();
    for version in ["v1.0.0", "v1.0.1"] {
        let folder = root.join(&model).join(version);
        fs::create_dir_all(&folder).unwrap();
        for entry in fs::read_dir(&source).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != "metadata.json" {
                embed_testkit::share(&entry.path(), &folder.join(entry.file_name()));
            }
        }
        let mut metadata: Value = serde_json::from_slice(&fs::read(source.join("metadata.json")).unwrap()).unwrap();
        metadata["version"] = version.into();
        fs::write(folder.join("metadata.json"), metadata.to_string()).unwrap();
    }
    fs::write(root.join(model).join("current.json"), r#"{"version": "v1.0.0"}"#).unwrap();
}

#[test]
fn the_cost_of_swaps_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let registry = folder.path().join("registry");
    two_versions(&registry);
    let mut command = std::process::Command::new(sibling_binary("embed"));
    command.args(["dev", "--json", "--port", "0", "--data-dir"]).arg(folder.path().join("dev"));
    command.arg("--registry").arg(&registry).env("NATS_SERVER_BIN", embed_testkit::nats_server_binary());
    // On a busy machine a call may wait long, and is to be answered all the same.
    command.env("EMBED_WORKER__LIMITS__RPC_MAX_WAIT", "1m");
    let dev = Daemon::spawn(&mut command);
    let url = dev.json_line()["nats_url"].as_str().unwrap().to_owned();
    let measure = |more: &[&str]| {
        let mut command = std::process::Command::new(sibling_binary("embed-loadtest"));
        command.args(["swap", "--json", "--server", &url, "--warm-up", "0.2", "--timeout", "60", "--rate", "10"]);
        command.args(["--pause", "0.2", "--quiet", "2", "--registry"]).arg(&registry).args(more).output().unwrap()
    };
    let out = folder.path().join("out");
    let output =
        measure(&["--swaps", "3", "--rollbacks", "2", "--bulk", "--bulk-window", "1", "--out", out.to_str().unwrap()]);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no report: {}", String::from_utf8_lossy(&output.stderr)));
    let swaps = report["swaps"].as_array().unwrap();
    let told: Vec<_> = swaps.iter().map(|swap| (swap["version"].as_str().unwrap(), swap["kept"] == true)).collect();
    // The first has to be loaded; the one before it is kept from then on.
    let (old, new) = (("v1.0.0", true), ("v1.0.1", true));
    assert_eq!(told, [("v1.0.1", false), old, new, old, new]);
    assert!(swaps.iter().all(|swap| swap["live"].as_f64() >= swap["promoted"].as_f64()));
    assert_eq!((&report["answered"], &report["errors"]), (&report["due"], &serde_json::json!({})), "{report}");
    let calls = |phase: &str| report["phases"][phase]["calls"].as_u64().unwrap();
    assert!(calls("without swaps") > 0, "{report}");
    let all: u64 = ["during swaps", "between swaps", "without swaps"].into_iter().map(calls).sum();
    assert_eq!(report["due"], all, "every call is in one phase");
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("From promotion to live"));
    // The pointer is where it was, and knows where it has been.
    let pointer = fs::read(registry.join("models").join(MODEL).join("current.json")).unwrap();
    let pointer: Value = serde_json::from_slice(&pointer).unwrap();
    assert_eq!((&pointer["version"], pointer["history"].as_array().unwrap().len()), (&"v1.0.0".into(), 6));

    let unknown = measure(&["--versions", "v1.0.0,v7"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no version v7; it has v1.0.0, v1.0.1"), "{unknown:?}");
}
