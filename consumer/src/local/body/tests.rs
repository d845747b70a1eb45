use std::net::SocketAddr;

use axum::Router;
use axum::routing::post;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::http::{Limits, serve};

/// Far longer than any limit here.
const SOON: Duration = Duration::from_secs(30);

/// Takes bodies at `/`, and reads none at `/unread`.
async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bodies = Bodies::default();
    let take = move |headers: HeaderMap, body: Body| {
        let bodies = bodies.clone();
        async move {
            match bodies.receive(&headers, body).await {
                Ok(received) => (StatusCode::OK, received.bytes.len().to_string()),
                Err(refusal) => (refusal.status, refusal.reason),
            }
        }
    };
    let router = Router::new()
        .route("/", post(take))
        .route("/unread", post(|| async { (StatusCode::UNSUPPORTED_MEDIA_TYPE, "not read") }))
        .layer(axum::middleware::from_fn(discard_refused));
    let limits = Limits { connections: 4, patience: SOON };
    tokio::spawn(serve(listener, router, limits, CancellationToken::new()));
    address
}

/// Sends head and body, as a client does that reads its answer after it has sent all.
async fn answer(address: SocketAddr, head: &str, body: &[u8]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("{head}host: x\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    stream.write_all(body).await?;
    let mut answer = String::new();
    tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await??;
    Ok(answer)
}

#[tokio::test]
async fn whoever_is_refused_hears_it_after_all_was_sent() {
    let address = server().await;
    for (request, length, status) in [
        ("POST / ", 1 << 20, 200),
        ("POST / ", 6 << 20, 413),
        ("POST /unread ", 30 << 20, 415),
        ("POST /nowhere ", 30 << 20, 404),
        ("PUT / ", 30 << 20, 405),
    ] {
        let head = format!("{request}HTTP/1.1\r\ncontent-length: {length}\r\n");
        let answer = answer(address, &head, &vec![b' '; length]).await.expect(request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
    }
    let head = format!("POST / HTTP/1.1\r\ncontent-encoding: snappy\r\ncontent-length: {MAX_BODY}\r\n");
    let answer = answer(address, &head, &vec![b' '; MAX_BODY]).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 415"), "{answer}");
}

#[tokio::test]
async fn a_client_that_asks_first_need_not_send_what_is_refused() {
    let address = server().await;
    for (request, length, status) in
        [("POST / ", MAX_BODY + 1, 413), ("POST /unread ", 10, 415), ("POST /nowhere ", 10, 404)]
    {
        let head = format!("{request}HTTP/1.1\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n");
        let answer = answer(address, &head, b"").await.expect(request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
    }
    let head = "POST / HTTP/1.1\r\ncontent-length: 2\r\nexpect: 100-continue\r\n";
    let answer = answer(address, head, b"ab").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 100") && answer.ends_with("\r\n2"), "{answer}");
}
