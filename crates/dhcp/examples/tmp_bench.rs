use bugler_boot::*; use bugler_dhcp::*; use bugler_model::*; use std::time::*; use std::net::*;
struct W; impl Advisor for W { fn advise(&self, f: &ClientFacts, _: Ask<'_>) -> BootPlan { plan(f, None) } }
fn main() {
  let a: Ipv4Addr = [10,0,0,1].into();
  let mut s = Subnet::new(Network { address: a, prefix: 8 }); s.pools = vec![Pool { first: [10,1,0,0].into(), last: [10,3,255,255].into() }];
  let mut m = Machine::new(Identity { interface: "x".into(), address: a, mtu: 1500, http_port: 1 }, Mode::Full, vec![s], vec![]).unwrap();
  let n = 100_000u32; let mut up = Duration::from_secs(1); let mut out = vec![];
  let mk = |i: u32, t: u8, ip: Option<Ipv4Addr>| { let [p,q,r,z] = i.to_be_bytes(); let mut k = Packet::new(Op::Request, i, MacAddr([2,0,p,q,r,z])); k.options.push(53,&[t]);
    if let Some(ip) = ip { k.options.push_address(54, a); k.options.push_address(50, ip); }
    k.options.push(60, b"PXEClient:Arch:00007:UNDI:003016"); k.options.push(93, &[0,7]); k.options.push(97, &[0;17]); k.options.push(55, &[1,3,6,12,15,28,42,43,60,66,67]); k.encode(548).bytes };
  let ing = Ingress { port: 67, source: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68), destination: Ipv4Addr::BROADCAST };
  for round in 0..3 {
    let mut spent = Duration::ZERO; let mut bytes = 0;
    for chunk in 0..n/1000 {
      let disc: Vec<_> = (0..1000).map(|i| mk(chunk*1000+i, 1, None)).collect();
      let mut offers = vec![];
      let t = Instant::now();
      for d in &disc { let p = Packet::decode(d).unwrap(); m.handle(Now { wall: Timestamp(up.as_millis() as i64), up }, ing, &p, &W, &mut out); }
      for _ in 0..3 { up += Duration::from_millis(250); m.on_deadline(Now { wall: Timestamp(up.as_millis() as i64), up }, &mut out); }
      for o in out.drain(..) { if let Output::Send(t) = o { bytes += t.packet.encode(t.limit).bytes.len(); offers.push((t.packet.xid, t.packet.yiaddr)); } }
      spent += t.elapsed();
      assert_eq!(offers.len(), 1000);
      let req: Vec<_> = offers.iter().map(|(x, ip)| mk(*x, 3, Some(*ip))).collect();
      let t = Instant::now();
      for d in &req { let p = Packet::decode(d).unwrap(); m.handle(Now { wall: Timestamp(up.as_millis() as i64), up }, ing, &p, &W, &mut out); }
      for o in out.drain(..) { if let Output::Commit { then: Some(t), .. } = o { bytes += t.packet.encode(t.limit).bytes.len(); } }
      spent += t.elapsed();
    }
    println!("round {round}: {:.2} us an exchange ({bytes} bytes)", spent.as_secs_f64() * 1e6 / f64::from(n));
  }
  let big: Vec<u8> = { let mut b = mk(1,1,None); b.truncate(240); b.extend(std::iter::repeat_n([77u8,0], 800).flatten()); b };
  let t = Instant::now(); for _ in 0..1000 { std::hint::black_box(Packet::decode(&big).unwrap()); } println!("worst 1840 bytes: {:.2} us", t.elapsed().as_secs_f64()*1e3);
}
