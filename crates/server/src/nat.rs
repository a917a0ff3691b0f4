//! A way out for machines on a network of their own: forwarding, and masquerade through nftables.
//!
//! Everything is in one table, `ip bugler`, that belongs to this server: it is replaced as a whole
//! and taken away at the end. A server that was killed leaves its table behind; the next one replaces
//! it. The table also keeps whether the host forwarded packets before, so that this is known however
//! the earlier server ended, and forgotten when the host restarts.

use anyhow::{Context, Result, bail};
use bugler_dhcp::Network;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

/// The table's name, in the family `ip`.
const TABLE: &str = "bugler";

/// An empty chain of this name: the host did not forward packets before.
const WAS_OFF: &str = "forwarding_was_off";

/// Whether the kernel forwards IPv4 packets between interfaces (ip-sysctl.txt).
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// One network with a way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// The interface that machines are on.
    pub(crate) inside: String,
    /// Their networks: that of the interface, and those behind relays.
    pub(crate) networks: Vec<Network>,
    /// The interface that leads out.
    pub(crate) outside: String,
}

/// The rules that are in force. Dropping it takes them away.
#[derive(Debug, Default)]
pub(crate) struct Nat {
    rules: Vec<Rule>,
    /// Whether this server switched forwarding on.
    switched_on: bool,
}

impl Nat {
    /// Takes away what a server that was killed left behind, where there is something.
    pub(crate) fn new() -> Self {
        let mut nat = Self::default();
        if let Some(table) = table() {
            nat.switched_on = table.contains(WAS_OFF);
            nat.clear();
        }
        nat
    }

    /// Puts these rules in the place of those in force.
    ///
    /// # Errors
    /// Where forwarding cannot be switched on, or nftables refuses.
    pub(crate) fn apply(&mut self, rules: &[Rule]) -> Result<()> {
        if self.rules == rules {
            return Ok(());
        }
        if rules.is_empty() {
            self.clear();
            return Ok(());
        }
        let forwards = forwarding()?;
        let was_off = self.switched_on || !forwards;
        // The table first: it says how to come back.
        nft(&script(rules, was_off)).context("could not set up NAT")?;
        self.rules = rules.to_vec();
        if was_off {
            self.switched_on = true;
            set_forwarding(true)?;
        }
        Ok(())
    }

    /// Takes everything away.
    fn clear(&mut self) {
        if let Err(error) = nft(&format!("add table ip {TABLE}\ndelete table ip {TABLE}\n")) {
            tracing::error!("the rules of NAT stay behind: {error:#}");
        }
        self.rules.clear();
        if std::mem::take(&mut self.switched_on)
            && let Err(error) = set_forwarding(false)
        {
            tracing::error!("this host goes on forwarding packets: {error:#}");
        }
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        if !self.rules.is_empty() || self.switched_on {
            self.clear();
        }
    }
}

/// The whole table. nft applies it at once or not at all.
fn script(rules: &[Rule], was_off: bool) -> String {
    let mut text = format!("add table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n");
    if was_off {
        let _ = writeln!(text, "chain {WAS_OFF} {{ }}");
    }
    text += "chain postrouting {\ntype nat hook postrouting priority srcnat; policy accept;\n";
    for rule in rules {
        let _ = writeln!(
            text,
            "ip saddr {{ {} }} oifname \"{}\" masquerade",
            list(&rule.networks),
            rule.outside
        );
    }
    text += "}\n";
    if was_off {
        // The host was no router. Now it is one for these networks, and for nobody else.
        text += "chain forward {\ntype filter hook forward priority filter; policy drop;\n\
                 ct state established,related accept\n";
        for rule in rules {
            let _ = writeln!(
                text,
                "iifname \"{}\" ip saddr {{ {} }} oifname \"{}\" accept",
                rule.inside,
                list(&rule.networks),
                rule.outside
            );
        }
        text += "}\n";
    }
    text += "}\n";
    text
}

fn list(networks: &[Network]) -> String {
    let all: Vec<String> = networks.iter().map(Network::to_string).collect();
    all.join(", ")
}

/// The table as it is, where there is one. A host without nftables has none.
fn table() -> Option<String> {
    let output = Command::new("nft")
        .args(["list", "table", "ip", TABLE])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn nft(script: &str) -> Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("could not run nft: install the package nftables")?;
    if let Some(mut input) = child.stdin.take() {
        // A program that ends early has said why.
        let _ = input.write_all(script.as_bytes());
    }
    let output = child
        .wait_with_output()
        .context("could not wait for nft to end")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "nft refused the table ip {TABLE}: {}. It needs root or CAP_NET_ADMIN, and a kernel with \
             nf_tables and nft_masq",
            said.lines().next().unwrap_or_default().trim()
        );
    }
    Ok(())
}

fn forwarding() -> Result<bool> {
    let text = std::fs::read_to_string(FORWARDING)
        .with_context(|| format!("could not read {FORWARDING}"))?;
    Ok(text.trim() != "0")
}

fn set_forwarding(on: bool) -> Result<()> {
    std::fs::write(FORWARDING, if on { "1\n" } else { "0\n" }).with_context(|| {
        format!(
            "could not write {FORWARDING}: run as root, or switch forwarding on yourself with \
             `sysctl -w net.ipv4.ip_forward=1`"
        )
    })
}

/// Whether there is an interface of this name.
pub(crate) fn is_there(interface: &str) -> bool {
    std::fs::read_to_string("/proc/self/net/dev").is_ok_and(|table| {
        let mut names = table.lines().filter_map(|line| line.split_once(':'));
        names.any(|(name, _)| name.trim() == interface)
    })
}

/// The name servers that this host uses and machines behind it can reach as well, best first.
pub(crate) fn resolvers() -> Vec<Ipv4Addr> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let own = name_servers(&read("/etc/resolv.conf"));
    if !own.is_empty() {
        return own;
    }
    // There stands the address of systemd's resolver on this host; here those that it asks.
    name_servers(&read("/run/systemd/resolve/resolv.conf"))
}

/// The IPv4 name servers of a resolv.conf(5), without those that only their own host reaches.
fn name_servers(text: &str) -> Vec<Ipv4Addr> {
    let mut found = vec![];
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let address = words.next().and_then(|word| word.parse::<Ipv4Addr>().ok());
        if let Some(address) = address
            && !address.is_loopback()
            && !address.is_unspecified()
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> Rule {
        let network = |third| Network {
            address: [10, 0, third, 1].into(),
            prefix: 24,
        };
        Rule {
            inside: "eth1".into(),
            networks: vec![network(0), network(7)],
            outside: "eth0".into(),
        }
    }

    #[test]
    fn a_host_that_was_no_router_becomes_one_for_these_networks_alone() {
        let text = script(&[rule()], true);
        assert!(text.contains("chain forwarding_was_off { }"));
        assert!(text.contains("ip saddr { 10.0.0.0/24, 10.0.7.0/24 } oifname \"eth0\" masquerade"));
        assert!(text.contains("policy drop"));
        let text = script(&[rule()], false);
        assert!(!text.contains("forward"), "{text}");
    }

    #[test]
    fn resolvers_that_only_their_host_reaches_are_left_out() {
        let text = "# by systemd\nnameserver 127.0.0.53\noptions edns0\n";
        assert_eq!(name_servers(text), Vec::<Ipv4Addr>::new());
        let text = "search a b\nnameserver 10.0.0.2\nnameserver fe80::1%eth0\nnameserver ::1\n\
                    nameserver 10.0.0.3 # second\nnameserver 10.0.0.2\nnameserver\n";
        assert_eq!(
            name_servers(text),
            [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)]
        );
    }

    #[test]
    fn interfaces_are_found_by_name() {
        assert!(is_there("lo"));
        assert!(!is_there("l"));
    }
}
