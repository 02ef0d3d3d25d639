//! Makes the judgement out of the groups' and what else there is to say.

use embed_schemas::shadow::ShadowCounts;

use super::{
    group::Group,
    settings::Shadow,
    verdict::{Aspect, ShadowReason, ShadowVerdict},
};
use crate::verdict::{Decision, Finding, Pace};

/// Reasons that a sentence names.
const MOST_NAMED: usize = 4;

/// Decides. `over`: the time of the shadow has passed, and nothing more will come. The same arguments give the same verdict.
#[must_use]
pub fn judge(settings: &Shadow, counts: &ShadowCounts, over: bool) -> ShadowVerdict {
    let groups = Group::all(counts);
    let mut reasons: Vec<ShadowReason> = groups.iter().flat_map(|group| group.judge(settings, over)).collect();
    reasons.push(speed(settings, counts, over));
    let failing = failing(&reasons);
    let texts = groups.last().map_or(0, Group::texts);
    let (decision, sentence) = if !failing.is_empty() {
        (Decision::RollBack, format!("no caller has seen a vector of it: {}", failing.join("; ")))
    } else if !over {
        (Decision::Hold, format!("{texts} texts were compared so far"))
    } else if let Some(lacking) = lacking(settings, &groups, counts) {
        reasons.push(lacking.clone());
        (Decision::Pause, lacking.sentence)
    } else {
        (Decision::Promote { pace: Pace::NextStep }, passed(settings, &groups, &reasons))
    };
    ShadowVerdict { decision, sentence, reasons }
}

/// What failed: where, as closely as is known. A length, or all texts, fail with a lane and length that does.
fn failing(reasons: &[ShadowReason]) -> Vec<String> {
    let fails: Vec<&ShadowReason> = reasons.iter().filter(|reason| reason.finding == Finding::Fail).collect();
    let closer = |reason: &ShadowReason| {
        let within = |other: &&&ShadowReason| {
            other.aspect == reason.aspect
                && (reason.tokens.is_none() || other.tokens == reason.tokens)
                && (other.tokens.is_some(), other.lane.is_some()) > (reason.tokens.is_some(), reason.lane.is_some())
        };
        fails.iter().any(|other| within(&other))
    };
    let named: Vec<&ShadowReason> = fails.iter().copied().filter(|reason| !closer(reason)).collect();
    let mut sentences: Vec<String> = named.iter().take(MOST_NAMED).map(|reason| reason.sentence.clone()).collect();
    if named.len() > MOST_NAMED {
        sentences.push(format!("and {} more", named.len() - MOST_NAMED));
    }
    sentences
}

/// Engine time of texts that ran alone at both.
fn speed(settings: &Shadow, counts: &ShadowCounts, over: bool) -> ShadowReason {
    let texts = counts.baseline_us.count().min(counts.candidate_us.count());
    let reason = |finding, figure, sentence| ShadowReason {
        aspect: Aspect::Speed,
        lane: None,
        tokens: None,
        finding,
        texts,
        figure,
        margin: settings.slower,
        sentence,
    };
    let [before, now] =
        [&counts.baseline_us, &counts.candidate_us].map(|times| times.quantile(0.5).unwrap_or_default());
    if texts < settings.min_alone || before <= 0.0 {
        let sentence = format!("{texts} texts ran alone at both: too few to compare times, which the steps will do");
        return reason(Finding::NotComparable, None, sentence);
    }
    let ratio = now / before;
    let sentence = format!(
        "a text that runs alone takes the candidate {:.1} ms and the baseline {:.1} ms, {ratio:.2} times as long (allowed: {}), by the median of {texts}",
        now / 1e3,
        before / 1e3,
        settings.slower
    );
    let fails = over && ratio > settings.slower;
    reason(if fails { Finding::Fail } else { Finding::Pass }, Some(ratio), sentence)
}

/// What was not compared often enough.
fn lacking(settings: &Shadow, groups: &[Group], counts: &ShadowCounts) -> Option<ShadowReason> {
    let all = groups.last().map_or(0, Group::texts);
    let dropped = match counts.dropped {
        0 => String::new(),
        n => format!(
            "; texts of {n} requests were dropped, since workers had no time for them (worker.shadow_bytes bounds what is sent)"
        ),
    };
    let reason = |tokens, texts, sentence| ShadowReason {
        aspect: Aspect::Texts,
        lane: None,
        tokens,
        finding: Finding::TooLittle,
        texts,
        figure: None,
        margin: settings.min_texts as f64,
        sentence,
    };
    if all == 0 && counts.dropped == 0 {
        let sentence = "no text was compared: nobody asked for the model, or its workers know no shadows, or may not publish and \
                        subscribe on embed.shadow.> (see the permissions in the README)";
        return Some(reason(None, 0, sentence.to_owned()));
    }
    if all < settings.min_texts {
        let sentence = format!(
            "{all} texts were compared, {} are wanted{dropped}: hold longer, or take a larger share",
            settings.min_texts
        );
        return Some(reason(None, all, sentence));
    }
    let few = |group: &&Group| {
        let texts = group.texts();
        let lacks = texts < settings.min_length_texts && texts as f64 >= settings.rare * all as f64;
        group.is_length() && lacks
    };
    let few: Vec<&Group> = groups.iter().filter(few).collect();
    let first = few.first()?;
    let names: Vec<String> = few.iter().map(|group| format!("{} ({})", group.name(), group.texts())).collect();
    let sentence = format!(
        "too few texts were compared of {}, {} are wanted{dropped}: hold longer, or take a larger share",
        names.join(", "),
        settings.min_length_texts
    );
    Some(reason(first.tokens, first.texts(), sentence))
}

/// What a candidate that passes has shown.
fn passed(settings: &Shadow, groups: &[Group], reasons: &[ShadowReason]) -> String {
    let all = groups.last().map_or(0, Group::texts);
    let of = |aspect| reasons.iter().rev().find(|reason| reason.aspect == aspect && reason.tokens.is_none());
    let mean = of(Aspect::MeanCosine).and_then(|reason| reason.figure).unwrap_or_default();
    let means = reasons.iter().filter(|reason| reason.aspect == Aspect::MeanCosine && reason.finding == Finding::Pass);
    let worst = means.min_by(|a, b| a.figure.unwrap_or_default().total_cmp(&b.figure.unwrap_or_default()));
    let worst = worst.map(|reason| format!(", least on {}", reason.sentence)).unwrap_or_default();
    let unknown = groups.iter().filter(|group| group.is_length() && !group.is_enough(settings));
    let unknown: Vec<String> = unknown.map(Group::name).collect();
    let unknown =
        if unknown.is_empty() { String::new() } else { format!("; too rare to be judged: {}", unknown.join(", ")) };
    let speed = of(Aspect::Speed).map(|reason| reason.sentence.clone()).unwrap_or_default();
    format!("its vectors agree on {all} texts: mean cosine {mean:.4}{worst}{unknown}; {speed}")
}
