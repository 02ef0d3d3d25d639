//! Who is told of a rollout's progress, beside whoever reads standard error: a web hook, and a command at its end.

use std::{process::Stdio, time::Duration};

use anyhow::Context;
use embed_control::rollout::Progress;
use embed_rollout::Rollout;
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    process::Command,
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::JoinHandle,
};

use super::super::print;
use crate::cli::rollout::HookArgs;

/// Longest wait for a web hook, and how often it is tried.
const PATIENCE: Duration = Duration::from_secs(10);
const TRIES: u32 = 3;
/// How long the command at the end may take: what else is told waits for it.
const LONGEST_COMMAND: Duration = Duration::from_secs(30);

/// Tells of what this process's controllers do, one thing after the other.
#[derive(Debug)]
pub(super) struct Hooks {
    sender: UnboundedSender<Rollout>,
    task: JoinHandle<()>,
}

impl Hooks {
    /// # Errors
    /// If the web hook's address makes no sense.
    pub(super) fn start(args: HookArgs) -> anyhow::Result<Self> {
        let hook = args.webhook.map(|url| Webhook::new(&url)).transpose()?;
        let (sender, mut told) = unbounded_channel::<Rollout>();
        let task = tokio::spawn(async move {
            while let Some(rollout) = told.recv().await {
                let body = body(&rollout);
                if let Some(hook) = &hook
                    && let Err(error) = hook.tell(&body).await
                {
                    print::note(format_args!("warning: the web hook was not told: {error:#}"));
                }
                if let Some(command) = args.on_end.as_ref().filter(|_| rollout.outcome().is_some())
                    && let Err(error) = run(command, &rollout, &body).await
                {
                    print::note(format_args!("warning: --on-end: {error:#}"));
                }
            }
        });
        Ok(Self { sender, task })
    }

    /// What a controller has to tell: what it has changed is passed on.
    pub(super) fn hear(&self, progress: &Progress<'_>) {
        if let Progress::Changed(rollout) = progress {
            // If nobody takes it, the process is ending.
            let _ = self.sender.send((*rollout).clone());
        }
    }

    /// Waits until everybody knows.
    pub(super) async fn end(self) {
        drop(self.sender);
        let _ = self.task.await;
    }
}

fn body(rollout: &Rollout) -> Value {
    json!({
        "model": rollout.model, "id": rollout.id, "from": rollout.from, "to": rollout.to, "state": rollout.phase.as_str(),
        "percent": rollout.percent(), "event": rollout.history.last(), "forced": rollout.forced(),
    })
}

#[derive(Debug)]
struct Webhook {
    client: reqwest::Client,
    url: reqwest::Url,
}

impl Webhook {
    fn new(url: &str) -> anyhow::Result<Self> {
        // Another part of the program may have chosen it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = url
            .parse() // It may hold a secret, so it is not repeated.
            .context("--webhook is no address")?;
        let client = reqwest::Client::builder().timeout(PATIENCE).build().context("--webhook")?;
        Ok(Self { client, url })
    }

    async fn tell(&self, body: &Value) -> anyhow::Result<()> {
        let mut tries = 0;
        loop {
            let request = self.client.post(self.url.clone()).header("content-type", "application/json");
            match request.body(body.to_string()).send().await.and_then(reqwest::Response::error_for_status) {
                Ok(_) => return Ok(()),
                // An address may hold a secret.
                Err(error) if tries + 1 >= TRIES => return Err(error.without_url().into()),
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
            tries += 1;
        }
    }
}

/// Runs a command with the rollout in its environment, and on its standard input.
async fn run(command: &str, rollout: &Rollout, body: &Value) -> anyhow::Result<()> {
    let outcome = rollout.outcome().map_or("", |outcome| outcome.as_str());
    let reason = rollout.history.last().map_or("", |event| event.sentence.as_str());
    let mut child = Command::new("sh")
        .args(["-c", command])
        .env("EMBED_ROLLOUT_MODEL", rollout.model.as_str())
        .env("EMBED_ROLLOUT_ID", &rollout.id)
        .env("EMBED_ROLLOUT_OUTCOME", outcome)
        .env("EMBED_ROLLOUT_REASON", reason)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let ends = async {
        if let Some(mut input) = child.stdin.take() {
            // It need not read it.
            let _ = input.write_all(body.to_string().as_bytes()).await;
        }
        child.wait().await
    };
    let status = tokio::time::timeout(LONGEST_COMMAND, ends)
        .await
        .with_context(|| format!("{command:?} was stopped after {LONGEST_COMMAND:?}"))??;
    anyhow::ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_makes_no_sense_is_not_repeated() {
        let error = Webhook::new("hooks.test:secret/path").and_then(|_| Webhook::new("//secret")).unwrap_err();
        assert!(!format!("{error:#}{error:?}").contains("secret"));
    }
}
