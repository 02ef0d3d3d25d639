//! sentence-transformers, as a child process: the interpreter is the user's, and has torch.
//!
//! One line of JSON for each question and each answer.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Mutex,
};

const PROGRAM: &str = include_str!("sentence_transformers.py");

/// The child.
#[derive(Debug)]
pub struct SentenceTransformers {
    version: String,
    pipes: Mutex<Pipes>,
    _child: Child,
}

#[derive(Debug)]
struct Pipes {
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl SentenceTransformers {
    /// Starts it, with a model's name or folder and the texts of the comparison.
    ///
    /// # Errors
    /// If it does not start, or cannot load the model; what it says is on standard error.
    pub async fn start(python: &Path, model: &str, texts: &[String]) -> anyhow::Result<Self> {
        let what = || format!("--sentence-transformers {}", python.display());
        let mut command = Command::new(python);
        command.args(["-c", PROGRAM, model]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(what)?;
        let stdin = child.stdin.take().context("it is piped")?;
        let lines = BufReader::new(child.stdout.take().context("it is piped")?).lines();
        let mut this = Self { version: String::new(), pipes: Mutex::new(Pipes { stdin, lines }), _child: child };
        this.version = this.ask(&json!({ "texts": texts })).await.with_context(what)?;
        Ok(this)
    }

    /// What it is called in a report.
    #[must_use]
    pub fn name(&self) -> String {
        format!("sentence-transformers {}, in process", self.version)
    }

    async fn ask<T: DeserializeOwned>(&self, question: &Value) -> anyhow::Result<T> {
        let mut pipes = self.pipes.lock().await;
        pipes.stdin.write_all((question.to_string() + "\n").as_bytes()).await?;
        pipes.stdin.flush().await?;
        let Some(line) = pipes.lines.next_line().await? else { bail!("it has ended; its message is above") };
        serde_json::from_str(&line).with_context(|| format!("it answered {line}"))
    }

    /// Embeds all texts in batches of so many, again and again, for at least so long: texts a second.
    ///
    /// # Errors
    /// If it has ended.
    pub async fn rate(&self, batch: usize, duration: Duration) -> anyhow::Result<f64> {
        self.ask(&json!({ "rate": { "batch": batch, "seconds": duration.as_secs_f64() } })).await
    }

    /// Embeds one short text after the other for so long: milliseconds of each.
    ///
    /// # Errors
    /// If it has ended.
    pub async fn lone(&self, text: &str, duration: Duration) -> anyhow::Result<Vec<f64>> {
        self.ask(&json!({ "lone": { "text": text, "seconds": duration.as_secs_f64() } })).await
    }

    /// The vectors of texts.
    ///
    /// # Errors
    /// If it has ended.
    pub async fn vectors(&self, texts: &[String]) -> anyhow::Result<Vec<Vec<f32>>> {
        self.ask(&json!({ "vectors": texts })).await
    }
}
