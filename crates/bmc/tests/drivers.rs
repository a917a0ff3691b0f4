//! The drivers that are no BMC.

use bugler_bmc::power::{
    Action, Boot, Command, Device, Manual, Outcome, PowerDriver, State, Wake, Webhook,
};
use bugler_bmc::{Error, Secret};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_packet_that_wakes_has_the_address_sixteen_times() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mac = [0x52, 0x54, 0, 1, 2, 3];
    let wake = Wake::new(mac, socket.local_addr().unwrap());
    let outcome = wake.power(Action::On).await.unwrap();
    assert!(matches!(outcome, Outcome::Unconfirmed(_)), "{outcome}");
    let mut buffer = [0; 200];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(length, 102);
    assert_eq!(buffer[..6], [0xff; 6]);
    assert!(buffer[6..102].chunks(6).all(|part| part == mac));
    let error = wake.power(Action::Off).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Wake-on-LAN cannot do off: use a driver that can for this"
    );
    assert_eq!(wake.state().await.unwrap(), State::Unknown);
}

/// A program that writes its arguments down, one a line. It is for a shell to read: to run it itself fails
/// with "text file busy" while a process that another test is just starting has it open for writing.
fn script(dir: &tempfile::TempDir, body: &str) -> String {
    let path = dir.path().join("power");
    let log = dir.path().join("log");
    let text = format!("printf '%s\\n' \"$@\" >> {}\n{body}\n", log.display());
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn a_command_gets_its_arguments_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let program = script(&dir, "test \"$1\" != status || echo ON");
    let hostile = "a b; rm -rf $HOME `id` * '\"";
    let command = Command::new("sh", [&program, "{action}", "{device}", hostile], LIMIT)
        .with_status()
        .with_boot();
    assert_eq!(command.power(Action::Cycle).await.unwrap(), Outcome::Done);
    assert_eq!(command.state().await.unwrap(), State::On);
    let boot = Boot {
        device: Device::Disk,
        persistent: false,
        efi: false,
    };
    command.set_boot(boot).await.unwrap();
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(
        lines,
        [
            "cycle", "", hostile, "status", "", hostile, "boot", "disk", hostile
        ]
    );
}

#[tokio::test]
async fn a_command_that_fails_or_hangs_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let program = script(&dir, "echo 'outlet 7: no such outlet' >&2\nexit 3");
    let command = Command::new("sh", [&program, "{action}"], LIMIT);
    let error = command.power(Action::On).await.unwrap_err().to_string();
    assert!(
        error.ends_with("for on failed: exit status: 3, and it printed: outlet 7: no such outlet"),
        "{error}"
    );
    let limit = Duration::from_millis(300);
    let command = Command::new("sleep", ["600"], limit);
    let start = Instant::now();
    let error = command.power(Action::Reset).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "the command \"sleep\" for reset failed: it took longer than 0.3 s and was killed; what it \
         does may have happened"
    );
    assert!(start.elapsed() < Duration::from_secs(300));
    let error = Command::new("/no/such/program", ["x"], LIMIT)
        .power(Action::On)
        .await
        .unwrap_err();
    println!("{error}");
    // What it leaves running keeps nobody waiting.
    let pid = dir.path().join("pid");
    let body = format!("sleep 600 & echo $! > {}\necho on", pid.display());
    let program = script(&dir, &body);
    let command = Command::new("sh", [&program, "{action}"], LIMIT).with_status();
    assert_eq!(command.state().await.unwrap(), State::On);
    let pid = std::fs::read_to_string(pid).unwrap();
    let pid = pid.trim();
    assert!(Path::new("/proc").join(pid).exists(), "it was waited for");
    let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Answers one request; tells what it was.
fn answer(status: &'static str) -> (String, thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!(
        "http://{}/power/{{action}}?key=x",
        listener.local_addr().unwrap()
    );
    let thread = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            reader.read_line(&mut head).unwrap();
        }
        let length = head
            .to_ascii_lowercase()
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
            .unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let text =
            format!("HTTP/1.1 {status}\r\nContent-Length: 4\r\nConnection: close\r\n\r\nsaid");
        reader.get_mut().write_all(text.as_bytes()).unwrap();
        head + &String::from_utf8(body).unwrap()
    });
    (url, thread)
}

#[tokio::test]
async fn a_webhook_is_called_and_believed_by_its_status() {
    let (url, server) = answer("204 No Content");
    let hook = Webhook::new(url, LIMIT).with_token(Secret::new("hush"));
    assert_eq!(hook.power(Action::Off).await.unwrap(), Outcome::Done);
    let heard = server.join().unwrap();
    assert!(
        heard.starts_with("POST /power/off?key=x HTTP/1.1"),
        "{heard}"
    );
    assert!(
        heard
            .to_ascii_lowercase()
            .contains("authorization: bearer hush"),
        "{heard}"
    );
    assert!(heard.ends_with("{\"action\":\"off\"}"), "{heard}");
    assert!(!format!("{hook:?}").contains("hush"));

    let (url, server) = answer("500 Internal Server Error");
    let error = Webhook::new(url, LIMIT)
        .power(Action::On)
        .await
        .unwrap_err();
    server.join().unwrap();
    let text = error.to_string();
    assert!(matches!(error, Error::Webhook { .. }));
    assert!(
        text.contains("it answered 500 Internal Server Error said"),
        "{text}"
    );
    assert!(!text.contains("key=x"), "{text}");
}

#[tokio::test]
async fn a_person_is_told_what_to_press() {
    let manual = Manual {
        machine: "node7 (rack 2)".to_owned(),
    };
    let outcome = manual.power(Action::On).await.unwrap();
    assert_eq!(
        outcome.to_string(),
        "press the power button of node7 (rack 2)"
    );
    assert!(manual.power(Action::Diag).await.is_err());
}
