//! A shadow as a part of the page about its rollout. Pure.

use embed_report::{Axis, Block, Plot, PlotKind, Section, Series, Table};
use embed_rollout::{
    Finding, Rollout,
    shadow::{ShadowReason, ShadowRecord},
};
use embed_schemas::{
    Lane,
    shadow::{ShadowCell, ShadowText, cosine_of, describe_length},
};

use super::clock;

pub(super) fn section(rollout: &Rollout, shadow: &ShadowRecord) -> Section {
    let ShadowRecord { stage, when_ms, counts, verdict, .. } = shadow;
    let list = |versions: &std::collections::BTreeSet<String>| versions.iter().cloned().collect::<Vec<_>>().join(", ");
    let about = format!(
        "From {} to {} UTC, {} % of the texts that {} ({}) served were given to {} ({}) as well. Texts of {} requests were compared, of {} dropped. No \
         caller got any of it.",
        clock(stage.from_ms),
        clock(*when_ms),
        rollout.config.shadow.share,
        rollout.from,
        list(&stage.versions.from),
        rollout.to,
        list(&stage.versions.to),
        counts.requests,
        counts.dropped,
    );
    let cells = Table {
        head: ["lane", "length", "texts", "mean cosine", "1 % are below", "smallest", "failed"]
            .map(str::to_owned)
            .into(),
        rows: counts.cells.iter().map(cell).collect(),
    };
    let worst = Table {
        head: ["cosine", "lane", "tokens", "request", "text"].map(str::to_owned).into(),
        rows: counts.worst.iter().map(text).collect(),
    };
    let reason = |reason: &ShadowReason| vec![format!("{:?}", reason.finding).to_lowercase(), reason.sentence.clone()];
    let mut reasons: Vec<&ShadowReason> = verdict.reasons.iter().collect();
    reasons.sort_by_key(|reason| reason.finding != Finding::Fail);
    let findings = Table {
        head: ["finding", "in words"].map(str::to_owned).into(),
        rows: reasons.into_iter().map(reason).collect(),
    };
    Section {
        title: format!("Shadow {}", stage.number),
        blocks: vec![
            Block::Text(about),
            Block::Text(verdict.sentence.clone()),
            Block::Plot(plot(&counts.cells)),
            Block::Table(cells),
            Block::Text("The texts whose vectors are farthest apart:".to_owned()),
            Block::Table(worst),
            Block::Table(findings),
        ],
    }
}

fn cell(cell: &ShadowCell) -> Vec<String> {
    let cosine = |distance: Option<f64>| distance.map(|d| format!("{:.4}", cosine_of(d))).unwrap_or_default();
    let errors: Vec<String> = cell.errors.iter().map(|(code, n)| format!("{code} {n}")).collect();
    vec![
        cell.lane.to_string(),
        describe_length(cell.tokens),
        (cell.distance.count() + cell.failed()).to_string(),
        cosine(cell.distance.mean_variance().map(|(mean, _)| mean)),
        cosine(cell.distance.quantile(0.99)),
        cosine(cell.distance.quantile(1.0)),
        errors.join(", "),
    ]
}

fn text(text: &ShadowText) -> Vec<String> {
    vec![
        format!("{:.4}", text.cosine),
        text.lane.to_string(),
        text.tokens.to_string(),
        text.request.clone(),
        text.text.clone().unwrap_or_else(|| format!("SHA-256 {}…", text.digest)),
    ]
}

/// The mean distance of each length, a line for each lane.
fn plot(cells: &[ShadowCell]) -> Plot {
    let series = |lane: Lane| {
        let of_lane = cells.iter().filter(|cell| cell.lane == lane);
        let point = |cell: &ShadowCell| {
            let (mean, _) = cell.distance.mean_variance()?;
            Some((f64::from(cell.tokens), 1.0 - cosine_of(mean)))
        };
        Series { name: lane.to_string(), points: of_lane.filter_map(point).collect() }
    };
    let series = Lane::ALL.map(series).into_iter().filter(|series| !series.points.is_empty()).collect();
    Plot {
        title: "How far vectors are apart".to_owned(),
        x: Axis { label: "tokens, up to".to_owned(), log: true },
        y: Axis { label: "1 less the mean cosine".to_owned(), log: false },
        series,
        kind: PlotKind::Line,
    }
}
