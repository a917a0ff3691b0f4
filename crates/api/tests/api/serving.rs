//! What only a real connection shows.

use crate::lab::{Lab, MIB, pattern};
use bugler_model::{Device, Image};
use std::io;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

async fn serving(lab: &Lab) -> (std::net::SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = lab.operator.clone().merge(lab.device.clone());
    (
        address,
        tokio::spawn(bugler_api::serve(listener, router, lab.stop.clone())),
    )
}

/// Everything that comes until the connection ends.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset after the answer is an end like any other.
    let _: io::Result<usize> = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn a_connection_serves_several_requests_and_ends_with_the_server() {
    let lab = Lab::new().await;
    let (address, server) = serving(&lab).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    for _ in 0..2 {
        stream
            .write_all(b"GET /api/v1/devices HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .unwrap();
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("[]"),
            "{answer}"
        );
    }
    lab.stop.cancel();
    assert_eq!(rest(&mut stream).await, "");
    server.await.unwrap();
    // Nobody listens any more, once the programs that other tests are just starting have closed what they
    // have of this process.
    let end = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(address).await.is_ok() {
        assert!(Instant::now() < end, "somebody listens still");
    }
}

#[tokio::test]
async fn expect_100_continue_spares_a_refused_upload() {
    let lab = Lab::new().await;
    let (address, _server) = serving(&lab).await;
    let head = |name: &str| {
        format!(
            "PUT /api/v1/images/{name} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4096\r\n\
             expect: 100-continue\r\nconnection: close\r\n\r\n"
        )
    };
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head("-debian").as_bytes()).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");

    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head("other").as_bytes()).await.unwrap();
    let mut go = [0; 25];
    stream.read_exact(&mut go).await.unwrap();
    assert_eq!(&go, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&pattern(4096, "x")).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

#[tokio::test]
async fn a_refused_upload_that_is_sent_anyway_gets_to_see_the_refusal() {
    let lab = Lab::new().await;
    let (address, _server) = serving(&lab).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = 16 * MIB;
    let head = format!(
        "PUT /api/v1/images/-debian HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // As a client does that only reads once it has sent everything.
    stream.write_all(&vec![1; length]).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn an_agent_that_is_refused_in_the_middle_gets_to_see_why() {
    let lab = Lab::new().await;
    let agent = lab.agent(1).await;
    let action = serde_json::json!({"kind": "capture", "image_name": "pc"});
    let order = serde_json::json!({"action": action, "devices": [agent.id]});
    assert_eq!(lab.post("/api/v1/tasks", &order).await.status, 201);
    assert_eq!(lab.agent_get(&agent.token, "task").await.status, 200);
    let (address, _server) = serving(&lab).await;
    for (path, token, expected) in [
        ("captures/t1/chunks", agent.token.as_str(), "HTTP/1.1 400"),
        ("captures/t1/chunks", "of nobody", "HTTP/1.1 401"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let length = 64 * MIB;
        // As the agent's client: it would use the connection again, and reads only once it has sent.
        let head = format!(
            "POST /agent/v1/{path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\
             authorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // A frame that is far too long.
        stream.write_all(&vec![0xff; length]).await.unwrap();
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with(expected), "{answer:?}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_during_an_upload_leaves_nothing() {
    let lab = Lab::new().await;
    let (address, server) = serving(&lab).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head =
        "PUT /api/v1/images/debian HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&pattern(5_000_000, "x")).await.unwrap();
    drop(stream);
    // The name becomes free when the upload has been given up.
    let image = loop {
        let answer = lab.upload("debian", &pattern(512, "y")).await;
        if answer.status == 201 {
            break answer.json::<Image>();
        }
        answer.error(409);
        tokio::task::yield_now().await;
    };
    assert_eq!(image.size, 512);
    let usage = lab.state.images.usage().unwrap();
    assert_eq!((usage.chunks, usage.manifests), (1, 1));
    lab.stop.cancel();
    server.await.unwrap();
}

#[tokio::test]
async fn the_peers_address_is_known() {
    let lab = Lab::new().await;
    let (address, _server) = serving(&lab).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = "mac=52:54:00:00:00:01";
    let request = format!(
        "POST /api/register-device HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 200"));
    let devices: Vec<Device> = lab.get("/api/v1/devices").await.json();
    assert_eq!(devices[0].address, Some([127, 0, 0, 1].into()));
}
