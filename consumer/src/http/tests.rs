use std::net::SocketAddr;

use axum::body::Bytes;
use axum::routing::{get, post};

use super::*;

const SHORT: Limits = Limits { connections: 4, patience: Duration::from_millis(300) };
/// Far longer than any limit here.
const SOON: Duration = Duration::from_secs(20);

async fn server(limits: Limits) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let large = Bytes::from(vec![b'x'; 32 << 20]);
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/body", post(|_: Bytes| async { "taken" }))
        .route("/large", get(move || async move { large }));
    let stop = CancellationToken::new();
    (address, stop.clone(), tokio::spawn(serve(listener, router, limits, stop)))
}

/// What a client that sends `request` reads until the end of the connection.
async fn ask(address: SocketAddr, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    timeout(SOON, stream.read_to_end(&mut answer)).await??;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn a_head_that_comes_a_byte_at_a_time_and_an_idle_connection_are_closed() {
    let (address, _stop, _server) = server(SHORT).await;
    assert!(ask(address, GET).await.unwrap().ends_with("hello"));
    assert_eq!(ask(address, "").await.unwrap(), "", "nothing was sent");
    // Kept alive, and not used again.
    assert!(ask(address, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap().ends_with("hello"));
    let mut slow = TcpStream::connect(address).await.unwrap();
    let began = Instant::now();
    let trickle = async {
        loop {
            slow.write_all(b"G").await?;
            sleep(Duration::from_millis(20)).await;
        }
    };
    let ended: io::Result<()> = timeout(SOON, trickle).await.unwrap();
    assert!(ended.is_err() && began.elapsed() >= SHORT.patience, "{ended:?} after {:?}", began.elapsed());
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let (address, _stop, _server) = server(SHORT).await;
    let answer = ask(address, &format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(2 * BUFFER))).await;
    // Refused with the reason, or reset because more was on its way.
    assert!(
        answer.as_ref().is_ok_and(|text| text.starts_with("HTTP/1.1 431")) || answer.is_err(),
        "{answer:?}"
    );
}

#[tokio::test]
async fn more_clients_than_places_are_told_so_and_served_when_others_have_left() {
    let patient = Limits { patience: SOON, ..SHORT };
    let (address, _stop, _server) = server(patient).await;
    let mut holders = Vec::new();
    for _ in 0..patient.connections {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = b"POST /body HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n";
        stream.write_all(head).await.unwrap();
        // The server waits for the body: the connection is served, and not idle.
        stream.read_u8().await.unwrap();
        holders.push(stream);
    }
    let busy = ask(address, GET).await.unwrap();
    assert!(busy.starts_with("HTTP/1.1 503") && busy.contains("Retry-After: 3"), "{busy}");
    assert!(busy.ends_with("too many connections\n"), "{busy}");
    holders.pop();
    let served = async {
        while !ask(address, GET).await.is_ok_and(|answer| answer.ends_with("hello")) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, served).await.unwrap();
}

/// As exporters do, which send again before anybody's patience ends.
#[tokio::test]
async fn connections_that_are_kept_for_later_leave_their_places_to_who_comes() {
    let patient = Limits { patience: SOON, ..SHORT };
    let (address, _stop, _server) = server(patient).await;
    let mut kept = Vec::new();
    for _ in 0..patient.connections {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        stream.read_u8().await.unwrap();
        kept.push(stream);
    }
    for _ in 0..2 {
        let served = async {
            while !ask(address, GET).await.is_ok_and(|answer| answer.ends_with("hello")) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON / 2, served).await.expect("long before anybody's patience ends");
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_leaves_its_place_to_others() {
    let (address, stop, server) = server(SHORT).await;
    let mut greedy = Vec::new();
    for _ in 0..SHORT.connections {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        greedy.push(stream);
    }
    let served = async {
        while !ask(address, GET).await.is_ok_and(|answer| answer.ends_with("hello")) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, served).await.unwrap();
    // And a stop does not wait for them.
    stop.cancel();
    timeout(SOON, server).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_trickles_its_answer_is_closed_and_one_that_reads_it_has_all() {
    let request = "GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let (address, _stop, _patient) = server(Limits { patience: SOON, ..SHORT }).await;
    assert!(ask(address, request).await.unwrap().len() > 32 << 20);
    let (address, _stop, _server) = server(SHORT).await;
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(request.as_bytes()).await.unwrap();
    let trickle = async {
        let (mut taken, mut some) = (0, vec![0; 16 << 10]);
        loop {
            match slow.read(&mut some).await {
                Ok(0) | Err(_) => break taken,
                Ok(bytes) => taken += bytes,
            }
            // Long enough for the kernel to let a little more in each time.
            sleep(Duration::from_millis(20)).await;
        }
    };
    let taken = timeout(Duration::from_secs(60), trickle).await.unwrap();
    assert!(taken < 32 << 20, "all of it was sent, at any rate");
}
