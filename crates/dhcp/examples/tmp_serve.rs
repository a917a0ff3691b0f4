use bugler_boot::*; use bugler_dhcp::*; use bugler_model::*; use std::sync::Arc;
struct W(bool);
#[async_trait::async_trait] impl LeaseLog for W { async fn commit(&self, l: Vec<Lease>) -> Result<(), String> { for l in l { println!("lease {} {} {:?} {:?}", l.address, l.mac, l.state, l.hostname); } Ok(()) } }
impl Notify for W { fn notify(&self, n: Notice) { println!("notice {n:?}"); } }
impl Advisor for W { fn advise(&self, f: &ClientFacts, a: Ask<'_>) -> BootPlan { let mut p = plan(f, None); if self.0 { p.action = BootAction::Silent } println!("advise {} {} port {} -> {:?}", f.describe(), a.message, a.port, p.action); p } }
#[tokio::main(flavor="current_thread")] async fn main() {
  let a: Vec<String> = std::env::args().collect();
  let i = Interface::find("br0").await.unwrap(); let mut s = Subnet::new(i.network);
  s.router = Some(i.address()); s.dns = vec![i.address()];
  let policy = match a[1].as_str() { "full" => Policy::Full, "proxy" => Policy::Proxy, _ => Policy::Auto };
  if a[1] != "proxy" { s.pools = vec![Pool { first: [10,77,0,100].into(), last: [10,77,0,200].into() }]; }
  let w = Arc::new(W(a.get(2).is_some()));
  let _h = Server::start(Config { interface: i, policy, subnets: vec![s], http_port: 8480, leases: vec![] }, w.clone(), w.clone(), w).unwrap();
  println!("serving"); std::future::pending::<()>().await }
