//! What `deploy` says how controllers of rollouts are run: the unit's command and the container's, as they stand there.

use std::{process::Command, time::Duration};

use crate::support::{
    command::embed,
    controllers::{config, start},
    fleet::{Fleet, World},
    routed::{alone, settings},
    slug, until,
    variants::Calls,
};
use embed_control::rollout::Rollouts;
use embed_rollout::state::Phase;
use embed_testkit::{Daemon, repository};

/// The program of both.
const PROGRAM: &str = "/usr/local/bin/embed";

/// The arguments of the unit.
fn of_the_unit() -> Vec<String> {
    let unit = std::fs::read_to_string(repository().join("deploy/systemd/embed-rollout.service")).unwrap();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let words: Vec<_> = start.split_whitespace().map(str::to_owned).collect();
    assert_eq!(words[0], PROGRAM);
    words[1..].to_vec()
}

/// The arguments of the container: what follows its image.
fn of_the_container() -> Vec<String> {
    let page = std::fs::read_to_string(repository().join("deploy/docker/README.md")).unwrap().replace("\\\n", " ");
    let run = page.lines().find(|line| line.starts_with("docker run") && line.contains(" rollout ")).unwrap();
    assert!(run.contains(&format!("--entrypoint {PROGRAM} ")), "{run}");
    let words = run.split_whitespace().skip_while(|word| !word.starts_with("akidb-embed-worker:")).skip(1);
    words.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_the_unit_and_the_container_run_carries_rollouts_on_and_lets_go() {
    let (node, client) = alone(&["a", "b"]).await;
    let nodes = [node];
    let _calls = Calls::serve(&client, &[("a", "s"), ("b", "s")]).await;
    let _fleet = Fleet::start(&client, World::default()).await;
    let folder = tempfile::tempdir().unwrap();
    settings(&nodes).write(&folder.path().join("route.toml")).unwrap();
    let rollouts = Rollouts::new(&client);
    let mut long = config();
    long.plan.hold = Duration::from_secs(600);
    rollouts.start(start(long), None).await.unwrap();
    let deployed = |arguments: Vec<String>| -> Command {
        let etc = format!("{}/", folder.path().display());
        // A free port, since others are tested on this machine.
        let here = |word: &String| word.replace("/etc/embed/", &etc).replace(":9465", ":0");
        let arguments: Vec<_> = arguments.iter().map(here).collect();
        let mut command = embed(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        command.env("NATS_URL", &nodes[0].url).env_remove("HOME").current_dir("/");
        command
    };
    for arguments in [of_the_unit(), of_the_container()] {
        assert!(arguments.iter().any(|word| word.ends_with(":9465")), "{arguments:?}");
        let mut controller = Daemon::spawn(&mut deployed(arguments));
        controller.wait_for_log("/metrics");
        // The second does not wait until the first's lease is over, or this would.
        until("it to act", async || {
            let rollout = rollouts.get(&slug("m")).await.unwrap();
            assert!(controller.is_running(), "{}", controller.log());
            rollout.holder.is_some() && matches!(rollout.phase, Phase::Holding(_))
        })
        .await;
        let (status, log) = tokio::task::spawn_blocking(move || controller.terminate()).await.unwrap();
        assert!(status.success(), "{log}");
        assert_eq!(rollouts.get(&slug("m")).await.unwrap().holder, None, "{log}");
    }
}
