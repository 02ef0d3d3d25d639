//! From evidence to a verdict: first what is checked with every window, then, at a look, the rule.

use crate::{
    Config, ConfigError, Evidence, Verdict, classic,
    config::RuleKind,
    fast,
    guarded::{self, Levels},
    verdict::{Check, Decision, Finding, Metric, list},
};

/// A configuration made ready: the levels of the looks are worked out once.
#[derive(Debug, Clone)]
pub struct Rule {
    config: Config,
    levels: Levels,
}

impl Rule {
    /// Checks the configuration and works out the levels of the looks.
    ///
    /// # Errors
    /// If a setting makes no sense.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let levels = Levels::new(&config);
        Ok(Self { config, levels })
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Decides. The same arguments give the same verdict.
    #[must_use]
    pub fn verdict(&self, evidence: &Evidence, check: Check, seed: u64) -> Verdict {
        let mut reasons = fast::check(&self.config, evidence, check);
        let (decision, sentence) = if reasons.iter().any(|r| r.finding == Finding::Fail) {
            (Decision::RollBack, format!("Rolled back: {}.", list(&reasons, Finding::Fail)))
        } else {
            match check {
                Check::Window => (Decision::Hold, "Holding: nothing to act on between looks.".to_owned()),
                Check::Paused => (Decision::Hold, "Paused: nothing to act on.".to_owned()),
                Check::Look(look) => {
                    let (decision, sentence, more) = match self.config.rule {
                        RuleKind::Guarded => guarded::decide(&self.config, &self.levels, evidence, look, seed),
                        RuleKind::Classic => classic::decide(&self.config, evidence, look),
                    };
                    let probes = reasons.iter().find(|r| r.metric == Metric::Probes && r.finding == Finding::TooLittle);
                    let blocked =
                        probes.filter(|_| matches!(decision, Decision::Promote { .. })).map(|r| r.sentence.clone());
                    reasons.extend(more);
                    match blocked {
                        Some(why) if look >= self.config.plan.looks => (Decision::Pause, format!("Paused: {why}.")),
                        Some(why) => (Decision::Hold, format!("Holding: {why}.")),
                        None => (decision, sentence),
                    }
                }
            }
        };
        Verdict {
            decision,
            sentence,
            reasons,
            rule: self.config.rule,
            check,
            candidate_percent: evidence.candidate_percent,
            windows: u32::try_from(evidence.windows()).unwrap_or(u32::MAX),
            seed,
        }
    }
}
