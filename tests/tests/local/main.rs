//! `sluice local` from outside: the built binary, its HTTP, its files, its death. Needs nothing but cargo.

mod demo;
mod end;
mod place;
mod pushes;
mod slow;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use sluice_tests::component::{Component, Launch};
use sluice_tests::disk::Disk;
use sluice_tests::eventually;
use sluice_tests::sluice::binary;
use tokio::task::JoinSet;

use place::{JSON, Place, SOON, client, spans};

#[tokio::test]
async fn kill_9_loses_nothing_that_was_acknowledged_and_doubles_nothing() -> anyhow::Result<()> {
    const POSTERS: u64 = 8;
    const SPANS: usize = 3;
    let place = Arc::new(Place::new()?);
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let mut sluice = place.start("life-0", &[]).await?;
    for life in 0..3u64 {
        let mut posters = JoinSet::new();
        for poster in 0..POSTERS {
            let (place, acknowledged) = (place.clone(), acknowledged.clone());
            posters.spawn(async move {
                let client = client();
                for number in 0.. {
                    let trace = format!("{:016x}{number:016x}", life << 8 | poster);
                    let posted = place.post(&client, "/api/v2/spans", JSON, spans(&trace, SPANS)).await;
                    // From the kill on, nobody answers.
                    if !posted.is_ok_and(|answer| answer.status == 202) {
                        break;
                    }
                    acknowledged.lock().unwrap().push(trace);
                }
            });
        }
        let enough = (life as usize + 1) * 400;
        eventually("posts to be acknowledged", SOON, async || {
            Ok((acknowledged.lock().unwrap().len() >= enough).then_some(()))
        })
        .await?;
        sluice.kill().await?;
        while posters.join_next().await.transpose()?.is_some() {}
        sluice = place.start(&format!("life-{}", life + 1), &[]).await?;
    }
    place.set_rate(1_000_000)?;
    let expected: HashSet<_> = acknowledged
        .lock()
        .unwrap()
        .iter()
        .flat_map(|trace| (1..=SPANS).map(move |id| (trace.clone(), format!("{id:016x}"))))
        .collect();
    let mut missing = usize::MAX;
    let stored = eventually("everything acknowledged to be stored", SOON, async || {
        let rows = place.rows().await?;
        missing = expected.iter().filter(|span| !rows.contains_key(*span)).count();
        Ok((missing == 0).then_some(rows))
    })
    .await;
    let rows = stored.with_context(|| format!("{missing} of {} are missing", expected.len()))?;
    let doubled: Vec<_> = rows.iter().filter(|(_, count)| **count > 1).collect();
    ensure!(doubled.is_empty(), "stored twice: {doubled:?}");
    Ok(())
}

#[tokio::test]
async fn a_fresh_folder_stores_a_trace_and_gives_it_back_in_both_forms() -> anyhow::Result<()> {
    let place = Place::new()?;
    let began = Instant::now();
    let mut sluice = place.start("first", &[]).await?;
    let (client, trace) = (client(), "463ac35c9f6413ad48485a3953bb6124");
    let health = place.get(&client, "/health").await?;
    assert_eq!(health.headers["content-type"], "application/json");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&health.body)?["status"], "UP");
    let posted = place.post(&client, "/api/v2/spans", JSON, spans(trace, 2)).await?;
    assert_eq!(posted.status, 202, "{}", posted.text());
    let zipkin = eventually("the trace to be stored", SOON, async || {
        let answer = place.get(&client, &format!("/api/v2/trace/{trace}")).await?;
        Ok((answer.status == 200).then_some(answer))
    })
    .await?;
    println!("first trace stored and read {:?} after the start", began.elapsed());
    assert_eq!(zipkin.text(), spans(trace, 2), "bodies are verbatim");

    let upper = place.get(&client, &format!("/api/v2/trace/{}", trace.to_uppercase())).await?;
    assert_eq!(upper.status, 200, "Zipkin's ids know no case");
    let rows = place.get(&client, &format!("/api/v1/traces/{trace}")).await?;
    let rows: serde_json::Value = serde_json::from_slice(&rows.body)?;
    assert_eq!((&rows["traceId"], &rows["answeredBy"]), (&trace.into(), &"database".into()));
    assert_eq!(rows["spans"].as_array().map(Vec::len), Some(2));
    assert!(rows["spans"][0]["id"].is_string() && rows["spans"][0]["createdAt"].is_string(), "{rows}");
    assert_eq!(rows["spans"][1]["body"]["id"], "0000000000000002");
    for (path, status) in [
        ("/api/v2/trace/abc", 404),
        ("/api/v1/traces/abc", 404),
        (&*format!("/api/v1/traces/{}", "a".repeat(65)), 400),
        (&*format!("/api/v2/trace/{}", "a".repeat(65)), 400),
    ] {
        assert_eq!(place.get(&client, path).await?.status, status, "{path}");
    }
    sluice.stop(SOON).await
}

#[tokio::test]
async fn a_trace_of_any_size_is_answered_with_as_much_as_memory_bears() -> anyhow::Result<()> {
    let place = Place::new()?;
    let mut sluice = place.start("first", &[]).await?;
    let (client, trace) = (client(), "463ac35c9f6413ad48485a3953bb6124");
    let large = |number: u64| {
        let name = "x".repeat(3 << 20);
        format!(r#"[{{"traceId":"{trace}","id":"{number:016x}","name":"{name}"}}]"#)
    };
    for number in 1..=8 {
        let posted = place.post(&client, "/api/v2/spans", JSON, large(number)).await?;
        assert_eq!(posted.status, 202, "{}", posted.text());
    }
    eventually("all to be stored", SOON, async || Ok((place.rows().await?.len() == 8).then_some(()))).await?;
    let rows = place.get(&client, &format!("/api/v1/traces/{trace}")).await?;
    let rows: serde_json::Value = serde_json::from_slice(&rows.body)?;
    assert_eq!((&rows["truncated"], rows["spans"].as_array().map(Vec::len)), (&true.into(), Some(6)));
    let zipkin = place.get(&client, &format!("/api/v2/trace/{trace}")).await?;
    assert_eq!(zipkin.status, 200);
    sluice.stop(SOON).await
}

#[tokio::test]
async fn another_topic_in_the_pipeline_file_stores_nothing_twice() -> anyhow::Result<()> {
    let place = Place::new()?;
    let client = client();
    let file = place.data().join("pipeline.yaml");
    for (start, trace) in ["463ac35c9f6413ad", "463ac35c9f6413ae"].into_iter().enumerate() {
        let mut sluice = place.start(&format!("start-{start}"), &[]).await?;
        let posted = place.post(&client, "/api/v2/spans", JSON, spans(trace, 3)).await?;
        assert_eq!(posted.status, 202, "{}", posted.text());
        let stored = eventually("the new trace to be stored", SOON, async || {
            let rows = place.rows().await?;
            Ok((rows.len() == 3 * (start + 1)).then_some(rows))
        });
        assert!(stored.await?.values().all(|&count| count == 1), "stored twice");
        sluice.stop(SOON).await?;
        let renamed = std::fs::read_to_string(&file)?.replace("topic: spans", "topic: renamed");
        assert!(renamed.contains("topic: renamed"), "{renamed}");
        std::fs::write(&file, renamed)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_pipeline_whose_format_cannot_be_pushed_does_not_start() -> anyhow::Result<()> {
    let place = Place::new()?;
    place.start("first", &[]).await?.stop(SOON).await?;
    let file = place.data().join("pipeline.yaml");
    let text = std::fs::read_to_string(&file)?.replace("format: Auto", "format: JaegerProto");
    std::fs::write(&file, text)?;
    let mut sluice = place.launch("refused", &[])?;
    assert_eq!(sluice.ended(SOON).await?, 1);
    let log = sluice.log_tail(20);
    assert!(log.contains("JaegerProto") && log.contains("set format to Auto in"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_second_process_on_the_same_folder_is_refused_and_told_why() -> anyhow::Result<()> {
    let place = Place::new()?;
    let first = place.start("first", &[]).await?;
    let mut second = place.launch("second", &[])?;
    assert_eq!(second.ended(SOON).await?, 1);
    let log = second.log_tail(200);
    assert!(log.contains("in use by another sluice") && log.contains(&first.pid().to_string()), "{log}");
    Ok(())
}

#[tokio::test]
async fn loadgen_accounts_for_every_span_and_fails_when_one_is_not_taken() -> anyhow::Result<()> {
    let place = Place::new()?;
    let _sluice = place.start("target", &[]).await?;
    place.set_rate(1_000_000)?;
    let ledger = place.dir.path().join("ledger");
    let run = |url: String, traces: &str, rate: &str| {
        let arguments = ["loadgen", "--http", &url, "--traces", traces, "--rate", rate, "-o", "json"]
            .into_iter()
            .chain(["--format", "OtlpProto", "--ledger", ledger.to_str().unwrap()])
            .map(str::to_owned)
            .collect();
        let log = place.dir.path().join("loadgen.log");
        Component::start("loadgen", &Launch { program: binary()?, arguments, environment: Vec::new(), log })
    };
    let url = format!("http://127.0.0.1:{}", place.http);
    let mut refused = run(format!("{url}/nowhere"), "300", "0")?;
    assert_eq!(refused.ended(SOON).await?, 1);
    assert!(refused.log_tail(200).contains("were not acknowledged"), "{}", refused.log_tail(200));

    // A few traces a second: by far not all that is asked for. The next run sends the same ones again.
    let mut cut_short = run(url.clone(), "100000", "100")?;
    eventually("spans to be taken", SOON, async || Ok((!place.rows().await?.is_empty()).then_some(())))
        .await?;
    cut_short.signal(Signal::SIGINT)?;
    assert_eq!(cut_short.ended(SOON).await?, 1);
    assert!(cut_short.log_tail(200).contains("stopped before everything was sent"));

    let mut taken = run(url, "300", "0")?;
    assert_eq!(taken.ended(SOON).await?, 0, "{}", taken.log_tail(5));
    let expected: HashSet<_> = std::fs::read_to_string(&ledger)?
        .lines()
        .filter_map(|line| line.split_once(' ').map(|(trace, id)| (trace.to_owned(), id.to_owned())))
        .collect();
    assert!(expected.len() > 300);
    let rows = eventually("every span to be stored", SOON, async || {
        let rows = place.rows().await?;
        Ok((rows.len() >= expected.len()).then_some(rows))
    })
    .await?;
    assert_eq!(rows.into_keys().collect::<HashSet<_>>(), expected);
    Ok(())
}

/// Database and queue share the disk: what the queue took of it last, the database could not store.
async fn full_disk() -> anyhow::Result<()> {
    let place = Place::new()?;
    // Both write into logs first, of which the queue keeps 64 MiB.
    let _disk = Disk::mount(&place.data(), 512 << 20)?;
    let mut sluice = place.start("first", &[]).await?;
    let client = client();
    place.suspend(true)?;
    place.set_rate(100_000)?;
    // Such small spans take several times as much in the database as in the push that brings them.
    let name = "x".repeat(16);
    let mut taken = 0;
    let refusal = eventually("the disk to be full", 4 * SOON, async || {
        let span =
            |id: u64| format!(r#"{{"traceId":"{:016x}","id":"{id:016x}","name":"{name}"}}"#, taken + 1);
        let push = format!("[{}]", (1..=1_000).map(span).collect::<Vec<_>>().join(","));
        let posted = place.post(&client, "/api/v2/spans", JSON, push).await?;
        taken += if posted.status == 202 { 1_000 } else { 0 };
        Ok((posted.status == 503).then_some(posted))
    });
    let refusal = refusal.await?;
    assert!(refusal.text().contains("the disk is nearly full"), "{}", refusal.text());
    assert_eq!(refusal.headers["retry-after"], "3");
    place.suspend(false)?;
    let stored = eventually("all that was taken to be stored", 6 * SOON, async || {
        Ok((place.count().await? >= taken).then_some(()))
    });
    stored.await.with_context(|| format!("of {taken}; its log:\n{}", sluice.log_tail(20)))?;
    sluice.stop(SOON).await
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_disk_that_is_full_when_sluice_local_starts_is_waited_for() {
    let place = Place::new().unwrap();
    let disk = Disk::mount(&place.data(), 64 << 20).unwrap();
    place.start("first", &[]).await.unwrap().stop(SOON).await.unwrap();
    disk.fill().unwrap();
    waits_for_room(&place, "stopped").await.unwrap().stop(SOON).await.unwrap();
    let mut sluice = waits_for_room(&place, "patient").await.unwrap();
    disk.free().unwrap();
    place.ready(&mut sluice).await.unwrap();
    sluice.stop(SOON).await.unwrap();
}

async fn waits_for_room(place: &Place, name: &str) -> anyhow::Result<Component> {
    let mut sluice = place.launch(name, &[])?;
    eventually("it to say that it waits", SOON, async || {
        ensure!(sluice.is_running()?, "it ended; its log:\n{}", sluice.log_tail(20));
        Ok(sluice.log_tail(5).contains("the disk is full").then_some(()))
    })
    .await?;
    Ok(sluice)
}

/// It takes a minute.
mod long {
    #[tokio::test]
    #[ignore = "needs root"]
    async fn a_full_disk_under_sluice_local_refuses_pushes_and_stores_what_it_has_taken() {
        super::full_disk().await.unwrap();
    }
}
