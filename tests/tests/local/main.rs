//! `sluice local` from outside: the built binary, its HTTP, its files, its death. Needs nothing but cargo.

mod demo;
mod end;
mod place;
mod slow;

use std::collections::HashSet;
use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, ensure};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http_body_util::Full;
use hyper::Request;
use nix::sys::signal::Signal;
use sluice_consumer::loadgen::encode::message;
use sluice_consumer::loadgen::shop::Shop;
use sluice_crds::v1alpha1::Format;
use sluice_tests::component::{Component, Launch};
use sluice_tests::disk::Disk;
use sluice_tests::eventually;
use sluice_tests::sluice::binary;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use place::{Headers, JSON, PROTO, Place, SOON, call, client, spans};

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

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    packer.write_all(bytes)?;
    packer.finish()
}

#[tokio::test]
async fn otlp_is_taken_as_its_specification_says() -> anyhow::Result<()> {
    let place = Place::new()?;
    let _sluice = place.start("otlp", &[]).await?;
    let (client, traces) = (client(), Shop::new(5).traces(5));
    let packed = |encoding| [PROTO[0], ("content-encoding", encoding)];
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    zlib.write_all(&message(Format::OtlpProto, &traces[3]))?;
    let pushes: [(Headers<'_>, Vec<u8>); 5] = [
        (PROTO, message(Format::OtlpProto, &traces[0])),
        (JSON, message(Format::OtlpJson, &traces[1])),
        (&packed("gzip"), gzip(&message(Format::OtlpProto, &traces[2]))?),
        (&packed("deflate"), zlib.finish()?),
        (&packed("zstd"), zstd::encode_all(&*message(Format::OtlpProto, &traces[4]), 3)?),
    ];
    for (headers, body) in pushes {
        let answer = place.post(&client, "/v1/traces", headers, body).await?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.headers["content-type"], headers[0].1);
        assert_eq!(answer.text(), if headers[0].1 == "application/json" { "{}" } else { "" });
    }
    let expected: HashSet<_> = traces
        .iter()
        .flatten()
        .map(|span| (format!("{:032x}", span.trace_id), format!("{:016x}", span.id)))
        .collect();
    let rows = eventually("the spans to be stored", SOON, async || {
        let rows = place.rows().await?;
        Ok((rows.len() >= expected.len()).then_some(rows))
    })
    .await?;
    assert_eq!(rows.into_keys().collect::<HashSet<_>>(), expected);

    let partial = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[
        {"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331","name":"a"},
        {"spanId":"b7ad6b7169203332","name":"b"}]}]}]}"#;
    let answer = place.post(&client, "/v1/traces", JSON, partial).await?;
    let value: serde_json::Value = serde_json::from_slice(&answer.body)?;
    assert_eq!((answer.status, &value["partialSuccess"]["rejectedSpans"]), (200, &"1".into()), "{value}");
    let nothing = place.post(&client, "/v1/traces", PROTO, Vec::new()).await?;
    assert_eq!(nothing.status, 200, "an empty request is a valid one");
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_with_a_reason_and_not_queued() -> anyhow::Result<()> {
    let place = Place::new()?;
    let _sluice = place.start("refusals", &[]).await?;
    let client = client();
    let packed = |encoding| [JSON[0], ("content-encoding", encoding)];
    let bomb = vec![b' '; 100 << 20];
    // More than the window that is granted: what unpacks it would need as much.
    let mut wide = zstd::Encoder::new(Vec::new(), 1)?;
    wide.window_log(27)?;
    wide.write_all(&bomb)?;
    let large = vec![b' '; 3_900_000];
    let cases: [(&str, Headers<'_>, Vec<u8>, u16); 17] = [
        ("/api/v2/spans", JSON, b"[{\"traceId\":".to_vec(), 400),
        ("/api/v2/spans", JSON, b"[{\"id\":\"1\"}]".to_vec(), 400),
        ("/api/v2/spans", PROTO, b"\xff\xff\xff".to_vec(), 400),
        ("/api/v2/spans", &packed("gzip"), b"not gzip".to_vec(), 400),
        ("/api/v2/spans", &packed("gzip"), gzip(&bomb)?, 413),
        ("/api/v2/spans", &packed("deflate"), b"not zlib".to_vec(), 400),
        ("/api/v2/spans", &packed("zstd"), b"not zstd".to_vec(), 400),
        ("/api/v2/spans", &packed("zstd"), zstd::encode_all(&*bomb, 1)?, 413),
        ("/api/v2/spans", &packed("zstd"), wide.finish()?, 400),
        ("/api/v2/spans", JSON, vec![b' '; (4 << 20) + 1], 413),
        ("/api/v2/spans", &packed("br"), b"x".to_vec(), 415),
        ("/api/v2/spans", &[("content-type", "application/x-thrift")], b"x".to_vec(), 415),
        ("/v1/traces", JSON, b"{}x".to_vec(), 400),
        ("/v1/traces", PROTO, b"\xff\xff\xff".to_vec(), 400),
        // Refused before they are read: where a client sees a broken connection instead, it tries again for ever.
        ("/v1/traces", &packed("snappy"), large.clone(), 415),
        ("/v1/traces", &[("content-type", "text/plain")], large.clone(), 415),
        ("/v1/metrics", JSON, large, 404),
    ];
    for (path, headers, body, status) in cases {
        let answer = place.post(&client, path, headers, body).await?;
        assert_eq!(answer.status, status, "{path} {headers:?}: {}", answer.text());
        assert!(status == 404 || !answer.body.is_empty(), "{path} {headers:?}: no reason");
    }
    // A list of Zipkin's, one element of which is no span of Zipkin's: `Auto` would not know it.
    let odd = br#"[{"traceId":"1","id":"2"},{"traceId":"3"}]"#;
    let refused = place.post(&client, "/api/v2/spans", JSON, odd.to_vec()).await?;
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("every Zipkin span needs traceId and id"), "{}", refused.text());
    let refused = place.post(&client, "/v1/traces", JSON, b"{}x".to_vec()).await?;
    let value: serde_json::Value = serde_json::from_slice(&refused.body)?;
    assert_eq!(value["code"], 3, "google.rpc.Code INVALID_ARGUMENT: {value}");
    assert_eq!(place.post(&client, "/api/v2/spans", JSON, "[]").await?.status, 202, "no span is no error");
    let status = call(
        &client,
        Request::get(format!("http://127.0.0.1:{}/status", place.admin)).body(Full::default())?,
    )
    .await?;
    let status: serde_json::Value = serde_json::from_slice(&status.body)?;
    assert_eq!(status["deadLetters"], 0, "{status}");
    Ok(())
}

#[tokio::test]
async fn a_client_that_speaks_grpc_is_told_in_the_log_what_is_spoken_here() -> anyhow::Result<()> {
    let place = Place::new()?;
    let sluice = place.start("grpc", &[]).await?;
    for _ in 0..2 {
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, place.http)).await?;
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        // Closed: there is nothing that it would understand.
        let closed = tokio::time::timeout(SOON, client.read_to_end(&mut Vec::new())).await?;
        assert!(closed.is_err() || closed.is_ok_and(|answered| answered == 0));
    }
    let told = eventually("the log to tell", SOON, async || {
        let log = sluice.log_tail(200);
        Ok(log.contains("OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf").then_some(log))
    });
    let told = told.await?;
    assert_eq!(told.matches("speaks HTTP/2").count(), 1, "{told}");
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

/// It takes a minute.
mod long {
    #[tokio::test]
    #[ignore = "needs root"]
    async fn a_full_disk_under_sluice_local_refuses_pushes_and_stores_what_it_has_taken() {
        super::full_disk().await.unwrap();
    }
}
