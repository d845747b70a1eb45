//! Sending copies of dead letters, on the store in memory and a virtual clock.

use std::collections::HashSet;
use std::sync::Mutex;

use super::*;
use crate::meter::Identity;
use crate::seal::example::Safe;
use crate::store::letter::LetterStore as _;
use crate::store::memory::{Call, MemoryStore};
use crate::store::{DeadLetter, ErrorKind, Position, Reason, StreamKey, WriteBatch};

/// A topic that takes everything but some.
#[derive(Default)]
struct Topic {
    taken: Mutex<Vec<i64>>,
    away: Mutex<bool>,
    refused: Mutex<HashSet<i64>>,
    /// To send some of them.
    takes: Mutex<Duration>,
}

impl Topic {
    fn taken(&self) -> Vec<i64> {
        self.taken.lock().unwrap().clone()
    }

    fn set_away(&self, away: bool) {
        *self.away.lock().unwrap() = away;
    }
}

#[async_trait]
impl DeadLetterTopic for Topic {
    async fn send(&self, letters: &[StoredLetter]) -> Vec<Result<(), NotSent>> {
        let takes = *self.takes.lock().unwrap();
        tokio::time::sleep(takes).await;
        let send = |letter: &StoredLetter| {
            let id = letter.summary.id;
            if *self.away.lock().unwrap() {
                return Err(NotSent::Unavailable("no such topic".to_owned()));
            }
            if self.refused.lock().unwrap().contains(&id) {
                return Err(NotSent::Refused("too large".to_owned()));
            }
            self.taken.lock().unwrap().push(id);
            Ok(())
        };
        letters.iter().map(send).collect()
    }
}

struct Bed {
    store: Arc<MemoryStore>,
    topic: Arc<Topic>,
    meters: Arc<Meters>,
    stop: CancellationToken,
}

impl Bed {
    fn new() -> Self {
        Self {
            store: Arc::new(MemoryStore::new(1, 1 << 20)),
            topic: Arc::default(),
            meters: Arc::default(),
            stop: CancellationToken::new(),
        }
    }

    /// Dead letters of a group, all in one batch.
    async fn write(&self, group: &str, ids: impl IntoIterator<Item = i64>) {
        self.write_sealed(group, ids, &Sealing::new("t", None)).await;
    }

    async fn write_sealed(&self, group: &str, ids: impl IntoIterator<Item = i64>, sealing: &Sealing) {
        let key = StreamKey { cluster_id: "c".into(), group: group.into(), topic: "t".into(), partition: 0 };
        self.store.create_streams(&[(key.clone(), 0)]).await.unwrap();
        let claim = self.store.claim(&key, "r").await.unwrap();
        let letter = |id| DeadLetter {
            id,
            topic: "t",
            partition: 0,
            offset: 0,
            span: None,
            timestamp: None,
            reason: Reason::Undecodable,
            detail: "",
            key: None,
            headers: b"[]",
            bytes: b"broken",
            sealed: false,
        };
        let letters: Vec<_> = ids.into_iter().map(letter).collect();
        let sealed = sealing.letters(&*self.store, &letters).await.unwrap();
        let letters = sealed.letters(&letters);
        let batch = WriteBatch {
            stream: claim.stream,
            epoch: claim.epoch,
            from: claim.position,
            to: Position { next_offset: claim.position.next_offset + 1, last_id: 1 },
            fingerprint: None,
            rows: &[],
            dead_letters: &letters,
            queue_copies: true,
        };
        self.store.write(&batch).await.unwrap();
    }

    fn start_as(&self, replica: &str) {
        self.start_with(replica, Arc::new(Sealing::new("t", None)));
    }

    fn start_with(&self, replica: &str, sealing: Arc<Sealing>) {
        let store: Arc<dyn Store> = self.store.clone();
        let sender = DeadLetterSender {
            store: store.clone(),
            sealing,
            topic: self.topic.clone(),
            meters: self.meters.clone(),
            cluster_id: "c".to_owned(),
            group: "g".to_owned(),
            lease: ExclusiveLease::new(store, Arc::default(), "dead letters of c/g/t".into(), replica.into()),
            pass: Pass::default(),
        };
        tokio::spawn(sender.run(self.stop.clone()));
    }

    /// The same database and topic, for another replica.
    fn share(&self) -> Self {
        Self { store: self.store.clone(), topic: self.topic.clone(), ..Self::new() }
    }

    async fn waiting(&self) -> u64 {
        self.store.count_unsent("c", "g").await.unwrap()
    }

    fn error(&self) -> Option<String> {
        self.meters.status(&Identity::default()).last_error
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn every_letter_of_the_group_is_sent_once_and_stays_in_the_table() {
    let bed = Bed::new();
    bed.write("g", 1..=250).await;
    bed.write("another", 251..=252).await;
    bed.start_as("one");
    pass(2).await;
    assert_eq!(bed.topic.taken(), (1..=250).collect::<Vec<_>>());
    bed.write("g", [253]).await;
    pass(2).await;
    assert_eq!(bed.topic.taken().last(), Some(&253));
    assert_eq!((bed.waiting().await, bed.store.dead_letters().len()), (0, 253));
    assert_eq!(bed.store.count_unsent("c", "another").await.unwrap(), 2);
    assert_eq!(bed.meters.dead_letter_topic.status().unwrap().sent, 251);
}

#[tokio::test(start_paused = true)]
async fn while_the_topic_is_away_letters_wait_and_the_error_shows() {
    let bed = Bed::new();
    bed.topic.set_away(true);
    bed.start_as("one");
    bed.write("g", 1..=3).await;
    pass(60).await;
    assert_eq!((bed.topic.taken(), bed.waiting().await), (vec![], 3));
    assert_eq!(bed.error().as_deref(), Some("no such topic"));
    assert_eq!(bed.meters.dead_letter_topic.waiting(), Some(3));
    bed.topic.set_away(false);
    pass(30).await;
    assert_eq!((bed.topic.taken(), bed.error()), (vec![1, 2, 3], None));
    assert_eq!(bed.meters.dead_letter_topic.waiting(), Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_is_refused_holds_up_no_other_one() {
    let bed = Bed::new();
    bed.topic.refused.lock().unwrap().insert(2);
    bed.write("g", 1..=300).await;
    bed.start_as("one");
    pass(2).await;
    assert_eq!((bed.topic.taken().len(), bed.waiting().await), (299, 1));
    assert_eq!(bed.error().as_deref(), Some("dead letter 2: too large"));
    bed.topic.refused.lock().unwrap().clear();
    pass(60).await;
    assert_eq!((bed.topic.taken().last(), bed.waiting().await), (Some(&2), 0));
    assert_eq!(bed.error(), None);
}

#[tokio::test(start_paused = true)]
async fn while_there_is_no_end_of_letters_the_topic_is_told_to_work_and_how_many_wait() {
    let bed = Bed::new();
    bed.topic.set_away(true);
    bed.start_as("one");
    bed.write("g", 1..=10_000).await;
    pass(60).await;
    assert_eq!(bed.error().as_deref(), Some("no such topic"));
    *bed.topic.takes.lock().unwrap() = Duration::from_secs(1);
    bed.topic.set_away(false);
    pass(60).await;
    let waiting = bed.waiting().await;
    assert!((1_000..9_000).contains(&waiting), "{waiting} wait");
    assert_eq!(bed.error(), None);
    let told = bed.meters.dead_letter_topic.waiting().unwrap();
    assert!((waiting..=waiting + 2_000).contains(&told), "{told} told, {waiting} wait");
    pass(120).await;
    assert_eq!(bed.topic.taken(), (1..=10_000).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_and_not_noted_is_sent_again() {
    let bed = Bed::new();
    let mut fail = true;
    bed.store.on_call(move |call| {
        let failed = call == Call::Sent && std::mem::take(&mut fail);
        failed.then(|| crate::store::StoreError::new(ErrorKind::Unavailable, "away"))
    });
    bed.write("g", [1]).await;
    bed.start_as("one");
    pass(10).await;
    assert_eq!((bed.topic.taken(), bed.waiting().await), (vec![1, 1], 0));
}

#[tokio::test(start_paused = true)]
async fn a_letter_whose_key_cannot_be_read_now_is_not_told_as_damaged() {
    let (bed, safe) = (Bed::new(), Safe::with(&["k1"]));
    bed.write_sealed("g", [1], &safe.sealing(&["k1"], "k1")).await;
    let away = || crate::store::StoreError::new(ErrorKind::Unavailable, "away");
    bed.store.on_call(move |call| (call == Call::DataKey).then(away));
    bed.start_with("one", safe.sealing(&["k1"], "k1"));
    pass(10).await;
    assert_eq!((bed.topic.taken(), bed.error().as_deref()), (vec![], Some("away")));
    bed.store.clear_hooks();
    pass(60).await;
    assert_eq!((bed.topic.taken(), bed.error()), (vec![1], None));
}

#[tokio::test(start_paused = true)]
async fn what_is_purged_is_not_sent() {
    let bed = Bed::new();
    bed.topic.set_away(true);
    bed.write("g", 1..=2).await;
    bed.start_as("one");
    pass(2).await;
    bed.store.purge(&[1]).await.unwrap();
    bed.topic.set_away(false);
    pass(30).await;
    assert_eq!((bed.topic.taken(), bed.waiting().await), (vec![2], 0));
}

#[tokio::test(start_paused = true)]
async fn of_two_replicas_one_sends_and_the_other_follows() {
    let bed = Bed::new();
    bed.start_as("one");
    pass(1).await;
    let other = bed.share();
    other.start_as("two");
    bed.write("g", 1..=5).await;
    pass(2).await;
    assert_eq!((bed.topic.taken(), other.meters.dead_letter_topic.status()), (vec![1, 2, 3, 4, 5], None));
    bed.stop.cancel();
    pass(exclusive_lease::RENEW.as_secs() + 1).await;
    bed.write("g", [6]).await;
    pass(2).await;
    assert_eq!(bed.topic.taken().last(), Some(&6));
    assert_eq!(other.meters.dead_letter_topic.status().unwrap().sent, 1);
}
