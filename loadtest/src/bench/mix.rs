//! Texts of many lengths: what padding costs, and what the planner makes of it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use embed_engine::{
    batch::{CostTable, Measured},
    engine::{Engine, EngineError, Input},
    settings::BatchConfig,
    shape::{Form, Shape},
};
use serde::Serialize;

use super::{
    batches::{self, Group},
    feed::Feed,
    runners::Runners,
    stats::median,
    subject::Subject,
};

/// Texts in a batch where they are not sorted: what most servers do.
pub(super) const ARRIVAL_BATCH: usize = 32;

/// How texts are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Order {
    /// All sorted by length and cut under the token budget.
    Sorted,
    /// By the planner, from a window of waiting texts.
    Planner,
    /// As they arrive, a fixed number to a batch.
    Arrival,
}

impl Order {
    /// All orders.
    pub(super) const ALL: [Self; 3] = [Self::Sorted, Self::Planner, Self::Arrival];

    /// The order's name, as in the JSON.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Sorted => "sorted",
            Self::Planner => "planner",
            Self::Arrival => "arrival",
        }
    }
}

/// The figures of one order.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Arm {
    /// How texts were put together.
    pub(super) order: Order,
    /// Texts a second, all runners together: the median of the rounds.
    pub(super) texts_per_second: f64,
    /// Tokens a second, without padding: the median of the rounds.
    pub(super) tokens_per_second: f64,
    /// Texts a second in each round.
    pub(super) rounds: Vec<f64>,
    /// Runs of a round.
    pub(super) batches: usize,
    /// Share of the tokens that were computed which is not padding.
    pub(super) real_share: f64,
    /// Share of the batches that ran packed.
    pub(super) packed_share: f64,
}

/// The figures of one mix.
#[derive(Debug, Clone, Serialize)]
pub(super) struct MixRow {
    /// What ran.
    #[serde(flatten)]
    pub(super) subject: Subject,
    /// The mix's name.
    pub(super) mix: &'static str,
    /// Texts of a round.
    pub(super) texts: usize,
    /// Tokens of a text, mean.
    pub(super) mean_tokens: f64,
    /// Tokens of the longest text.
    pub(super) max_tokens: usize,
    /// The figures of [`Order::ALL`].
    pub(super) arms: Vec<Arm>,
    /// Speed when perfectly sorted, relative to arrival order in the same round: the median of the rounds.
    pub(super) sorted_over_arrival: f64,
    /// Speed through the planner, relative to perfectly sorted in the same round: the median of the rounds.
    pub(super) planner_over_sorted: f64,
}

impl MixRow {
    /// What an order's speed is compared with, and how it compares.
    pub(super) fn ratio(&self, order: Order) -> String {
        match order {
            Order::Sorted => format!("{:.2} x arrival", self.sorted_over_arrival),
            Order::Planner => format!("{:.2} x sorted", self.planner_over_sorted),
            Order::Arrival => "1".to_owned(),
        }
    }
}

/// Runs the texts in every order, `rounds` times, after `warm_up` times that do not count. The orders take turns, so that what
/// else the machine does meets all. `on_done` hears of each that has run once.
///
/// # Errors
/// If a run fails.
pub(super) fn measure<E: Engine + 'static>(
    runners: &Runners<E>,
    subject: &Subject,
    mix: &'static str,
    texts: &Arc<[Vec<u32>]>,
    planning: &Planning<'_>,
    (warm_up, rounds): (usize, usize),
    mut on_done: impl FnMut(Order),
) -> Result<MixRow, EngineError> {
    let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
    let tokens: usize = lengths.iter().sum();
    let mut tallies: [Vec<Tally>; 3] = Default::default();
    for round in 0..warm_up + rounds {
        for (order, tallies) in Order::ALL.into_iter().zip(&mut tallies) {
            let tally = run_all(runners, texts, &source(order, &lengths, planning))?;
            if round >= warm_up {
                tallies.push(tally);
            }
            on_done(order);
        }
    }
    let arms: Vec<Arm> = Order::ALL.into_iter().zip(&tallies).map(|(o, t)| arm(o, t, texts.len(), tokens)).collect();
    let ratio = |of: Order, to: Order| paired_ratio(&arms[of as usize].rounds, &arms[to as usize].rounds);
    Ok(MixRow {
        subject: subject.clone(),
        mix,
        texts: texts.len(),
        mean_tokens: tokens as f64 / texts.len() as f64,
        max_tokens: lengths.iter().copied().max().unwrap_or_default(),
        sorted_over_arrival: ratio(Order::Sorted, Order::Arrival),
        planner_over_sorted: ratio(Order::Planner, Order::Sorted),
        arms,
    })
}

/// The median of the ratios of rounds. Orders of one round ran one after the other, so that a busy machine slowed down
/// both; medians of each order on its own may come from rounds that cannot be compared.
fn paired_ratio(of: &[f64], to: &[f64]) -> f64 {
    let ratios: Vec<f64> = of.iter().zip(to).map(|(of, to)| of / to).collect();
    median(&ratios)
}

fn arm(order: Order, tallies: &[Tally], texts: usize, tokens: usize) -> Arm {
    let rounds: Vec<f64> = tallies.iter().map(|tally| texts as f64 / tally.took.as_secs_f64()).collect();
    let texts_per_second = median(&rounds);
    // The planner's batches differ a little from round to round.
    let (batches, packed) = tallies.iter().fold((0, 0), |(all, packed), one| (all + one.batches, packed + one.packed));
    let padded: usize = tallies.iter().map(|tally| tally.padded).sum();
    Arm {
        order,
        texts_per_second,
        tokens_per_second: texts_per_second * tokens as f64 / texts as f64,
        batches: batches / tallies.len(),
        packed_share: packed as f64 / batches.max(1) as f64,
        real_share: (tokens * tallies.len()) as f64 / padded as f64,
        rounds,
    }
}

/// The batches of an order.
fn source(order: Order, lengths: &[usize], planning: &Planning<'_>) -> Arc<dyn Source> {
    let BatchConfig { max_texts, max_tokens, .. } = *planning.config;
    let groups = match order {
        Order::Sorted => batches::sorted(lengths, max_texts, max_tokens),
        Order::Arrival => batches::arrival(lengths.len(), ARRIVAL_BATCH),
        Order::Planner => {
            let feed = Feed::new(planning.config, planning.costs.clone(), planning.window, lengths.to_vec());
            return Arc::new(Mutex::new(feed));
        }
    };
    // In the form that is cheaper as far as can be told beforehand.
    let with_form = |group: Group| {
        let shape = Shape::of(group.iter().map(|text| lengths[*text]));
        (group, planning.costs.cheapest(&shape).0)
    };
    let groups = groups.into_iter().map(with_form).collect();
    Arc::new(Prepared { groups, next: AtomicUsize::new(0) })
}

/// What the planner goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planning<'a> {
    /// Its configuration; the other orders keep to its bounds.
    pub(super) config: &'a BatchConfig,
    /// What runs cost, as measured when the engines were loaded.
    pub(super) costs: &'a CostTable,
    /// Texts that wait in it.
    pub(super) window: usize,
}

/// Where runners get their texts.
trait Source: Send + Sync {
    /// The next batch; `None` when there is none left.
    fn take(&self) -> Option<(Group, Form)>;

    /// A batch has been run.
    fn ran(&self, _: Measured) {}
}

/// Batches that were put together beforehand.
struct Prepared {
    groups: Vec<(Group, Form)>,
    next: AtomicUsize,
}

impl Source for Prepared {
    fn take(&self) -> Option<(Group, Form)> {
        self.groups.get(self.next.fetch_add(1, Ordering::Relaxed)).cloned()
    }
}

impl Source for Mutex<Feed> {
    fn take(&self) -> Option<(Group, Form)> {
        // A panic of another runner under the lock ends the measurement anyway.
        self.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn ran(&self, run: Measured) {
        self.lock().unwrap_or_else(PoisonError::into_inner).ran(run);
    }
}

/// One pass over all texts.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    took: Duration,
    batches: usize,
    /// Those that ran packed.
    packed: usize,
    /// Tokens that were computed, with the padding of those that have some.
    padded: usize,
}

/// Runs what the source gives on every engine, until it gives no more.
fn run_all<E: Engine + 'static>(
    runners: &Runners<E>,
    texts: &Arc<[Vec<u32>]>,
    source: &Arc<dyn Source>,
) -> Result<Tally, EngineError> {
    let started = Instant::now();
    let tallies = runners.on_each(|_| {
        let (texts, source) = (Arc::clone(texts), Arc::clone(source));
        move |engine: &mut E| run(engine, &texts, &*source)
    });
    let mut all = Tally { took: started.elapsed(), ..Tally::default() };
    for tally in tallies {
        let tally = tally?;
        all.batches += tally.batches;
        all.packed += tally.packed;
        all.padded += tally.padded;
    }
    Ok(all)
}

fn run(engine: &mut impl Engine, texts: &[Vec<u32>], source: &dyn Source) -> Result<Tally, EngineError> {
    let (mut input, mut tally) = (Input::default(), Tally::default());
    while let Some((group, form)) = source.take() {
        input.fill(group.iter().map(|text| texts[*text].as_slice()));
        input.form = form;
        let started = Instant::now();
        engine.embed(&input)?;
        let took = started.elapsed();
        let shape = Shape::of(group.iter().map(|text| texts[*text].len()));
        source.ran(Measured { shape, form, took });
        tally.batches += 1;
        tally.packed += usize::from(form == Form::Packed);
        tally.padded += if form == Form::Packed { shape.tokens } else { input.rows * input.width };
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use embed_engine::{engine::Vectors, settings::Provider, shape::Unit};
    use embed_schemas::{Precision, Slug};

    use super::*;

    /// Counts the tokens that are no padding.
    #[derive(Debug)]
    struct Counting(Arc<AtomicUsize>);

    impl Engine for Counting {
        fn dimension(&self) -> usize {
            1
        }

        fn unit(&self) -> Unit {
            Unit(0)
        }

        fn embed(&mut self, input: &Input) -> Result<Vectors, EngineError> {
            if input.ids.contains(&13) {
                return Err(EngineError::Onnx("unlucky".into()));
            }
            self.0.fetch_add(input.mask.iter().filter(|bit| **bit == 1).count(), Ordering::Relaxed);
            Ok(Arc::from([]))
        }
    }

    fn subject() -> Subject {
        let model = Slug::from_name("m").unwrap();
        Subject {
            model,
            version: "v1".into(),
            precision: Precision::Fp32,
            form: Default::default(),
            provider: Provider::Cpu,
        }
    }

    #[test]
    fn every_order_runs_every_token_and_knows_its_padding() {
        let texts: Vec<Vec<u32>> = (0..500).map(|i| vec![1; 3 + i * 7 % 200]).collect();
        let tokens: usize = texts.iter().map(Vec::len).sum();
        let (counted, mut runs) = (Arc::default(), 0);
        let runners = Runners::start([Counting(Arc::clone(&counted)), Counting(Arc::clone(&counted))]);
        let planning = Planning { config: &BatchConfig::default(), costs: &CostTable::default(), window: 1024 };
        let row = measure(&runners, &subject(), "test", &texts.into(), &planning, (1, 2), |_| runs += 1).unwrap();
        assert_eq!((counted.load(Ordering::Relaxed), runs), (3 * 3 * tokens, 3 * 3));
        let orders: Vec<&str> = row.arms.iter().map(|arm| arm.order.as_str()).collect();
        assert_eq!(orders, ["sorted", "planner", "arrival"]);
        let [sorted, planner, arrival] = &row.arms[..] else { panic!("three orders") };
        assert!(sorted.real_share > 0.9 && planner.real_share > 0.6 && arrival.real_share < 0.6, "{row:?}");
        assert_eq!((arrival.batches, arrival.rounds.len()), (500usize.div_ceil(ARRIVAL_BATCH), 2));
    }

    #[test]
    fn ratios_are_those_of_the_same_round() {
        assert_eq!(paired_ratio(&[10.0, 4.0, 3.0], &[10.0, 8.0, 3.0]), 1.0);
    }

    #[test]
    fn a_failed_run_ends_the_measurement() {
        let planning = Planning { config: &BatchConfig::default(), costs: &CostTable::default(), window: 1024 };
        let (runners, texts) = (Runners::start([Counting(Arc::default())]), Arc::from([vec![13]]));
        let error = measure(&runners, &subject(), "test", &texts, &planning, (0, 1), |_| ()).unwrap_err();
        assert!(error.to_string().contains("unlucky"));
    }
}
