//! The engine alone on texts of the same corpus: what the whole way is compared with.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{corpus::Corpus, stack::Setting};

/// A sample of a corpus for the engine alone.
#[derive(Debug)]
pub(super) struct Sample(PathBuf);

impl Sample {
    /// Takes texts from all over the corpus.
    pub(super) fn take(corpus: &Corpus, texts: u64, folder: &Path) -> anyhow::Result<Self> {
        let ids: Vec<u64> = corpus.ids().collect();
        let step = (ids.len() / usize::try_from(texts)?.max(1)).max(1);
        let rows = ids.iter().step_by(step).map(|id| json!({ "text": corpus.row(*id).text }).to_string() + "\n");
        let path = folder.join("sample.jsonl");
        std::fs::write(&path, rows.collect::<String>())?;
        Ok(Self(path))
    }

    /// Texts a second of `embed-loadtest bench`, perfectly sorted, in a process of its own, configured as a worker is.
    pub(super) fn measure(&self, setting: &Setting) -> anyhow::Result<f64> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "--json", "--registry", &setting.registry, "--model", setting.model.as_str()]);
        command.args(setting.precision.iter().flat_map(|precision| ["--precision", precision.as_str()]));
        command.args(["--mix", "none", "--mix-rounds", "1", "--batch", "1", "--length", "16", "--texts"]).arg(&self.0);
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "the engine alone cannot be measured; the reason is above");
        let report: Value = serde_json::from_slice(&output.stdout)?;
        let sorted = &report["mixes"][0]["arms"][0];
        ensure!(sorted["order"] == "sorted", "the bench lacks the sorted order: {sorted}");
        sorted["texts_per_second"].as_f64().context("the bench lacks a speed")
    }
}
