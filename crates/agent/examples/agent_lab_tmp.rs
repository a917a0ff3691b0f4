#[path = "../tests/support/mod.rs"]
mod support;
use std::sync::Arc;
fn main() {
    let image = Arc::new(support::Image::new({
        let mut b = std::fs::read(std::env::args().nth(1).unwrap()).unwrap();
        let l = b.len().next_multiple_of(512); b.resize(l, 0); b
    }, 512));
    let server = support::Server::start_at(&image, "127.0.0.1:8480".parse().unwrap(), "first");
    server.assign(bugler_protocol::agent::Assignment { task: bugler_model::TaskId(5), action: bugler_model::TaskAction::Deploy(image.task()), attempt: 1 });
    println!("serving {}", image.name());
    loop {
        server.wait_until(|s| s.reports.last().is_some_and(|r| !r.state.is_open()));
        server.seen(|s| { for r in &s.reports { println!("{r:?}") } for l in &s.log { println!("LOG {l}") } println!("{:?}", s.registrations) });
        std::thread::sleep(std::time::Duration::from_secs(3));
        std::process::exit(0);
    }
}
