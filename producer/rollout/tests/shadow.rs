//! What a shadow passes and what it does not, in whatever order the texts come.

use embed_rollout::{
    Decision, Finding,
    shadow::{Aspect, Shadow, ShadowVerdict, judge},
};
use embed_schemas::{
    ErrorCode, Lane,
    shadow::{ShadowCounts, ShadowText},
};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

/// Texts that a candidate was given: lane, tokens, and the cosine or the error.
type Text = (Lane, u32, Result<f64, ErrorCode>);

fn counts<'a>(texts: impl IntoIterator<Item = &'a Text>) -> ShadowCounts {
    let mut counts = ShadowCounts::default();
    for (lane, tokens, found) in texts {
        counts.requests += 1;
        match found {
            Ok(cosine) => counts.compared(*lane, *tokens, *cosine, || ShadowText {
                lane: *lane,
                tokens: *tokens,
                cosine: *cosine,
                request: "r".into(),
                digest: "d".into(),
                text: None,
            }),
            Err(code) => counts.failed(*lane, *tokens, *code),
        }
    }
    counts
}

/// Cosines as a well calibrated `int8` graph has them: 0.998 on average, some 0.99.
fn agreeing(random: &mut Pcg64) -> f64 {
    1.0 - 0.0005 - 0.003 * random.random::<f64>().powi(2)
}

/// Texts of all lengths; more short ones than long ones.
fn texts(seed: u64, count: usize, cosine: impl Fn(u32, &mut Pcg64) -> f64) -> Vec<Text> {
    let mut random = Pcg64::seed_from_u64(seed);
    let one = |_| {
        let tokens = (4.0 * 64f64.powf(random.random::<f64>())) as u32;
        let lane = Lane::ALL[random.random_range(0..3)];
        (lane, tokens, Ok(cosine(tokens, &mut random)))
    };
    (0..count).map(one).collect()
}

fn at_the_end(texts: &[Text]) -> ShadowVerdict {
    judge(&Shadow::default(), &counts(texts), true)
}

fn failing(verdict: &ShadowVerdict) -> Vec<(Aspect, Option<u32>)> {
    let fails = verdict.reasons.iter().filter(|reason| reason.finding == Finding::Fail);
    fails.map(|reason| (reason.aspect, reason.tokens)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_agreeing_candidate_passes_and_never_fails_on_the_way(seed in any::<u64>(), count in 700usize..3_000) {
        let texts = texts(seed, count, |_, random| agreeing(random));
        for until in (1..count).step_by(37) {
            let verdict = judge(&Shadow::default(), &counts(&texts[..until]), false);
            prop_assert_eq!(verdict.decision, Decision::Hold, "{} of {}: {}", until, count, verdict.sentence);
        }
        let verdict = at_the_end(&texts);
        prop_assert!(verdict.decision.is_promotion(), "{}", verdict.sentence);
    }

    /// On average over all texts it would pass.
    #[test]
    fn one_that_is_off_on_long_texts_only_fails_there(seed in any::<u64>(), count in 700usize..3_000) {
        let texts = texts(seed, count, |tokens, random| if tokens > 128 { 0.97 } else { agreeing(random) });
        let verdict = at_the_end(&texts);
        prop_assert_eq!(verdict.decision, Decision::RollBack);
        prop_assert!(verdict.sentence.contains("129 to 256 tokens: mean cosine 0.97"), "{}", verdict.sentence);
        prop_assert!(failing(&verdict).iter().all(|(aspect, tokens)| *aspect == Aspect::MeanCosine && *tokens == Some(256)));
        // Long before the end, and never for another reason.
        let early = judge(&Shadow::default(), &counts(&texts[..count / 2]), false);
        prop_assert_eq!(early.decision, Decision::RollBack, "{}", early.sentence);
    }

    /// A few texts that are far off hide in a mean.
    #[test]
    fn one_that_garbles_a_few_texts_fails(seed in any::<u64>()) {
        let texts = texts(seed, 2_000, |_, random| if random.random::<f64>() < 0.03 { 0.8 } else { 1.0 });
        let verdict = at_the_end(&texts);
        prop_assert_eq!(verdict.decision, Decision::RollBack);
        prop_assert!(verdict.sentence.contains("have a cosine below 0.95"), "{}", verdict.sentence);
    }

    #[test]
    fn worse_vectors_are_never_judged_better(seed in any::<u64>(), count in 1usize..600, off in 0.0..0.05f64, over in any::<bool>()) {
        let rank = |decision| match decision {
            Decision::RollBack => 0,
            Decision::Pause | Decision::Hold => 1,
            Decision::Promote { .. } => 2,
        };
        let good = texts(seed, count, |_, random| agreeing(random));
        let worse: Vec<Text> = good.iter().map(|(lane, tokens, found)| (*lane, *tokens, found.map(|cosine| cosine - off))).collect();
        let [good, worse] = [good, worse].map(|texts| judge(&Shadow::default(), &counts(&texts), over).decision);
        prop_assert!(rank(worse) <= rank(good), "{:?} {:?}", worse, good);
    }

    #[test]
    fn it_does_not_matter_how_the_windows_were_cut(seed in any::<u64>(), count in 2usize..500, cut in any::<prop::sample::Index>()) {
        let texts = texts(seed, count, |_, random| random.random::<f64>());
        let (a, b) = texts.split_at(cut.index(count));
        let mut merged = counts(b);
        merged.merge(&counts(a));
        prop_assert_eq!(judge(&Shadow::default(), &merged, true), at_the_end(&texts));
    }

    #[test]
    fn no_counts_panic(seed in any::<u64>(), count in 0usize..50, over in any::<bool>(), errors in 0usize..50) {
        let mut texts = texts(seed, count, |_, random| 2.0 * random.random::<f64>() - 1.0);
        texts.extend((0..errors).map(|n| (Lane::Job, n as u32, Err(ErrorCode::EngineFailed))));
        texts.push((Lane::Rpc, u32::MAX, Ok(f64::NAN)));
        let verdict = judge(&Shadow::default(), &counts(&texts), over);
        prop_assert!(!verdict.sentence.is_empty() && !verdict.decision.is_promotion());
    }
}

#[test]
fn texts_that_only_the_candidate_fails_on_count_against_it() {
    let mut all = texts(1, 1_000, |_, random| agreeing(random));
    for (lane, tokens, found) in all.iter_mut().filter(|(_, tokens, _)| *tokens > 128) {
        (*lane, *found) = (Lane::Bulk, Err(ErrorCode::TextTooLong));
        *tokens = 200;
    }
    let verdict = at_the_end(&all);
    assert_eq!(verdict.decision, Decision::RollBack);
    let sentence = &verdict.sentence;
    assert!(sentence.contains("lane bulk, 129 to 256 tokens: the candidate failed on"), "{sentence}");
    assert!(sentence.contains("text_too_long"), "{sentence}");
    // One in a thousand is allowed, and two in a thousand.
    let few = |n| {
        let mut all = texts(2, 1_000, |_, random| agreeing(random));
        all.iter_mut().take(n).for_each(|(_, _, found)| *found = Err(ErrorCode::EngineFailed));
        let settings = Shadow { min_length_texts: 200, ..Shadow::default() };
        judge(&settings, &counts(&all), true)
            .reasons
            .into_iter()
            .filter(|r| r.tokens.is_none() && r.aspect == Aspect::Errors)
            .map(|r| r.finding)
            .collect::<Vec<_>>()
    };
    assert_eq!((few(2), few(3)), (vec![Finding::Pass], vec![Finding::Fail]));
}

#[test]
fn what_was_not_compared_is_not_passed() {
    let none = at_the_end(&[]);
    assert_eq!(none.decision, Decision::Pause);
    assert!(none.sentence.contains("nobody asked for the model") && none.sentence.contains("embed.shadow.>"));
    let few = at_the_end(&texts(3, 199, |_, _| 1.0));
    assert!(few.sentence.contains("199 texts were compared, 200 are wanted"), "{}", few.sentence);
    // A length that is asked for often, and was compared seldom.
    let long = |n| {
        let mut all: Vec<Text> = (0..400).map(|_| (Lane::Rpc, 12, Ok(1.0))).collect();
        all.extend((0..n).map(|_| (Lane::Rpc, 200, Ok(1.0))));
        at_the_end(&all)
    };
    assert_eq!(long(25).decision, Decision::Pause);
    assert!(long(25).sentence.contains("129 to 256 tokens (25)"), "{}", long(25).sentence);
    assert!(long(30).decision.is_promotion());
    let rare = long(3);
    assert!(
        rare.decision.is_promotion() && rare.sentence.contains("too rare to be judged: 129 to 256 tokens"),
        "{}",
        rare.sentence
    );
    let busy = ShadowCounts { dropped: 7, ..ShadowCounts::default() };
    let busy = judge(&Shadow::default(), &busy, true);
    assert!(
        busy.decision == Decision::Pause && busy.sentence.contains("texts of 7 requests were dropped"),
        "{}",
        busy.sentence
    );
}

#[test]
fn a_candidate_that_takes_several_times_as_long_fails() {
    let with = |times: u64, alone: u64| {
        let mut counts = counts(&texts(4, 700, |_, random| agreeing(random)));
        for n in 0..alone {
            counts.baseline_us.record(1_000 + n);
            counts.candidate_us.record(times * (1_000 + n) / 10);
        }
        judge(&Shadow::default(), &counts, true)
    };
    assert!(with(12, 50).decision.is_promotion());
    let slow = with(30, 50);
    assert_eq!((slow.decision, failing(&slow)), (Decision::RollBack, vec![(Aspect::Speed, None)]));
    assert!(slow.sentence.contains("3.0"), "{}", slow.sentence);
    let unknown = with(30, 29);
    assert!(unknown.decision.is_promotion() && unknown.sentence.contains("29 texts ran alone at both: too few"));
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    let config = |shadow| embed_rollout::Config { shadow, ..embed_rollout::Config::default() };
    assert!(config(Shadow { share: 0.0, ..Shadow::default() }).validate().is_ok(), "it may be declined");
    for (shadow, field) in [
        (Shadow { share: 101.0, ..Shadow::default() }, "shadow.share"),
        (Shadow { hold: std::time::Duration::ZERO, ..Shadow::default() }, "shadow.hold"),
        (Shadow { min_texts: 0, ..Shadow::default() }, "shadow.min_texts"),
        (Shadow { mean_cosine: 1.0, ..Shadow::default() }, "shadow.mean_cosine"),
        (Shadow { low_share: 0.0, ..Shadow::default() }, "shadow.low_share"),
        (Shadow { slower: 1.0, ..Shadow::default() }, "shadow.slower"),
    ] {
        let error = config(shadow).validate().unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}
