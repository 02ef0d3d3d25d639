//! What a backfill would take, for people.

use std::time::Duration;

use embed_backfill::Estimate;

pub(super) fn describe(estimate: &Estimate) -> String {
    let Estimate { sample, rows, is_counted, is_exact, tokens, rows_per_second, seconds, cost } = estimate;
    let known = |value: Option<u64>, is_so: bool| {
        let about = if is_so { "" } else { "about " };
        value.map_or_else(|| "unknown".to_owned(), |value| format!("{about}{value}"))
    };
    let mut text = format!(
        "estimate from {} rows, of which {} failed; nothing was written\n  rows     {}\n  tokens   {}\n  speed    {rows_per_second:.0} rows/s\n  \
         time     {}",
        sample.rows,
        sample.failed,
        known(*rows, *is_counted),
        known(*tokens, *is_exact),
        match seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds.ceil()).ok()) {
            Some(time) => format!("about {}", humantime::format_duration(time)),
            None => "unknown".to_owned(),
        },
    );
    if let Some(cost) = cost {
        text += &format!("\n  cost     about {cost:.2}");
    }
    text
}

#[cfg(test)]
mod tests {
    use embed_backfill::{Extent, Sampled};

    use super::*;

    #[test]
    fn what_is_not_known_is_said() {
        let sample = Sampled { rows: 100, failed: 1, tokens: 990, timed_rows: 80, seconds: 0.5 };
        let share = |share| Extent { share, ..Extent::default() };
        let text = describe(&Estimate::of(sample, share(Some(0.001)), Some(36.0)));
        for part in
            ["rows     about 100000", "tokens   about 990000", "160 rows/s", "about 10m 25s", "cost     about 6.25"]
        {
            assert!(text.contains(part), "{text}");
        }
        let text = describe(&Estimate::of(sample, share(None), None));
        assert!(
            text.contains("rows     unknown") && text.contains("time     unknown") && !text.contains("cost"),
            "{text}"
        );
        assert!(describe(&Estimate::of(sample, share(Some(1.0)), None)).contains("rows     100\n"));
        let counted = Extent { counted: Some(700), ..share(Some(0.001)) };
        let text = describe(&Estimate::of(sample, counted, None));
        assert!(text.contains("rows     700\n") && text.contains("tokens   about 6930"), "{text}");
    }
}
