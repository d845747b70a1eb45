use tokio::sync::mpsc;

use super::fake::{Fake, Mood, name, timing};
use super::*;

/// What the source has found, in order.
struct Finds {
    found: mpsc::UnboundedReceiver<Found>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Finds {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Finds {
    fn of(api: &Fake) -> Self {
        let (sender, found) = mpsc::unbounded_channel();
        let config = api.config();
        let task = tokio::spawn(async move {
            follow(&name(), Some(&config), timing(), |found| drop(sender.send(found))).await;
        });
        Self { found, task }
    }

    /// The next find that is not the one before again; fails where none comes in time.
    async fn until(&mut self, wanted: impl Fn(&Found) -> bool) -> Found {
        let mut last = None;
        let search = async {
            loop {
                let found = self.found.recv().await.unwrap();
                if wanted(&found) {
                    return found;
                }
                last = Some(found);
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(10), search).await;
        found.unwrap_or_else(|_| panic!("not found in time; the last find was {last:?}"))
    }

    async fn text(&mut self, text: &str) {
        self.until(|found| *found == Found::Text(text.to_owned())).await;
    }
}

fn is_missing(found: &Found) -> bool {
    matches!(found, Found::Missing(_))
}

#[tokio::test]
async fn the_object_as_it_is_and_every_change_of_it_is_found_at_once() {
    let api = Fake::start().await;
    api.put(Some("first"));
    let mut finds = Finds::of(&api);
    finds.text("first").await;
    api.watched().await;
    let mut delays = Vec::new();
    for number in 0..50 {
        let text = format!("number {number}");
        let began = Instant::now();
        api.put(Some(&text));
        finds.text(&text).await;
        delays.push(began.elapsed());
    }
    delays.sort_unstable();
    println!("slowest of 50 changes: {:?}", &delays[48..]);
    // What an edit may take; far less where nothing else runs. One may meet a moment in which the machine stood still.
    assert!(delays[48] < Duration::from_secs(1), "{delays:?}");
    assert_eq!(api.lists(), 1);
}

#[tokio::test]
async fn an_object_that_comes_goes_or_lacks_its_key_is_told() {
    let api = Fake::start().await;
    let mut finds = Finds::of(&api);
    let missing = finds.until(is_missing).await;
    assert_eq!(missing, Found::Missing("there is no ConfigMap shop/demo-live".into()));
    api.watched().await;
    api.put(Some("first"));
    finds.text("first").await;
    api.put(None);
    let missing = finds.until(is_missing).await;
    assert_eq!(missing, Found::Missing("the ConfigMap shop/demo-live has no key live.json".into()));
    api.put(Some("second"));
    finds.text("second").await;
    api.delete();
    let missing = finds.until(is_missing).await;
    assert_eq!(missing, Found::Missing("the ConfigMap shop/demo-live was deleted".into()));
    api.put(Some("third"));
    finds.text("third").await;
}

#[tokio::test]
async fn a_watch_that_the_server_ends_in_time_is_taken_up_again_without_a_word() {
    let api = Fake::start().await;
    api.put(Some("first"));
    let mut finds = Finds::of(&api);
    finds.text("first").await;
    api.watched_times(3).await;
    api.put(Some("second"));
    let found = finds.until(|_| true).await;
    assert_eq!(found, Found::Text("second".into()));
    assert_eq!(api.lists(), 1);
}

#[tokio::test]
async fn what_happened_while_the_connection_was_broken_is_found() {
    let api = Fake::start().await;
    api.put(Some("first"));
    let mut finds = Finds::of(&api);
    finds.text("first").await;
    api.watched().await;
    api.put_unseen("second");
    api.drop_watches();
    finds.text("second").await;
}

#[tokio::test]
async fn a_watch_that_is_too_old_begins_anew() {
    let api = Fake::start().await;
    api.put(Some("first"));
    let mut finds = Finds::of(&api);
    finds.text("first").await;
    api.watched().await;
    api.put_unseen("second");
    api.expire_watches();
    finds.text("second").await;
}

#[tokio::test]
async fn a_connection_that_is_dead_without_saying_so_is_given_up() {
    let api = Fake::start().await;
    api.put(Some("first"));
    api.set_mood(Mood::Deaf);
    let mut finds = Finds::of(&api);
    finds.text("first").await;
    api.put_unseen("second");
    let began = Instant::now();
    finds.text("second").await;
    assert!(began.elapsed() < timing().silence + Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_told_and_waited_for() {
    let api = Fake::start().await;
    api.put(Some("first"));
    api.set_mood(Mood::Silent);
    let mut finds = Finds::of(&api);
    let found = finds.until(|_| true).await;
    assert!(matches!(&found, Found::Unreachable(text) if text.contains("not answered")), "{found:?}");
    api.set_mood(Mood::Good);
    finds.text("first").await;
}

#[tokio::test]
async fn rights_that_are_missing_are_told_and_waited_for() {
    let api = Fake::start().await;
    api.put(Some("first"));
    api.set_mood(Mood::Refusing(403));
    let mut finds = Finds::of(&api);
    let found = finds.until(|_| true).await;
    let told = |text: &str| text.contains("shop/demo-live") && text.contains("forbidden");
    assert!(matches!(&found, Found::Unreachable(text) if told(text)), "{found:?}");
    api.set_mood(Mood::Good);
    finds.text("first").await;
}

#[tokio::test]
async fn pauses_between_tries_are_capped() {
    let api = Fake::start().await;
    api.set_mood(Mood::Refusing(503));
    let mut finds = Finds::of(&api);
    let began = Instant::now();
    for _ in 0..10 {
        finds.until(|found| matches!(found, Found::Unreachable(_))).await;
    }
    let (took, most) = (began.elapsed(), timing().longest_pause * 10);
    assert!(took < most + Duration::from_secs(1), "{took:?}");
    // And not a busy loop.
    assert!(took > timing().longest_pause, "{took:?}");
}
