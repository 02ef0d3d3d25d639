//! What a bench came to, for programs and for people.

use std::fmt;

use embed_engine::settings::Devices;
use embed_report::{Table, significant};
use embed_schemas::model::GraphForm;
use serde::Serialize;

use super::{
    machine::Machine,
    matrix::Cell,
    mix::{ARRIVAL_BATCH, MixRow},
    planner_cost::PlannerCost,
    subject::Subject,
    tokenizing::TokenizeRow,
};

/// The format's name and version.
pub(super) const SCHEMA: &str = "akidb-embed/bench/1";

/// The title of the planner's table.
pub(super) const PLANNER_TITLE: &str = "The planner alone";

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Parameters {
    /// Batches that ran at the same time, on each device if there are any.
    pub(super) runners: usize,
    /// The devices, as configured.
    pub(super) devices: Option<Devices>,
    /// Sessions on each, which its runners shared.
    pub(super) sessions: Option<usize>,
    /// Threads of each.
    pub(super) threads_per_runner: usize,
    /// Least time of a cell of the matrix.
    pub(super) seconds_per_cell: f64,
    /// Texts in a run of the matrix.
    pub(super) batch: Vec<usize>,
    /// Tokens in a text of the matrix.
    pub(super) length: Vec<usize>,
    /// How often the orders of a mix took turns.
    pub(super) mix_rounds: usize,
    /// The token budget of a batch in the mixes.
    pub(super) max_tokens: usize,
    /// Most texts of a batch in the mixes.
    pub(super) max_texts: usize,
    /// Texts that wait in the planner.
    pub(super) window: usize,
    /// Chooses the tokens and the texts.
    pub(super) seed: u64,
}

/// All figures.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    /// [`SCHEMA`].
    pub(super) schema: &'static str,
    /// This program's version.
    pub(super) program: &'static str,
    /// What was asked for.
    pub(super) parameters: Parameters,
    /// Where.
    pub(super) machine: Machine,
    /// Full batches of one shape.
    pub(super) matrix: Vec<Cell>,
    /// Texts of many lengths.
    pub(super) mixes: Vec<MixRow>,
    /// Tokenizing without an engine.
    pub(super) tokenizing: Vec<TokenizeRow>,
    /// The planner without an engine.
    pub(super) planner: Vec<PlannerCost>,
}

impl Report {
    /// What has figures, in the order in which it was measured.
    pub(super) fn subjects(&self) -> Vec<&Subject> {
        let measured = self.matrix.iter().map(|cell| &cell.subject).chain(self.mixes.iter().map(|row| &row.subject));
        let mut subjects = Vec::new();
        for subject in measured {
            if !subjects.contains(&subject) {
                subjects.push(subject);
            }
        }
        subjects
    }

    /// What one should know before one looks at the figures.
    pub(super) fn facts(&self) -> Vec<(String, String)> {
        let Self { machine, parameters, .. } = self;
        let threads = parameters.threads_per_runner;
        let runners = match (&parameters.devices, parameters.sessions) {
            (Some(devices), Some(sessions)) => {
                format!("{} on each of the devices {devices}, {sessions} session(s) each", parameters.runners)
            }
            _ => format!("{} with {threads} thread(s) each", parameters.runners),
        };
        let load = machine.load_average.map_or_else(|| "unknown".to_owned(), |load| format!("{load:.2}"));
        [
            ("processor", format!("{}, {} cores", machine.cpu, machine.cores)),
            ("kernel", machine.kernel.clone()),
            ("load average before", load),
            ("devices", if machine.devices.is_empty() { "none".to_owned() } else { machine.devices.join(", ") }),
            ("ONNX Runtime", machine.onnxruntime.clone()),
            ("embed-loadtest", self.program.to_owned()),
            ("runners", runners),
            ("budget of a batch", format!("{} tokens, {} texts", parameters.max_tokens, parameters.max_texts)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// The matrix, the mixes, tokenizing and the planner's cost; what was not measured is left out.
    pub(super) fn tables(&self) -> Vec<(String, Table)> {
        let tables = [self.matrix_table(), self.mix_table(), self.tokenize_table(), self.planner_table()];
        tables.into_iter().filter(|(_, table)| !table.rows.is_empty()).collect()
    }

    fn matrix_table(&self) -> (String, Table) {
        let head = [
            "model",
            "precision",
            "provider",
            "form",
            "batch",
            "length",
            "texts/s",
            "tokens/s",
            "p50 ms",
            "p95 ms",
            "runs",
        ];
        let mut table = Table::new(&head);
        for cell in &self.matrix {
            table.row([
                cell.subject.model.to_string(),
                cell.subject.precision.to_string(),
                cell.subject.provider.to_string(),
                if cell.subject.form == GraphForm::Packed { "packed" } else { "padded" }.to_owned(),
                cell.batch.to_string(),
                cell.length.to_string(),
                number(cell.texts_per_second),
                number(cell.tokens_per_second),
                number(cell.p50_ms),
                number(cell.p95_ms),
                cell.runs.to_string(),
            ]);
        }
        ("Full batches of one length".to_owned(), table)
    }

    fn mix_table(&self) -> (String, Table) {
        let title = format!(
            "Texts of many lengths: sorted by length; through the planner, {} waiting; in order of arrival, {ARRIVAL_BATCH} a batch",
            self.parameters.window
        );
        let head = [
            "model",
            "precision",
            "provider",
            "mix",
            "tokens",
            "order",
            "texts/s",
            "tokens/s",
            "real",
            "batches",
            "packed",
            "ratio",
        ];
        let mut table = Table::new(&head);
        for row in &self.mixes {
            for arm in &row.arms {
                table.row([
                    row.subject.model.to_string(),
                    row.subject.precision.to_string(),
                    row.subject.provider.to_string(),
                    row.mix.to_owned(),
                    number(row.mean_tokens),
                    arm.order.as_str().to_owned(),
                    number(arm.texts_per_second),
                    number(arm.tokens_per_second),
                    format!("{:.0} %", arm.real_share * 100.0),
                    arm.batches.to_string(),
                    format!("{:.0} %", arm.packed_share * 100.0),
                    row.ratio(arm.order),
                ]);
            }
        }
        (title, table)
    }

    fn tokenize_table(&self) -> (String, Table) {
        let title = "Tokenizing: one thread, by the worker and by the library alone; several threads; threads that the engine needs";
        let head = ["model", "mix", "tokens", "texts/s", "library", "ratio", "threads: texts/s", "for the engine"];
        let mut table = Table::new(&head);
        for row in &self.tokenizing {
            let pools = row.pools.iter().map(|pool| format!("{}: {}", pool.threads, number(pool.texts_per_second)));
            table.row([
                row.model.to_string(),
                row.mix.to_owned(),
                number(row.mean_tokens),
                number(row.texts_per_second),
                number(row.library_texts_per_second),
                format!("{:.1} x", row.texts_per_second / row.library_texts_per_second),
                pools.collect::<Vec<_>>().join(", "),
                self.fastest(row).map_or_else(|| "-".to_owned(), |speed| number(row.threads_for(speed))),
            ]);
        }
        (title.to_owned(), table)
    }

    /// The most texts a second that an engine took of a model and mix, of all graphs and orders.
    fn fastest(&self, of: &TokenizeRow) -> Option<f64> {
        let rows = self.mixes.iter().filter(|row| row.subject.model == of.model && row.mix == of.mix);
        rows.flat_map(|row| &row.arms).map(|arm| arm.texts_per_second).max_by(f64::total_cmp)
    }

    fn planner_table(&self) -> (String, Table) {
        let mut table = Table::new(&["waiting", "µs/text", "texts/batch"]);
        for cost in &self.planner {
            table.row([cost.waiting.to_string(), number(cost.us_per_text), number(cost.texts_per_batch)]);
        }
        (PLANNER_TITLE.to_owned(), table)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.facts() {
            writeln!(f, "{name:<20} {value}")?;
        }
        for (title, table) in self.tables() {
            write!(f, "\n{title}\n{}", table.aligned())?;
        }
        Ok(())
    }
}

/// A figure in a table.
fn number(value: f64) -> String {
    significant(value, 3)
}
