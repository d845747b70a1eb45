//! What consumers report of a topic, as conditions that a person can act on, and mends.

use serde_json::Value;
use sluice_tests::eventually;
use sluice_tests::ledger::{Ledger, Shape};

use super::world::{START, World};
use crate::bed::condition;

/// At ten spans a second half of these take longer than an hour: each consumer has one partition, and one of them may have
/// the whole rate.
const MESSAGES: u64 = 8_000;
const RETENTION: (&str, &str) = ("retention.ms", "3600000");
/// A wrong line in the producer.
const POISON: &[u8] = b"{\"spans\":[{\"name\":\"of no trace\"}]}";

/// Waits until a condition is as it should be; gives its message.
async fn told(world: &World, type_: &str, status: &str, reason: &str) -> String {
    let what = format!("{type_} {status}, {reason}");
    let waited = eventually(&what, START, async || {
        let pipeline = world.namespace.get("tp/traces").await?;
        let expected = (status.to_owned(), reason.to_owned());
        Ok((condition(&pipeline, type_) == expected).then_some(pipeline))
    });
    let pipeline = world.namespace.explain(waited.await).await.unwrap();
    let conditions = pipeline["status"]["conditions"].as_array().unwrap();
    let found = conditions.iter().find(|condition| condition["type"] == type_).unwrap();
    found["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn an_unknown_topic_a_backlog_that_expires_and_poison_are_told_and_mended() {
    let world = World::start("troubles").await;
    let topic = format!("{}-later", world.topic);
    let mut pipeline = world.pipeline(10);
    pipeline["spec"]["source"]["kafka"]["topic"] = topic.as_str().into();
    world.apply(&pipeline).await;
    let message = told(&world, "Degraded", "True", "TopicUnknown").await;
    assert!(message.contains(&topic), "{message}");

    world.kafka.create_topic(&topic, 2, &[RETENTION]).await.unwrap();
    let ledger = Ledger::new(93, Shape::Json);
    ledger.produce(world.kafka, &topic, 0..MESSAGES, |message| (message % 2) as i32).await.unwrap();
    let message = told(&world, "Degraded", "True", "DrainExceedsRetention").await;
    assert!(message.contains("3600 s"), "{message}");
    // Nothing is broken: it is slower than somebody should want.
    assert_eq!(condition(&world.namespace.get("tp/traces").await.unwrap(), "Ready").0, "True");

    world.patch_rate(1_000_000).await;
    told(&world, "Degraded", "False", "AsExpected").await;
    told(&world, "DeadLettersGrowing", "False", "NoneLately").await;
    let sender = world.kafka.producer().unwrap();
    sender.send(&topic, 0, Some(POISON), None, None).await.unwrap();
    sender.flush().unwrap();
    told(&world, "DeadLettersGrowing", "True", "NewDeadLetters").await;
    told(&world, "Degraded", "False", "AsExpected").await;

    // As docs/operations.md has it for whoever does not reach the database.
    let pipeline = world.namespace.kubectl(&["get", "tp/traces", "--output=yaml"]).await.unwrap();
    let command = "exec -i deploy/traces-consumer -- /usr/bin/sluice dead-letters list -f -";
    let folders = "--secrets-dir /etc/sluice/secrets --data-dir /var/lib/sluice";
    let command: Vec<_> = command.split(' ').chain(folders.split(' ')).collect();
    let listed = world.namespace.kubectl_with(&command, &pipeline).await.unwrap();
    assert!(listed.contains("InvalidSpan") && listed.contains(&topic), "{listed}");

    // Each is an event as well, which `kubectl describe` shows.
    let events = ["TopicUnknown", "DrainExceedsRetention", "NewDeadLetters"];
    let recorded = eventually("the events", START, async || {
        let all = world.namespace.get("events").await?;
        let reasons: Vec<_> =
            all["items"].as_array().into_iter().flatten().map(|one| &one["reason"]).collect();
        Ok(events.iter().all(|event| reasons.contains(&&Value::from(*event))).then_some(()))
    });
    world.namespace.explain(recorded.await).await.unwrap();
    assert_eq!(world.restarts().await, 0);
    world.operator.log_is_clean(&[]).unwrap();
}
