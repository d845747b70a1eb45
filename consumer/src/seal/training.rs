//! When a dictionary is trained, and when the one in use no longer fits.
//!
//! Pure: bodies and their sizes come in, a decision comes out; who trains and stores is [`super::Sealing`].

use std::sync::Arc;

use zeroize::Zeroizing;

use super::compress::{self, Dictionary, Shrinker};
use super::error::SealError;

/// Bodies to train on, and to measure with; of these every fifth is for measuring only.
const SAMPLES: usize = 5_000;
/// Most bytes of all samples: they are in memory while they are collected.
const SAMPLE_BYTES: usize = 4 << 20;
/// With fewer bodies than this nothing is trained, however large they are.
const FEWEST: usize = 500;
/// Larger bodies are no samples: they compress well by themselves.
const LARGEST_SAMPLE: usize = 16 << 10;
/// Of every batch at most this many bodies are samples, so that one trace is not all.
const OF_A_BATCH: usize = 100;
/// Bytes of a dictionary. Of 520-byte bodies, four times as much gained a tenth.
const DICTIONARY_BYTES: usize = 16 << 10;
/// A dictionary must save this share of what is stored without it (or with the one in use).
const PAYS: f64 = 0.1;
/// Bodies over which the ratio in use is measured.
const WINDOW: u64 = 20_000;
/// The ratio may be so many times that of the training before the dictionary no longer fits.
const FITS: f64 = 1.25;

/// Bodies that are kept to train on.
pub type Samples = Vec<Zeroizing<Vec<u8>>>;

/// What is known of the dictionary in use.
pub struct Training {
    /// Collected so far; none while nothing is to be trained.
    samples: Option<Samples>,
    sample_bytes: usize,
    /// Shrunk size by plain size when the dictionary in use was trained, or found to be the best there is.
    expected: Option<f64>,
    bodies: u64,
    plain: u64,
    shrunk: u64,
}

impl Training {
    /// Begins to collect: there is no dictionary yet.
    pub fn new() -> Self {
        Self { samples: Some(Vec::new()), sample_bytes: 0, expected: None, bodies: 0, plain: 0, shrunk: 0 }
    }

    /// A dictionary is in use, which shrank bodies to this share when it was trained.
    pub fn settle(&mut self, expected: f64) {
        *self = Self { samples: None, expected: Some(expected), ..Self::new() };
    }

    /// Nothing better was found: what is in use is good enough until bodies change once more.
    pub fn give_up(&mut self) {
        *self = Self { samples: None, ..Self::new() };
    }

    #[cfg(test)]
    pub fn collected(&self) -> usize {
        self.samples.as_ref().map_or(0, Vec::len)
    }

    /// Takes note of a batch, of the bytes of its bodies as they were compressed, and of those that they were shrunk to;
    /// gives the samples once there are enough. `body_of` gives a row's body as it was compressed.
    pub fn observe<R>(
        &mut self,
        rows: &[R],
        body_of: impl Fn(&R) -> Zeroizing<Vec<u8>>,
        plain: u64,
        shrunk: u64,
    ) -> Option<Samples> {
        let count = rows.len();
        if let Some(samples) = &mut self.samples {
            let step = count.div_ceil(OF_A_BATCH).max(1);
            let bodies = rows.iter().step_by(step).map(body_of);
            for body in bodies.filter(|body| !body.is_empty() && body.len() <= LARGEST_SAMPLE) {
                self.sample_bytes += body.len();
                samples.push(body);
            }
            let enough =
                samples.len() >= SAMPLES || (self.sample_bytes >= SAMPLE_BYTES && samples.len() >= FEWEST);
            if !enough {
                return None;
            }
            self.sample_bytes = 0;
            return self.samples.take();
        }
        self.bodies += count as u64;
        self.plain += plain;
        self.shrunk += shrunk;
        if self.bodies >= WINDOW && self.plain > 0 {
            let ratio = self.shrunk as f64 / self.plain as f64;
            (self.bodies, self.plain, self.shrunk) = (0, 0, 0);
            match self.expected {
                None => self.expected = Some(ratio),
                Some(expected) if ratio > expected * FITS => {
                    (self.samples, self.sample_bytes) = (Some(Vec::new()), 0);
                }
                Some(_) => {}
            }
        }
        None
    }
}

/// A dictionary that pays.
pub struct Trained {
    /// Its bytes.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Shrunk size by plain size of bodies that it was not trained on.
    pub ratio: f64,
}

/// What serves some bodies best.
pub enum Best {
    /// A new dictionary, which pays.
    Trained(Trained),
    /// One of those that there are, and to which share it shrinks these bodies.
    Known(Arc<Dictionary>, f64),
    /// No dictionary.
    Nothing,
}

/// Trains, and measures on bodies that were not trained on: what is `known`, or no dictionary, is kept where it is nearly as
/// good. Takes tenths of a second.
///
/// # Errors
/// zstd fails.
pub fn train(samples: Samples, known: &[Arc<Dictionary>]) -> Result<Best, SealError> {
    let (measured, trained_on): (Vec<_>, Vec<_>) =
        samples.into_iter().enumerate().partition(|(index, _)| index % 5 == 0);
    let trained_on: Samples = trained_on.into_iter().map(|(_, body)| body).collect();
    let measured: Samples = measured.into_iter().map(|(_, body)| body).collect();
    let (plain, mut present) = sizes(&measured, None)?;
    let ratio = |shrunk: usize| shrunk as f64 / (plain as f64).max(1.0);
    let mut best = Best::Nothing;
    for dictionary in known {
        let (_, shrunk) = sizes(&measured, Some(dictionary))?;
        if shrunk < present {
            (present, best) = (shrunk, Best::Known(dictionary.clone(), ratio(shrunk)));
        }
    }
    let Ok(bytes) = compress::train(&trained_on, DICTIONARY_BYTES) else {
        // zstd's word for samples that have nothing in common.
        return Ok(best);
    };
    let dictionary = Dictionary::new(0, bytes);
    let (_, shrunk) = sizes(&measured, Some(&dictionary))?;
    let pays = (shrunk as f64) < present as f64 * (1.0 - PAYS);
    Ok(if pays { Best::Trained(Trained { bytes: dictionary.bytes, ratio: ratio(shrunk) }) } else { best })
}

fn sizes(bodies: &Samples, dictionary: Option<&Dictionary>) -> Result<(usize, usize), SealError> {
    let mut shrinker = Shrinker::new(dictionary)?;
    let (mut plain, mut shrunk, mut to) = (0, 0, Vec::new());
    for body in bodies {
        to.clear();
        let smaller = shrinker.shrink(body, &mut to)?;
        plain += body.len();
        shrunk += if smaller { to.len() } else { body.len() };
    }
    Ok((plain, shrunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(count: usize, name: &str) -> Samples {
        let body = |number: usize| {
            let noise = fastrand::Rng::with_seed(number as u64).u64(..);
            format!(r#"{{"traceId":"{noise:016x}","name":"{name} /{number}","kind":"SERVER","status":"ok"}}"#)
        };
        (0..count).map(|number| Zeroizing::new(body(number).into_bytes())).collect()
    }

    fn trained(samples: Samples, known: &[Arc<Dictionary>]) -> Option<Trained> {
        match train(samples, known).unwrap() {
            Best::Trained(trained) => Some(trained),
            _ => None,
        }
    }

    fn observe(training: &mut Training, bodies: &Samples, ratio: f64) -> Option<Samples> {
        let plain: usize = bodies.iter().map(|body| body.len()).sum();
        training.observe(bodies, Clone::clone, plain as u64, (plain as f64 * ratio) as u64)
    }

    #[test]
    fn samples_are_collected_over_many_batches() {
        let (mut training, batch) = (Training::new(), bodies(1_000, "GET"));
        let batches = (1..=100).find(|_| observe(&mut training, &batch, 0.6).is_some());
        assert_eq!(batches, Some(SAMPLES / OF_A_BATCH));
        assert!(observe(&mut training, &batch, 0.6).is_none(), "not while the first ones are trained on");
    }

    #[test]
    fn a_dictionary_that_pays_is_kept_until_bodies_change() {
        let trained = trained(bodies(5_000, "GET"), &[]).expect("bodies that are alike");
        assert!(trained.ratio < 0.5, "{}", trained.ratio);
        let (mut training, batch) = (Training::new(), bodies(1_000, "GET"));
        training.settle(trained.ratio);
        for _ in 0..1_000 {
            assert!(observe(&mut training, &batch, trained.ratio * 1.1).is_none());
        }
        let again = (0..1_000).any(|_| observe(&mut training, &batch, trained.ratio * 2.0).is_some());
        assert!(again, "bodies that shrink half as well are trained on");
    }

    #[test]
    fn bodies_that_have_nothing_in_common_get_no_dictionary() {
        let mut random = fastrand::Rng::with_seed(1);
        let noise =
            |_| Zeroizing::new(std::iter::repeat_with(|| random.u8(..)).take(300).collect::<Vec<u8>>());
        assert!(trained((0..1_000).map(noise).collect(), &[]).is_none());
    }

    #[test]
    fn a_second_dictionary_must_be_better_than_the_first() {
        let first = trained(bodies(5_000, "GET"), &[]).unwrap();
        let first = Arc::new(Dictionary::new(1, first.bytes));
        assert!(trained(bodies(5_000, "GET"), &[first]).is_none());
    }

    #[test]
    fn of_those_that_are_known_the_one_that_fits_is_taken() {
        let [other, fits] = [("a queue of orders", 1), ("GET", 2)].map(|(name, id)| {
            Arc::new(Dictionary::new(id, trained(bodies(5_000, name), &[]).unwrap().bytes))
        });
        for known in [[other.clone(), fits.clone()], [fits, other]] {
            let best = train(bodies(5_000, "GET"), &known).unwrap();
            assert!(matches!(best, Best::Known(dictionary, ratio) if dictionary.id == 2 && ratio < 0.5));
        }
    }
}
