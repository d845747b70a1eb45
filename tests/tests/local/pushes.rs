//! What is pushed to `sluice local`: what it takes, what it refuses and how it says so.

use std::collections::HashSet;
use std::io::Write;
use std::net::Ipv4Addr;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http_body_util::Full;
use hyper::Request;
use sluice_consumer::loadgen::encode::message;
use sluice_consumer::loadgen::shop::Shop;
use sluice_crds::v1alpha1::Format;
use sluice_tests::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::place::{Headers, JSON, PROTO, Place, SOON, call, client};

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
        assert!(!answer.body.is_empty(), "{path} {headers:?}: no reason");
    }
    for (path, status) in [("/api/v1/spans", 404), ("/", 404), ("/api/v2/spans", 405)] {
        let answer = place.get(&client, path).await?;
        assert_eq!(answer.status, status, "{path}");
        for served in ["POST /api/v2/spans", "POST /v1/traces", "/api/v2/trace/{traceId}", "GET /health"] {
            assert!(answer.text().contains(served), "{path}: {}", answer.text());
        }
        assert_eq!(answer.headers.contains_key("allow"), status == 405, "{path}");
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
